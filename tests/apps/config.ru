# The model server for Rack: the query's `do` chooses, the log tells what happened.

require "json"
require "uri"

LOG = File.open(ENV.fetch("APP_LOG"), File::WRONLY | File::APPEND | File::CREAT, 0o666)

def log(what, path = nil)
  t = Process.clock_gettime(Process::CLOCK_MONOTONIC, :nanosecond)
  LOG.syswrite(JSON.generate({ what: what, path: path, t: t, pid: Process.pid }) + "\n")
end

run(lambda do |env|
  path = env["PATH_INFO"]
  log("read", path)
  query = URI.decode_www_form(env["QUERY_STRING"]).to_h
  env["rack.input"].read
  case query["do"]
  when "exit" then Process.exit!(7)
  when "segv"
    # Another thread gets it, and takes its time: this one must not answer meanwhile.
    Process.kill(:SEGV, Process.pid)
    sleep
  when "memory"
    eaten = []
    loop { eaten << "x" * (1 << 20) }
  when "bad-head"
    io = env["rack.hijack"].call
    io.write("HTTP/1.1 200 OK\r\nBad\x01 Name: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    io.close
    next [200, {}, []]
  end
  sleep(query.fetch("ms", "0").to_f / 1000)
  log("answered", path)
  [query.fetch("status", "200").to_i, { "content-length" => "3" }, ["ok\n"]]
end)

log("loaded")

#!/usr/bin/env python3
"""Records real proxies' log lines about injected faults, with the truth of each, as test data.

Run as root: unshare -n python3 tests/logs/record.py OUT [PROXY]...
Each request's path begins with the name of its fault, so a log line says which fault it tells of.
OUT/<proxy>/ gets the logs as the proxy wrote them and truth.jsonl (path, status, cause).
"""

import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

SECRET = "token=s3cret"
WORK = "/tmp/why502-record"
os.mkdir(WORK, 0o755)


def sh(line):
    subprocess.run(line, shell=True, check=True)


# ── upstreams that misbehave ──────────────────────────────────────────────────────────────────────

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


def head_of(conn):
    data = b""
    while b"\r\n\r\n" not in data:
        more = conn.recv(65536)
        if not more:
            return data
        data += more
    return data


def reset(conn):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def serve(handler, port=0, unix=None, backlog=128):
    if unix:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(unix)
        os.chmod(unix, 0o777)
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    listener.listen(backlog)

    def loop():
        while True:
            conn, _ = listener.accept()
            threading.Thread(target=guarded, args=(handler, conn), daemon=True).start()

    threading.Thread(target=loop, daemon=True).start()
    return listener


def guarded(handler, conn):
    try:
        handler(conn)
    except (OSError, ssl.SSLError):
        pass


HELD = []


def good(conn):
    while head_of(conn):
        conn.sendall(GOOD)


def fin(conn):
    head_of(conn)
    conn.close()


def rst(conn):
    head_of(conn)
    reset(conn)


def partial(conn):
    head_of(conn)
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
    conn.close()


def hang(conn):
    head_of(conn)
    HELD.append(conn)


def unread(conn):
    HELD.append(conn)


def close_unread(conn):
    time.sleep(0.05)
    conn.close()


def garbage(conn):
    head_of(conn)
    conn.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n")
    time.sleep(0.1)
    conn.close()


def big_head(conn):
    head_of(conn)
    fields = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(100))
    conn.sendall(b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 0\r\n\r\n")
    time.sleep(0.1)
    conn.close()


def bad_head(conn):
    head_of(conn)
    conn.sendall(b"HTTP/1.1 200 OK\r\nBad\x01 Name: x\r\nContent-Length: 0\r\n\r\n")
    time.sleep(0.1)
    conn.close()


def truncated(conn):
    head_of(conn)
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart")
    time.sleep(0.2)
    conn.close()


def answers(status):
    def handler(conn):
        head_of(conn)
        conn.sendall(b"HTTP/1.1 %d Own\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        conn.close()

    return handler


def plain_400(conn):
    conn.recv(65536)
    conn.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    time.sleep(0.1)
    conn.close()


def one_then(close):
    """Answers one request on a connection, then closes it in some way when told."""

    def handler(conn):
        if not head_of(conn):
            return
        conn.sendall(GOOD)
        close(conn)

    return handler


RACE = threading.Event()


def race_close(conn):
    RACE.wait(10)
    conn.close()


def dies_on_second(conn):
    if not head_of(conn):
        return
    conn.sendall(GOOD)
    head_of(conn)
    conn.close()


def reject_body(conn):
    data = b""
    while b"\r\n\r\n" not in data:
        data += conn.recv(512)
    conn.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    conn.close()


def client_hello_then_close(conn):
    conn.recv(65536)
    conn.close()


def certificate():
    key, crt = f"{WORK}/key.pem", f"{WORK}/crt.pem"
    sh(f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {crt} -days 9 -subj /CN=other.example 2>/dev/null")
    return crt, key


def tls(minimum=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*CERTIFICATE)
    if minimum:
        context.minimum_version = minimum

    def handler(conn):
        conn = context.wrap_socket(conn, server_side=True)
        good(conn)

    return handler


CERTIFICATE = certificate()


def full_listener():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        HELD.append(filler)
    HELD.append(listener)
    time.sleep(0.1)
    return listener


def full_unix(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o777)
    listener.listen(0)
    for _ in range(3):
        filler = socket.socket(socket.AF_UNIX)
        filler.setblocking(False)
        filler.connect_ex(path)
        HELD.append(filler)
    HELD.append(listener)


def never_accepting():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(100)
    HELD.append(listener)
    return listener


def port_of(listener):
    return listener.getsockname()[1]


class Fault:
    def __init__(self, cause, target, method="GET", body=None, scheme="http", **more):
        self.cause, self.target, self.method, self.body = cause, target, method, body
        self.scheme, self.more = scheme, more


def tcp(cause, handler, **more):
    port = port_of(serve(handler))
    return Fault(cause, f"127.0.0.1:{port}", **more)


def faults():
    unix = f"{WORK}/sock"
    os.mkdir(unix)
    os.chmod(unix, 0o755)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(f"{unix}/stale")
    os.chmod(f"{unix}/stale", 0o777)
    stale.close()
    serve(good, unix=f"{unix}/denied")
    os.chmod(f"{unix}/denied", 0o700)
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram.bind(f"{unix}/datagram")
    os.chmod(f"{unix}/datagram", 0o777)
    HELD.append(datagram)
    full_unix(f"{unix}/full")
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    sh("iptables -A INPUT -p tcp --dport 9 -j DROP")
    sh("ip route add unreachable 10.99.0.0/16")
    body = b"x" * 4_000_000
    return {
        "good": tcp(None, good),
        "refused": Fault("connection_refused", f"127.0.0.1:{port_of(closed)}"),
        "unreachable": Fault("host_unreachable", "10.99.9.9:80"),
        "blackhole": Fault("connect_timeout", "127.0.0.1:9"),
        "backlog-full": Fault("tcp_accept_queue_full", f"127.0.0.1:{port_of(full_listener())}"),
        "unix-missing": Fault("unix_socket_missing", f"unix:{unix}/missing"),
        "unix-stale": Fault("unix_socket_refused", f"unix:{unix}/stale"),
        "unix-denied": Fault("unix_socket_denied", f"unix:{unix}/denied"),
        "unix-datagram": Fault("unix_socket_wrong_type", f"unix:{unix}/datagram"),
        "unix-full": Fault("unix_accept_queue_full", f"unix:{unix}/full"),
        "fin": tcp("upstream_closed_early", fin),
        "partial-head": tcp("upstream_closed_early", partial),
        "rst": tcp("upstream_reset", rst),
        "close-unread": tcp("upstream_reset", close_unread),
        "no-reply": tcp("read_timeout_no_reply", hang),
        "not-read": tcp("read_timeout_not_read", unread),
        "never-accepted": Fault(
            "read_timeout_never_accepted", f"127.0.0.1:{port_of(never_accepting())}"
        ),
        "banner": tcp("protocol_mismatch", garbage),
        "big-head": tcp("response_header_too_big", big_head),
        "bad-head": tcp("response_invalid", bad_head),
        "truncated": tcp(None, truncated),
        "answers-502": tcp("upstream_answered", answers(502)),
        "answers-503": tcp("upstream_answered", answers(503)),
        "answers-504": tcp("upstream_answered", answers(504)),
        "tls-to-plain": tcp("protocol_mismatch", plain_400, scheme="https"),
        "plain-to-tls": tcp("protocol_mismatch", tls()),
        "tls-version": tcp("tls_handshake_failed", tls(ssl.TLSVersion.TLSv1_3), scheme="https", old=True),
        "tls-certificate": tcp("tls_handshake_failed", tls(), scheme="https", verify=True),
        "tls-closed": tcp("tls_handshake_failed", client_hello_then_close, scheme="https"),
        "tls-silent": tcp("tls_handshake_failed", unread, scheme="https"),
        "body-rejected": tcp("request_body_rejected", reject_body, method="POST", body=body),
        "not-taken": tcp("send_timeout", unread, method="POST", body=body * 10),
    }


# ── the client ────────────────────────────────────────────────────────────────────────────────────


CLIENTS = itertools.count()


def request(port, path, method="GET", body=None, timeout=15, headers=(), conn=None, half=False):
    """The status, or None when the proxy closed without one."""
    own = conn is None
    if own:
        # Clients have addresses of their own.
        address = f"127.0.1.{next(CLIENTS) % 200 + 1}"
        conn = socket.create_connection(("127.0.0.1", port), timeout, (address, 0))
    lines = [
        f"{method} {path}?{SECRET} HTTP/1.1",
        "Host: shop.example",
        "User-Agent: client (secret-agent)",
        "Referer: http://referrer.example/?s3cret",
        "Authorization: Basic dXNlcjpzM2NyZXQ=",
        *headers,
    ]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    try:
        conn.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        if body is not None:
            conn.sendall(body)
    except OSError:
        pass
    if half:
        return conn
    try:
        data = b""
        while b"\r\n\r\n" not in data:
            more = conn.recv(65536)
            if not more:
                break
            data += more
            if len(data) > 5 and not data.startswith(b"HTTP/"):
                break
        return int(data.split(b" ")[1]) if data.startswith(b"HTTP/1.") else None
    except (OSError, ValueError):
        return None
    finally:
        if own:
            conn.close()


class Truth:
    def __init__(self, folder):
        self.lines = []
        self.path = f"{folder}/truth.jsonl"

    def add(self, path, status, cause, **more):
        # What the client got decides: without a 5xx nothing failed that a log must explain.
        self.lines.append({"path": path, "status": status, "cause": cause, **more})
        print("   ", path, status, cause, flush=True)

    def write(self):
        with open(self.path, "w", encoding="utf-8") as out:
            for line in self.lines:
                out.write(json.dumps(line) + "\n")


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on {port}")


STARTED = []


def start(*command, log=None, env=None):
    out = open(log, "ab") if log else subprocess.DEVNULL
    process = subprocess.Popen(
        command, stdout=out, stderr=out, env={**os.environ, "TZ": "UTC", **(env or {})},
    )
    STARTED.append(process)
    return process


def stop(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def plain_faults(port, all_faults, truth, skip=()):
    for name, fault in all_faults.items():
        if name in skip:
            continue
        for n in range(2):
            path = f"/{name}/{n}"
            status = request(port, path, fault.method, fault.body)
            truth.add(path, status, fault.cause)


FORGERIES = [
    # Newlines and quotes, encoded and plain, that would end a line or a field.
    '/forged/1%0A2026/11/21%2012:00:00%20[error]%201%231:%20*1%20connect()%20failed%20(111:%20Connection%20refused)%20while%20connecting%20to%20upstream,%20client:%206.6.6.6,%20server:%20,%20request:%20%22GET%20/forged-line%20HTTP/1.1%22,%20upstream:%20%22http://6.6.6.6:1/%22,%20host:%20%22evil%22%0A',
    # A first line that looks whole, then a forged one, then the rest of the real one.
    '/forged/6%22%20failed%20(2:%20No%20such%20file),%20client:%20127.0.0.1,%20server:%20shop.example,%20request:%20%22GET%20/x%20HTTP/1.1%22,%20host:%20%22h%22%0A'
    '2026/11/21%2012:00:00%20[error]%201%231:%20*1%20no%20live%20upstreams%20while%20connecting%20to%20upstream,%20client:%206.6.6.6,%20server:%20,%20request:%20%22GET%20/forged-line%20HTTP/1.1%22,%20host:%20%22evil%22%0A',
    # The same, filled up so that nginx cuts its line (2048 bytes) right after the forged one.
    '/forged/7%22%20failed%20(2:%20No%20such%20file),%20client:%20127.0.0.1,%20server:%20shop.example,%20request:%20%22GET%20/x%20HTTP/1.1%22,%20host:%20%22' + 'h' * 1500 + '%22%0A'
    '2026/11/21%2012:00:00%20[error]%201%231:%20*1%20no%20live%20upstreams%20while%20connecting%20to%20upstream,%20client:%206.6.6.6,%20server:%20,%20request:%20%22GET%20/forged-line%20HTTP/1.1%22,%20host:%20%22' + 'e' * 300,
    '/forged/2"%20502%20"',
    '/forged/3%1b[31m%0d%0a',
    '/forged/4\\x0a\\n\\"',
    '/forged/5",upstream:"http://6.6.6.6:1/",host:"evil',
]
FORGED_HEADERS = [
    'Referer: x", upstream: "http://6.6.6.6:1/forged", host: "evil',
    'User-Agent: x" 502 0 "-" "-"',
]


def forge(port, truth):
    for path in FORGERIES:
        status = request(port, path, headers=FORGED_HEADERS)
        truth.add(path, status, "forgery")


# ── nginx ─────────────────────────────────────────────────────────────────────────────────────────


def nginx(folder, all_faults, truth, binary=("nginx",)):
    port, work = 8080, f"{WORK}/nginx"
    os.makedirs(work, exist_ok=True)
    locations, upstreams = [], []
    for name, fault in all_faults.items():
        target = fault.target if not fault.target.startswith("unix:") else f"{fault.target}:"
        extra = ""
        if fault.more.get("old"):
            extra += "proxy_ssl_protocols TLSv1.2;"
        if fault.more.get("verify"):
            extra += f"proxy_ssl_verify on; proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;"
        if name == "not-taken":
            extra += "proxy_request_buffering off; proxy_http_version 1.1;"
        if name == "body-rejected":
            extra += "proxy_http_version 1.1;"
        locations.append(f"location /{name}/ {{ proxy_pass {fault.scheme}://{target}; {extra} }}")
    race = port_of(serve(one_then(race_close)))
    dying = port_of(serve(dies_on_second))
    dead = all_faults["refused"].target
    good_one = all_faults["good"].target
    upstreams += [
        f"upstream race {{ server 127.0.0.1:{race}; keepalive 4; }}",
        f"upstream dying {{ server 127.0.0.1:{dying}; keepalive 4; }}",
        f"upstream dead {{ server {dead}; server {all_faults['unreachable'].target}; }}",
        f"upstream saved {{ server {dead}; server {good_one} backup; }}",
        f"upstream gunicorn {{ server unix:{work}/gunicorn.sock; }}",
        f"upstream uwsgi {{ server 127.0.0.1:9190; }}",
    ]
    locations += [
        'location /keepalive-race/ { proxy_pass http://race; proxy_http_version 1.1; proxy_set_header Connection ""; }',
        'location /closes-reused/ { proxy_pass http://dying; proxy_http_version 1.1; proxy_set_header Connection ""; }',
        "location /no-live/ { proxy_pass http://dead; }",
        "location /saved/ { proxy_pass http://saved; }",
        "location /gunicorn/ { proxy_pass http://gunicorn; proxy_read_timeout 10s; }",
        "location /uwsgi/ { uwsgi_pass uwsgi; include /etc/nginx/uwsgi_params; uwsgi_read_timeout 10s; }",
        "location /returns/ { return 503; }",
        "location /limited/ { limit_req zone=one; proxy_pass http://" + good_one + "; }",
        "location /limited-conn/ { limit_conn two 1; proxy_pass http://" + all_faults["no-reply"].target + "; }",
        "location /no-name/ { resolver 127.0.0.1:5353; resolver_timeout 1s; set $name nowhere.example; proxy_pass http://$name; }",
        "location /fastcgi-http/ { fastcgi_pass " + all_faults["answers-502"].target + "; include /etc/nginx/fastcgi_params; }",
        "location /intercepted/ { proxy_pass http://" + dead + "; error_page 502 =200 /made.html; }",
        "location = /made.html { root " + work + "; }",
        "location /forged/ { root " + work + "; }",
    ]
    config = f"""
daemon off; worker_processes 1; pid {work}/pid; error_log {folder}/error.log;
events {{ worker_connections 128; }}
http {{
  log_format timed '$remote_addr:$remote_port $msec $request_time "$request" $status $upstream_addr $upstream_status '
                   '$upstream_connect_time $upstream_header_time $upstream_response_time $host';
  log_format json escape=json '{{"time":"$time_iso8601","client":"$remote_addr","user":"$remote_user","request":"$request","status":$status,"took":$request_time,"upstream":"$upstream_addr","upstream_status":"$upstream_status","host":"$host","agent":"$http_user_agent"}}';
  access_log {folder}/access.log combined;
  access_log {folder}/access-timed.log timed;
  access_log {folder}/access-json.log json;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  client_max_body_size 100m; proxy_connect_timeout 1s; proxy_read_timeout 1s; proxy_send_timeout 1s;
  limit_req_zone $server_name zone=one:1m rate=1r/m; limit_conn_zone $server_name zone=two:1m;
  {' '.join(upstreams)}
  server {{ listen 127.0.0.1:{port}; server_name shop.example; {' '.join(locations)} }}
}}
"""
    with open(f"{folder}/nginx.conf", "w") as out:
        out.write(config)
    with open(f"{work}/made.html", "w") as out:
        out.write("sorry")
    app = f"{work}/app.py"
    with open(app, "w") as out:
        out.write(APP)
    gunicorn = start("gunicorn", "-w", "1", "-t", "2", "--chdir", work, "-b", f"unix:{work}/gunicorn.sock", "app:app", log=f"{folder}/gunicorn.log")
    uwsgi = start("uwsgi-core", "--plugin", "python3", "--socket", "127.0.0.1:9190", "--master", "--processes", "1", "--harakiri", "2",
                  "--die-on-term", "--chdir", work, "--wsgi-file", "app.py", "--callable", "app", log=f"{folder}/uwsgi.log")
    process = start(*binary, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log")
    wait_for(port)
    time.sleep(1)
    plain_faults(port, all_faults, truth)
    for name, cause in (("keepalive-race", "keepalive_race"), ("closes-reused", "upstream_closed_early")):
        for n in range(2):
            RACE.clear()
            # A client that is connected already: nginx sees its request before the upstream's FIN.
            conn = socket.create_connection(("127.0.0.1", port), 5)
            request(port, f"/{name}/warm-{n}", "POST", b"x", conn=conn)
            worker = int(subprocess.check_output(["pgrep", "-P", str(process.pid)]).split()[0])
            if name == "keepalive-race":
                os.kill(worker, signal.SIGSTOP)
                request(port, f"/{name}/{n}", "POST", b"x", conn=conn, half=True)
                time.sleep(0.1)
                RACE.set()
                time.sleep(0.1)
                os.kill(worker, signal.SIGCONT)
                data = conn.recv(4096)
                status = int(data.split(b" ")[1]) if data else None
            else:
                status = request(port, f"/{name}/{n}", "POST", b"x", conn=conn)
            conn.close()
            truth.add(f"/{name}/{n}", status, cause)
    for n in range(3):
        # The first finds both servers dead, the later ones none alive.
        status = request(port, f"/no-live/{n}")
        truth.add(f"/no-live/{n}", status, "host_unreachable" if n == 0 else "no_live_upstreams")
    for n in range(2):
        truth.add(f"/saved/{n}", request(port, f"/saved/{n}"), None)
        truth.add(f"/returns/{n}", request(port, f"/returns/{n}"), "proxy_config")
        truth.add(f"/no-name/{n}", request(port, f"/no-name/{n}"), "dns_failed")
        truth.add(f"/fastcgi-http/{n}", request(port, f"/fastcgi-http/{n}"), "protocol_mismatch")
        truth.add(f"/intercepted/{n}", request(port, f"/intercepted/{n}"), "connection_refused")
    for n in range(3):
        truth.add(f"/limited/{n}", request(port, f"/limited/{n}"), "proxy_limit" if n else None)
    first = request(port, "/limited-conn/0", half=True)
    time.sleep(0.2)
    truth.add("/limited-conn/1", request(port, "/limited-conn/1"), "proxy_limit")
    first.recv(4096)
    first.close()
    truth.add("/limited-conn/0", 504, "read_timeout_no_reply")
    for server in ("gunicorn", "uwsgi"):
        for what, cause in (("slow", "worker_timeout_killed"), ("exit", "worker_crashed"), ("segv", "worker_crashed"), ("kill", "worker_killed")):
            path = f"/{server}/{what}"
            truth.add(path, request(port, path), cause)
            time.sleep(1.5)
    # The client leaves first.
    conn = request(port, "/no-reply/left", half=True)
    time.sleep(0.3)
    conn.close()
    truth.add("/no-reply/left", None, "downstream_gave_up")
    forge(port, truth)
    time.sleep(1)
    for each in (process, gunicorn, uwsgi):
        stop(each)


APP = '''
import ctypes, os, signal, time
def app(environ, start_response):
    what = environ["PATH_INFO"].rsplit("/", 1)[1]
    if what == "slow": time.sleep(8)
    if what == "exit": os._exit(7)
    if what == "segv": ctypes.string_at(0)
    if what == "kill": os.system("kill -9 %d" % os.getpid())
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
'''


def nginx_limits(folder, all_faults, truth, binary=("nginx",)):
    """Descriptors and ports that run out, in an nginx of their own."""
    port, work = 8081, f"{WORK}/nginx-limits"
    os.makedirs(work, exist_ok=True)
    good_port = port_of(serve(good))
    config = f"""
daemon off; worker_processes 1; pid {work}/pid; error_log {folder}/error.log; worker_rlimit_nofile 16;
events {{ worker_connections 64; }}
http {{
  access_log {folder}/access.log combined;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{good_port}; }} }}
}}
"""
    with open(f"{folder}/nginx.conf", "w") as out:
        out.write(config)
    process = start(*binary, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log")
    wait_for(port)
    idle = []
    for n in range(12):
        conn = socket.create_connection(("127.0.0.1", port), 5)
        idle.append(conn)
        conn.settimeout(2)
        status = request(port, f"/fds/{n}", conn=conn)
        truth.add(f"/fds/{n}", status, "proxy_fds_exhausted" if status and status >= 500 else None)
        if status is None:
            break
    for conn in idle:
        conn.close()
    time.sleep(0.3)
    sh("sysctl -q -w net.ipv4.ip_local_port_range='40000 40001' net.ipv4.tcp_tw_reuse=0")
    for n in range(5):
        conn = socket.socket()
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        conn.bind(("127.0.0.1", 30000 + n))
        conn.connect(("127.0.0.1", port))
        conn.settimeout(3)
        status = request(port, f"/ports/{n}", conn=conn, headers=["Connection: close"])
        truth.add(f"/ports/{n}", status, "ports_exhausted" if status and status >= 500 else None)
        conn.close()
    sh("sysctl -q -w net.ipv4.ip_local_port_range='32768 60999'")
    stop(process)


# ── HAProxy ───────────────────────────────────────────────────────────────────────────────────────


def haproxy(folder, all_faults, truth, binary=("haproxy",)):
    port, work = 8090, f"{WORK}/haproxy"
    os.makedirs(work, exist_ok=True)
    backends = []
    for name, fault in all_faults.items():
        target = fault.target.replace("unix:", "unix@")
        more = ""
        if fault.scheme == "https":
            more = "ssl verify none"
            if fault.more.get("old"):
                more += " ssl-max-ver TLSv1.2"
            if fault.more.get("verify"):
                more = "ssl verify required ca-file /etc/ssl/certs/ca-certificates.crt"
        backends.append(f"backend {name}\n  server s1 {target} {more}\n")
    config = f"""
global
  uid 65534
  log {work}/log.sock format rfc3164 local0
  log {work}/log5.sock format rfc5424 local0
defaults
  mode http
  log global
  option httplog
  timeout client 5s
  timeout connect 1s
  timeout server 1s
  timeout queue 500ms
  retries 1
frontend web
  bind 127.0.0.1:{port}
  http-request return status 503 if {{ path_beg /returns/ }}
  http-request deny deny_status 503 if {{ path_beg /denied/ }}
  use_backend %[path,field(2,/)]
backend queued
  server s1 {all_faults['no-reply'].target} maxconn 1
backend disabled
  server s1 {all_faults['good'].target} disabled
backend saved
  option redispatch 1
  server s1 {all_faults['refused'].target}
  server s2 {all_faults['good'].target}
{''.join(backends)}
"""
    with open(f"{folder}/haproxy.cfg", "w") as out:
        out.write(config)
    for name, kept in (("log.sock", "haproxy.log"), ("log5.sock", "haproxy-rfc5424.log")):
        sink = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sink.bind(f"{work}/{name}")
        os.chmod(f"{work}/{name}", 0o777)
        threading.Thread(target=keep_datagrams, args=(sink, f"{folder}/{kept}"), daemon=True).start()
    process = start(*binary, "-db", "-f", f"{folder}/haproxy.cfg", log=f"{work}/out")
    wait_for(port)
    plain_faults(port, all_faults, truth)
    for n in range(2):
        truth.add(f"/returns/{n}", request(port, f"/returns/{n}"), "proxy_config")
        truth.add(f"/denied/{n}", request(port, f"/denied/{n}"), "proxy_config")
        truth.add(f"/disabled/{n}", request(port, f"/disabled/{n}"), "no_live_upstreams")
        truth.add(f"/saved/{n}", request(port, f"/saved/{n}"), None)
        truth.add(f"/nowhere/{n}", request(port, f"/nowhere/{n}"), "proxy_config")
    for n in range(2):
        first = request(port, f"/queued/first-{n}", half=True)
        time.sleep(0.1)
        truth.add(f"/queued/{n}", request(port, f"/queued/{n}"), "proxy_queue_timeout")
        first.recv(4096)
        first.close()
        truth.add(f"/queued/first-{n}", 504, "read_timeout_no_reply")
    conn = request(port, "/no-reply/left", half=True)
    time.sleep(0.3)
    conn.close()
    truth.add("/no-reply/left", None, "downstream_gave_up")
    forge(port, truth)
    time.sleep(1)
    stop(process)


def keep_datagrams(sink, path):
    """What a syslog daemon writes to its file, the priority taken off the older format as it does."""
    with open(path, "ab") as out:
        while True:
            data = sink.recv(65536)
            text = data if path.endswith("5424.log") else data.split(b">", 1)[1]
            out.write(text.rstrip(b"\n") + b"\n")
            out.flush()


# ── Envoy ─────────────────────────────────────────────────────────────────────────────────────────

ISTIO = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% '
    '%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" '
    '"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
ENVOY_JSON = {
    "start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%", "duration": "%DURATION%", "authority": "%REQ(:AUTHORITY)%",
    "user_agent": "%REQ(USER-AGENT)%", "upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
}


def envoy(folder, all_faults, truth, binary=("envoy",)):
    port, work = 8100, f"{WORK}/envoy"
    os.makedirs(work, exist_ok=True)
    routes, clusters = [], []

    def cluster(name, targets, **more):
        endpoints = []
        for target in targets:
            if target.startswith("unix:"):
                address = {"pipe": {"path": target[5:]}}
            else:
                host, number = target.rsplit(":", 1)
                address = {"socket_address": {"address": host, "port_value": int(number)}}
            endpoints.append({"endpoint": {"address": address}})
        clusters.append({"name": name, "connect_timeout": "0.5s", "type": "STATIC", "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}, **more})
        routes.append({"match": {"prefix": f"/{name}/"}, "route": {"cluster": name, "timeout": "1s"}})

    for name, fault in all_faults.items():
        more = {}
        if fault.scheme == "https":
            context = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "common_tls_context": {}}
            if fault.more.get("old"):
                context["common_tls_context"]["tls_params"] = {"tls_maximum_protocol_version": "TLSv1_2"}
            if fault.more.get("verify"):
                context["common_tls_context"]["validation_context"] = {"trusted_ca": {"filename": "/etc/ssl/certs/ca-certificates.crt"}}
            more["transport_socket"] = {"name": "tls", "typed_config": context}
        cluster(name, [fault.target], **more)
    cluster("no-hosts", [])
    cluster("breaker", [all_faults["no-reply"].target], circuit_breakers={"thresholds": [{"max_connections": 1, "max_pending_requests": 1, "max_requests": 1}]})
    race = port_of(serve(one_then(lambda conn: (RACE.wait(10), conn.close()))))
    cluster("no-name", ["127.0.0.1:1"], )
    clusters[-1]["type"] = "STRICT_DNS"
    clusters[-1]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["address"] = "nowhere.example"
    routes.append({"match": {"prefix": "/returns/"}, "direct_response": {"status": 503}})
    routes.append({"match": {"prefix": "/no-cluster/"}, "route": {"cluster_header": "x-which"}})
    routes.append({"match": {"prefix": "/forged/"}, "route": {"cluster": "refused"}})

    def log(file, **how):
        value = {"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": f"{folder}/{file}", **how}
        return {"name": file, "typed_config": value}

    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "access_log": [
            log("access.log"),
            log("access-istio.log", log_format={"text_format_source": {"inline_string": ISTIO}}),
            log("access-json.log", log_format={"json_format": ENVOY_JSON}),
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }
    config = {"static_resources": {
        "listeners": [{"name": "web", "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                       "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}],
        "clusters": clusters,
    }}
    del race
    with open(f"{work}/envoy.json", "w") as out:
        json.dump(config, out)
    process = start(*binary, "-c", f"{work}/envoy.json", "--concurrency", "1", log=f"{work}/out")
    wait_for(port)
    plain_faults(port, all_faults, truth)
    for n in range(2):
        truth.add(f"/returns/{n}", request(port, f"/returns/{n}"), "proxy_config")
        truth.add(f"/no-cluster/{n}", request(port, f"/no-cluster/{n}"), "proxy_config")
        truth.add(f"/no-hosts/{n}", request(port, f"/no-hosts/{n}"), "no_live_upstreams")
        truth.add(f"/no-name/{n}", request(port, f"/no-name/{n}"), "dns_failed")
    first = request(port, "/breaker/first", half=True)
    time.sleep(0.1)
    second = request(port, "/breaker/second", half=True)
    time.sleep(0.1)
    for n in range(2):
        truth.add(f"/breaker/{n}", request(port, f"/breaker/{n}"), "proxy_queue_timeout")
    first.recv(4096)
    first.close()
    truth.add("/breaker/first", 504, "read_timeout_no_reply")
    second.recv(4096)
    second.close()
    truth.add("/breaker/second", 504, "proxy_queue_timeout")
    conn = request(port, "/no-reply/left", half=True)
    time.sleep(0.3)
    conn.close()
    truth.add("/no-reply/left", None, "downstream_gave_up")
    forge(port, truth)
    time.sleep(12)  # its logs are flushed every 10 s
    stop(process)


# ── Apache ────────────────────────────────────────────────────────────────────────────────────────


def apache(folder, all_faults, truth, binary=("apache2",)):
    port, work = 8110, f"{WORK}/apache"
    os.makedirs(work, exist_ok=True)
    lines = []
    for name, fault in all_faults.items():
        if fault.target.startswith("unix:"):
            # A full Unix queue keeps Apache waiting in connect(): nothing fails.
            url = f"unix:{fault.target[5:]}|http://{name}/"
        else:
            url = f"{fault.scheme}://{fault.target}/"
        lines.append(f"ProxyPass /{name}/ {url} retry=0")
    modules = "mpm_event proxy proxy_http proxy_balancer slotmem_shm lbmethod_byrequests authz_core ssl socache_shmcb log_config alias rewrite".split()
    have = subprocess.check_output(["apache2", "-l"], text=True)
    load = "\n".join(f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so" for m in modules if f"mod_{m}.c" not in have)
    config = f"""
{load}
ServerName localhost
User nobody
Group nogroup
Listen 127.0.0.1:{port}
PidFile {work}/pid
Mutex file:{work}
ErrorLog {folder}/error.log
LogFormat "%h %l %u %t \\"%r\\" %>s %O \\"%{{Referer}}i\\" \\"%{{User-Agent}}i\\"" combined
CustomLog {folder}/access.log combined
SSLProxyEngine on
SSLProxyCheckPeerName off
SSLProxyVerify none
ProxyTimeout 1
<Proxy https://{all_faults['tls-version'].target}>
SSLProxyProtocol TLSv1.2
</Proxy>
<Proxy https://{all_faults['tls-certificate'].target}>
SSLProxyVerify require
SSLProxyCACertificateFile /etc/ssl/certs/ca-certificates.crt
</Proxy>
<Proxy balancer://dead>
BalancerMember http://{all_faults['refused'].target}
ProxySet forcerecovery=Off
</Proxy>
ProxyPass /no-live/ balancer://dead/
ProxyPass /no-name/ http://nowhere.example/
RewriteEngine on
RewriteRule ^/returns/ - [R=503,L]
ProxyPass /forged/ http://{all_faults['refused'].target}/
{chr(10).join(lines)}
"""
    with open(f"{folder}/apache.conf", "w") as out:
        out.write(config)
    process = start(*binary, "-f", f"{folder}/apache.conf", "-DFOREGROUND", log=f"{work}/out")
    wait_for(port)
    plain_faults(port, all_faults, truth, skip=("unix-full",))
    for n in range(3):
        status = request(port, f"/no-live/{n}")
        truth.add(f"/no-live/{n}", status, "connection_refused" if n == 0 else "no_live_upstreams")
    for n in range(2):
        truth.add(f"/no-name/{n}", request(port, f"/no-name/{n}"), "dns_failed")
        truth.add(f"/returns/{n}", request(port, f"/returns/{n}"), "proxy_config")
    forge(port, truth)
    time.sleep(1)
    stop(process)


# ── Caddy ─────────────────────────────────────────────────────────────────────────────────────────


def caddy(folder, all_faults, truth, binary=("caddy",)):
    port, work = 8120, f"{WORK}/caddy"
    os.makedirs(work, exist_ok=True)
    blocks = []
    for name, fault in all_faults.items():
        target = fault.target.replace("unix:", "unix/")
        transport = "dial_timeout 1s\nresponse_header_timeout 1s\n"
        if fault.scheme == "https":
            target = f"https://{target}"
            transport += "tls\ntls_timeout 1s\n" + ("" if fault.more.get("verify") else "tls_insecure_skip_verify\n")
        blocks.append(f"handle /{name}/* {{\nreverse_proxy {target} {{\ntransport http {{\n{transport}}}\n}}\n}}\n")
    config = f"""
{{
admin off
auto_https off
log {{
output file {folder}/caddy.log
}}
}}
http://:{port} {{
bind 127.0.0.1
log {{
output file {folder}/access.log
}}
handle /returns/* {{
respond 503
}}
handle /no-live/* {{
reverse_proxy {all_faults['refused'].target} {{
fail_duration 10s
max_fails 1
}}
}}
handle /no-name/* {{
reverse_proxy nowhere.example:80
}}
handle /forged/* {{
reverse_proxy {all_faults['refused'].target}
}}
{''.join(blocks)}
}}
"""
    with open(f"{folder}/Caddyfile", "w") as out:
        out.write(config)
    home = {"HOME": work, "XDG_DATA_HOME": work, "XDG_CONFIG_HOME": work}
    process = start(*binary, "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile", log=f"{work}/out", env=home)
    wait_for(port)
    plain_faults(port, all_faults, truth, skip=("tls-version", "not-taken"))
    for n in range(3):
        status = request(port, f"/no-live/{n}")
        truth.add(f"/no-live/{n}", status, "connection_refused" if n == 0 else "no_live_upstreams")
    for n in range(2):
        truth.add(f"/returns/{n}", request(port, f"/returns/{n}"), "proxy_config")
        truth.add(f"/no-name/{n}", request(port, f"/no-name/{n}"), "dns_failed")
    conn = request(port, "/no-reply/left", half=True)
    time.sleep(0.3)
    conn.close()
    truth.add("/no-reply/left", None, "downstream_gave_up")
    forge(port, truth)
    time.sleep(1)
    stop(process)


# ── Varnish ───────────────────────────────────────────────────────────────────────────────────────

# VCL that logs what it has decoded: whole transactions of the client's choice, and parts of its own.
FORGED_GROUP = (
    "*   << Request  >> 999999    \n-   Begin          req 999998 rxreq\n"
    "-   Timestamp      Start: {now:.6f} 0.000000 0.000000\n-   ReqStart       6.6.6.6 6666 a0\n"
    "-   ReqMethod      GET\n-   ReqURL         /forged-line\n-   VCL_call       RECV\n"
    "-   VCL_return     synth\n-   RespStatus     503\n-   Timestamp      Process: {now:.6f} 0.000000 0.000000\n"
    "-   End            \n\n"
)
VARNISH_FORGERIES = [
    "\n" + FORGED_GROUP,
    "\n-   End            \n\n" + FORGED_GROUP + "-   VCL_Log        x",
    "\n-   VCL_return     pass\n-   End            \n\n" + FORGED_GROUP + "-   VCL_Log        x",
    "\n-   ReqStart       6.6.6.6 6666 a0\n-   ReqURL         /forged-line\n-   RespStatus     503",
    "\n--  VCL_return     fetch\n--  BackendOpen    9 forged 6.6.6.6 6666 6.6.6.6 6666 connect\n--  End            ",
]


def varnish(folder, all_faults, truth, binary=("varnishd",)):
    port, work = 8130, f"{WORK}/varnish"
    os.makedirs(work, exist_ok=True)
    backends, choice, probed = [], [], []
    # It speaks no TLS, waits for ever while it sends, and runs as root here.
    skip = [name for name, fault in all_faults.items() if fault.scheme == "https"] + ["not-taken", "unix-denied"]
    for name, fault in all_faults.items():
        if name in skip:
            continue
        if fault.target.startswith("unix:"):
            path = fault.target[5:]
            if not os.path.exists(path):
                # Its configuration names sockets that are there.
                serve(good, unix=path)
                probed.append(path)
            place = f'.path = "{path}";'
        else:
            host, number = fault.target.rsplit(":", 1)
            place = f'.host = "{host}"; .port = "{number}";'
        label = name.replace("-", "_")
        backends.append(f"backend {label} {{ {place} .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }}\n")
        choice.append(f'if (req.url ~ "^/{name}/") {{ set req.backend_hint = {label}; }}\n')
    good_host, good_port = all_faults["good"].target.rsplit(":", 1)
    hang_port = all_faults["no-reply"].target.rsplit(":", 1)[1]
    config = f"""
vcl 4.1;
import std;
import blob;
import directors;
{''.join(backends)}
backend sick {{ .host = "{good_host}"; .port = "{good_port}"; .probe = {{ .url = "/"; .initial = 0; .interval = 60s; }} }}
backend busy {{ .host = "{good_host}"; .port = "{hang_port}"; .max_connections = 1; .first_byte_timeout = 1s; }}
sub vcl_init {{ new none = directors.round_robin(); none.add_backend(sick); }}
sub vcl_recv {{
  {''.join(choice)}
  if (req.url ~ "^/returns/") {{ return (synth(503)); }}
  if (req.url ~ "^/ready") {{ return (synth(200)); }}
  if (req.url ~ "^/unhealthy/") {{ set req.backend_hint = sick; }}
  if (req.url ~ "^/directed/") {{ set req.backend_hint = none.backend(); }}
  if (req.url ~ "^/busy/") {{ set req.backend_hint = busy; }}
  if (req.url ~ "^/(saved|tried)/") {{ set req.backend_hint = refused; }}
  if (req.url ~ "^/forged/") {{
    set req.backend_hint = refused;
    std.log(blob.transcode(decoding=URL, encoding=IDENTITY, encoded=req.url));
  }}
  return (pass);
}}
sub vcl_backend_fetch {{
  if (bereq.retries > 0) {{
    set bereq.backend = fin;
    if (bereq.url ~ "^/saved/") {{ set bereq.backend = good; }}
  }}
  if (bereq.url ~ "^/forged/") {{
    std.log(blob.transcode(decoding=URL, encoding=IDENTITY, encoded=bereq.url));
  }}
}}
sub vcl_backend_error {{ if (bereq.url ~ "^/(saved|tried)/" && bereq.retries < 1) {{ return (retry); }} }}
"""
    with open(f"{folder}/varnish.vcl", "w") as out:
        out.write(config)
    process = start(
        *binary, "-F", "-j", "none", "-T", "none", "-s", "malloc,16m", "-a", f"127.0.0.1:{port}", "-n", f"{work}/n",
        "-f", f"{folder}/varnish.vcl", "-p", "vsl_reclen=4000", "-p", "thread_pools=1", "-p", "thread_pool_min=25",
        "-p", "cc_command=exec gcc -O0 -w -fpic -shared -o %o %s", log=f"{work}/out",
    )
    wait_for(port)
    for path in probed:
        os.unlink(path)
    logs = {mode: f"{folder}/varnishlog{'' if mode == 'request' else '-' + mode}.log" for mode in ("request", "vxid")}
    writers = [start("varnishlog", "-n", f"{work}/n", "-g", mode, "-A", "-w", log) for mode, log in logs.items()]
    while not all(os.path.exists(log) and os.path.getsize(log) for log in logs.values()):
        request(port, "/ready")
        time.sleep(0.05)
    plain_faults(port, all_faults, truth, skip=skip)
    for n in range(2):
        truth.add(f"/returns/{n}", request(port, f"/returns/{n}"), "proxy_config")
        truth.add(f"/unhealthy/{n}", request(port, f"/unhealthy/{n}"), "no_live_upstreams")
        truth.add(f"/directed/{n}", request(port, f"/directed/{n}"), "no_live_upstreams")
        truth.add(f"/saved/{n}", request(port, f"/saved/{n}"), None)
        truth.add(f"/tried/{n}", request(port, f"/tried/{n}"), "upstream_closed_early")
    first = request(port, "/busy/first", half=True)
    time.sleep(0.2)
    truth.add("/busy/1", request(port, "/busy/1"), "proxy_limit")
    first.recv(4096)
    first.close()
    truth.add("/busy/first", 503, "read_timeout_no_reply")
    forge(port, truth)
    for n, text in enumerate(VARNISH_FORGERIES):
        text = "".join(f"%{byte:02x}" for byte in text.format(now=time.time()).encode())
        path = f"/forged/varnish-{n}/{text}"
        truth.add(path, request(port, path), "forgery")
    # What follows such lines for a while is not believed either.
    for n in range(4):
        path = f"/good/after-{n}"
        truth.add(path, request(port, path), None)
    truth.add("/refused/last", request(port, "/refused/last"), "connection_refused")
    time.sleep(1)
    for each in (*writers, process):
        stop(each)


PROXIES = {
    "nginx": nginx,
    "nginx-limits": nginx_limits,
    "haproxy": haproxy,
    "envoy": envoy,
    "apache": apache,
    "caddy": caddy,
    "varnish": varnish,
}


def main():
    out = os.path.abspath(sys.argv[1])
    sh("ip link set lo up")
    all_faults = faults()
    for name in sys.argv[2:] or PROXIES:
        kind, _, version = name.partition("@")
        folder = f"{out}/{name.replace('@', '-')}"
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        os.chmod(folder, 0o777)
        print(name, flush=True)
        truth = Truth(folder)
        binary = os.environ.get(f"{kind.upper().replace('-', '_')}_BINARY", "").split() or None
        more = {"binary": binary} if binary else {}
        PROXIES[kind](folder, all_faults, truth, **more)
        truth.write()


if __name__ == "__main__":
    try:
        main()
    finally:
        for each in STARTED:
            if each.poll() is None:
                stop(each)
        if "--keep" not in os.environ.get("RECORD", ""):
            shutil.rmtree(WORK, ignore_errors=True)

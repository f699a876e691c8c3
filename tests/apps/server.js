// A Node.js upstream: keeps connections alive for so many ms (plus what Node adds) and dies as the
// query's `do` says, after reading the request. With a key, a certificate and a version it speaks TLS.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');

const [address, keepAlive, logFile, key, cert, version] = process.argv.slice(2);
const log = fs.openSync(logFile, 'a');
function say(what, path) {
  const t = Number(process.hrtime.bigint());
  fs.writeSync(log, JSON.stringify({ what, path, t, pid: process.pid }) + '\n');
}

const acts = {
  hold: () => {},
  close: (socket) => socket.destroy(),
  later: (socket) => setTimeout(() => socket.destroy(), 300),
  reset: (socket) => socket.resetAndDestroy(),
  'bad-head': (socket) =>
    socket.end('HTTP/1.1 200 OK\r\nBad\x01 Name: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'),
  exit: () => process.exit(3),
  segv: () => process.kill(process.pid, 'SIGSEGV'),
};

const handle = (request, response) => {
  const url = new URL(request.url, 'http://lab');
  if (url.searchParams.get('do') === 'neglect') {
    say('read', url.pathname);
    return;
  }
  request.resume();
  request.on('end', () => {
    say('read', url.pathname);
    const act = acts[url.searchParams.get('do')];
    if (act) {
      act(request.socket);
      return;
    }
    setTimeout(() => {
      response.writeHead(Number(url.searchParams.get('status') || 200), { 'Content-Length': 3 });
      response.end('ok\n');
      say('answered', url.pathname);
    }, Number(url.searchParams.get('ms') || 0));
  });
};
const server = key
  ? https.createServer(
      {
        key: fs.readFileSync(key),
        cert: fs.readFileSync(cert),
        minVersion: version,
        maxVersion: version,
      },
      handle,
    )
  : http.createServer(handle);
server.keepAliveTimeout = Number(keepAlive);
server.on('connection', (socket) => {
  say('accepted');
  socket.on('close', () => say('closed'));
});
const listening = () => say('listening');
if (address.startsWith('unix:')) {
  const path = address.slice(5);
  server.listen(path, () => {
    fs.chmodSync(path, 0o777);
    listening();
  });
} else {
  const [host, port] = address.split(':');
  server.listen(Number(port), host, listening);
}

// A packet capture made for a report's test: requests whose upstream refuses the connection.

import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { OUT } from "./open.mjs";

const [FIN, SYN, RST, ACK] = [1, 2, 4, 16];
const RAW_IP = 101;
const CLIENT = { ip: [10, 9, 0, 7] };
const PROXY = { ip: [10, 9, 0, 1] };
const UPSTREAM = { ip: [10, 9, 0, 2], port: 9000 };
/** Requests of one client's connection. */
const KEPT_FOR = 20;

/** A capture of `count` requests, each on a client's connection that is used for several. */
export function capture(name, count, path) {
  const records = [header()];
  let at = 1_795_182_504_000_000;
  const send = (from, to, flags, seq, ack, text = "") => {
    at += 50;
    records.push(record(at, segment(from, to, flags, seq, ack, Buffer.from(text))));
  };
  let sent, answered, client;
  const proxy = { ...PROXY, port: 8080 };
  for (let n = 1; n <= count; n++) {
    if (n % KEPT_FOR === 1) {
      client = { ...CLIENT, port: 20_000 + Math.floor(n / KEPT_FOR) };
      [sent, answered] = [initial(n, 1), initial(n, 2)];
      send(client, proxy, SYN, sent - 1, 0);
      send(proxy, client, SYN | ACK, answered - 1, sent);
      send(client, proxy, ACK, sent, answered);
    }
    const request = `GET ${path(n)} HTTP/1.1\r\nHost: shop.example\r\nCookie: secret\r\n\r\n`;
    send(client, proxy, ACK, sent, answered, request);
    sent += request.length;
    const tries = { ...PROXY, port: 1024 + n };
    const first = initial(n, 3);
    send(tries, UPSTREAM, SYN, first, 0);
    send(UPSTREAM, tries, RST | ACK, 0, first + 1);
    const response = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nbad";
    send(proxy, client, ACK, answered, sent, response);
    answered += response.length;
    if (n % KEPT_FOR === 0 || n === count) {
      send(client, proxy, FIN | ACK, sent, answered);
      send(proxy, client, FIN | ACK, answered, sent + 1);
    }
    at += 5_000;
  }
  const file = join(OUT, name + ".pcap");
  writeFileSync(file, Buffer.concat(records));
  return file;
}

/** Connections with the same numbers would be one, seen on both sides of a translation. */
const initial = (n, which) => 1 + ((n * 200_003 + which * 1_000_003) % 4_000_000_000);

function header() {
  const bytes = Buffer.alloc(24);
  bytes.writeUInt32LE(0xa1b2c3d4, 0);
  bytes.writeUInt16LE(2, 4);
  bytes.writeUInt16LE(4, 6);
  bytes.writeUInt32LE(65_535, 16);
  bytes.writeUInt32LE(RAW_IP, 20);
  return bytes;
}

function record(at, packet) {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt32LE(Math.floor(at / 1_000_000), 0);
  bytes.writeUInt32LE(at % 1_000_000, 4);
  bytes.writeUInt32LE(packet.length, 8);
  bytes.writeUInt32LE(packet.length, 12);
  return Buffer.concat([bytes, packet]);
}

/** IPv4 and TCP without options; nobody looks at the checksums. */
function segment(from, to, flags, seq, ack, payload) {
  const bytes = Buffer.alloc(40);
  bytes[0] = 0x45;
  bytes.writeUInt16BE(bytes.length + payload.length, 2);
  bytes[8] = 64;
  bytes[9] = 6;
  bytes.set(from.ip, 12);
  bytes.set(to.ip, 16);
  bytes.writeUInt16BE(from.port, 20);
  bytes.writeUInt16BE(to.port, 22);
  bytes.writeUInt32BE(seq, 24);
  bytes.writeUInt32BE(ack, 28);
  bytes[32] = 0x50;
  bytes[33] = flags;
  bytes.writeUInt16BE(512, 34);
  return Buffer.concat([bytes, payload]);
}

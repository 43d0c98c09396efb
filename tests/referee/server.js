// A DNS server on Node.js: datagrams and streams, both families. Started with its port. The responses to queries that
// arrive together are sent in one write of many buffers (cork).
"use strict";
const dgram = require("node:dgram");
const net = require("node:net");

const port = Number(process.argv[2]);

function answer(query) {
  if (query.length < 12 || query[2] & 0x80) return null;
  const end = query.indexOf(0, 12) + 5;
  const header = Buffer.alloc(12);
  query.copy(header, 0, 0, 2);
  header[2] = (query[2] & 0x79) | 0x84;
  if (end < 17 || end > query.length) {
    header[3] = 1;
    return header;
  }
  header[5] = 1;
  const label = query.toString("latin1", 13, 13 + query[12]);
  const texts = [];
  if (/^t[0-9]+$/.test(label)) {
    const count = Math.floor(Number(label.slice(1)) / 250) + 1;
    for (let number = 0; number < count; number++) {
      texts.push(Buffer.from("c00c00100001000000" + "3c00f1f0", "hex"));
      texts.push(Buffer.from(String(number).padStart(240, "0")));
    }
    header.writeUInt16BE(count, 6);
  }
  return Buffer.concat([header, query.subarray(12, end), ...texts]);
}

function shortened(full, query) {
  const end = query.indexOf(0, 12) + 5;
  const short = Buffer.concat([full.subarray(0, 12), query.subarray(12, end)]);
  short[2] |= 2;
  short.writeUInt16BE(0, 6);
  return short;
}

for (const [type, address] of [["udp4", "127.0.0.1"], ["udp6", "::1"]]) {
  const socket = dgram.createSocket({ type, recvBufferSize: 4 << 20 });
  socket.on("message", (query, peer) => {
    let full = answer(query);
    if (full && full.length > 1232) full = shortened(full, query);
    if (full) socket.send(full, peer.port, peer.address);
  });
  socket.bind(port, address);

  net.createServer({ allowHalfOpen: true }, (stream) => {
    let received = Buffer.alloc(0);
    stream.setNoDelay(true);
    stream.on("data", (bytes) => {
      received = Buffer.concat([received, bytes]);
      stream.cork();
      while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        const size = received.readUInt16BE(0);
        const full = answer(received.subarray(2, 2 + size));
        received = received.subarray(2 + size);
        if (full) {
          const length = Buffer.alloc(2);
          length.writeUInt16BE(full.length);
          stream.write(length);
          stream.write(full);
        }
      }
      stream.uncork();
    });
    stream.on("end", () => stream.end());
    stream.on("error", () => stream.destroy());
  }).listen(port, address);
}

//! Packets as bytes: a classic capture with Ethernet, IPv4 and TCP.

use std::io::{self, Write};

use super::session::{ACK, Link, Packet, Payload, SEGMENT, SYN, path};

/// In every header and body of the generated traffic, and never in any output.
pub(super) const CANARY: &str = "canary-4a1f";

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 1, 2, 3, 0, 4, 5, 6];
/// Largest segment, window scale, acknowledgement of single segments.
const SYN_OPTIONS: [u8; 12] = [2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1];
const TCP: usize = 20 + TIMESTAMPS.len();
const ROUTER: [u8; 4] = [10, 9, 0, 254];

/// Writes one capture.
pub(super) struct Capture<W> {
    output: W,
    frame: Vec<u8>,
    filler: Vec<u8>,
    pub(super) bytes: u64,
    pub(super) packets: u64,
}

impl<W: Write> Capture<W> {
    pub(super) fn new(mut output: W) -> io::Result<Capture<W>> {
        let header = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1];
        for word in header {
            output.write_all(&word.to_le_bytes())?;
        }
        Ok(Capture {
            output,
            frame: Vec::with_capacity(2048),
            filler: CANARY.bytes().chain(*b" ").cycle().take(2048).collect(),
            bytes: 24,
            packets: 0,
        })
    }

    pub(super) fn write(&mut self, session: u32, at: u64, packet: &Packet) -> io::Result<()> {
        self.frame.clear();
        let (client, server) = ends(session, packet.link);
        let (from, to) = if packet.from_client {
            (client, server)
        } else {
            (server, client)
        };
        if packet.payload == Payload::HostUnreachable {
            self.unreachable(client, server, packet);
        } else {
            self.ip(from.0, to.0, 6, TCP + packet.payload.length() as usize);
            self.tcp(from.1, to.1, packet);
            self.payload(session, packet.payload);
        }
        let length = u32::try_from(self.frame.len()).unwrap_or(u32::MAX);
        let record = [
            u32::try_from(at / 1_000_000_000).unwrap_or(u32::MAX),
            u32::try_from(at % 1_000_000_000 / 1000).unwrap_or(0),
            length,
            length,
        ];
        for word in record {
            self.output.write_all(&word.to_le_bytes())?;
        }
        self.output.write_all(&self.frame)?;
        self.bytes += 16 + u64::from(length);
        self.packets += 1;
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<(u64, u64)> {
        self.output.flush()?;
        Ok((self.packets, self.bytes))
    }

    /// Ethernet and IPv4 headers.
    fn ip(&mut self, from: [u8; 4], to: [u8; 4], protocol: u8, payload: usize) {
        let length = u16::try_from(IPV4 + payload).unwrap_or(0).to_be_bytes();
        self.frame.extend([2; ETHERNET - 2]);
        self.frame.extend([8, 0]);
        self.frame.extend([
            0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0,
        ]);
        self.frame.extend(from);
        self.frame.extend(to);
    }

    fn tcp(&mut self, from: u16, to: u16, packet: &Packet) {
        self.frame.extend(from.to_be_bytes());
        self.frame.extend(to.to_be_bytes());
        self.frame.extend(packet.seq.to_be_bytes());
        self.frame.extend(packet.ack.to_be_bytes());
        self.frame
            .extend([((TCP / 4) << 4) as u8, packet.flags, 0x10, 0, 0, 0, 0, 0]);
        self.frame.extend(if packet.flags & SYN != 0 {
            SYN_OPTIONS
        } else {
            TIMESTAMPS
        });
    }

    fn payload(&mut self, session: u32, payload: Payload) {
        let length = payload.length() as usize;
        let start = self.frame.len();
        let head = match payload {
            Payload::Request { exchange } => format!(
                "POST {}?token={CANARY} HTTP/1.1\r\nHost: shop.example\r\nCookie: id={CANARY}\r\nContent-Length: ",
                path(session, exchange)
            ),
            Payload::Head { status, .. } => {
                format!("HTTP/1.1 {status} Reason\r\nX-Trace: {CANARY}\r\nContent-Length: ")
            }
            _ => String::new(),
        };
        self.frame.extend(head.as_bytes());
        if !head.is_empty() {
            // The rest of this segment after the four digits and the empty line, and for a full
            // segment the next one.
            let next = if length == SEGMENT as usize {
                length
            } else {
                0
            };
            let body = length - head.len() - 8 + next;
            self.frame.extend(format!("{body:04}\r\n\r\n").as_bytes());
        }
        let missing = length - (self.frame.len() - start);
        self.frame.extend(&self.filler[..missing]);
    }

    /// A router's answer to a first SYN, with as much of it as old routers quote.
    fn unreachable(&mut self, client: End, server: End, packet: &Packet) {
        const QUOTED: usize = IPV4 + 8;
        self.ip(ROUTER, client.0, 1, 8 + QUOTED);
        self.frame.extend([3, 1, 0, 0, 0, 0, 0, 0]);
        let start = self.frame.len();
        self.ip(client.0, server.0, 6, TCP);
        self.frame.drain(start..start + ETHERNET);
        let syn = Packet {
            flags: SYN,
            // The SYN took one.
            seq: packet.ack.wrapping_sub(1),
            ..*packet
        };
        let tcp = self.frame.len();
        self.tcp(client.1, server.1, &syn);
        self.frame.truncate(tcp + 8);
        debug_assert_eq!(packet.flags & ACK, ACK);
    }
}

type End = ([u8; 4], u16);

/// Client and server of a session's connections. Ports are reused long after they were free.
fn ends(session: u32, link: Link) -> (End, End) {
    let [_, _, high, low] = session.to_be_bytes();
    match link {
        Link::Downstream => (
            ([10, 20, high, low], 20_000 + (session % 40_000) as u16),
            ([10, 9, 0, 1], 8080),
        ),
        Link::Upstream => (
            ([10, 9, 0, 1], 10_000 + (session % 50_000) as u16),
            ([10, 9, 1, 1 + (session % 8) as u8], 9000),
        ),
    }
}

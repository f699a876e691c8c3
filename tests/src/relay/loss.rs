//! What a wire loses, of the packets to and from one port of one of its ends.

use std::sync::atomic::{AtomicU16, Ordering};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// 0 for none.
#[derive(Default)]
pub(super) struct Loss {
    /// SYNs to this port.
    syns: AtomicU16,
    /// What answers SYNs to this port of the near end.
    answers: AtomicU16,
    /// All but handshakes and bare acknowledgements, to and from this port.
    words: AtomicU16,
}

impl Loss {
    pub(super) fn of_syns(&self, port: u16) {
        self.syns.store(port, Ordering::Relaxed);
    }

    pub(super) fn of_answers(&self, port: u16) {
        self.answers.store(port, Ordering::Relaxed);
    }

    pub(super) fn of_words(&self, port: u16) {
        self.words.store(port, Ordering::Relaxed);
    }

    /// Whether this packet is lost on its way to the far end, or from there.
    pub(super) fn takes(&self, packet: &[u8], outward: bool) -> bool {
        let all = [&self.syns, &self.answers, &self.words];
        let [syns, answers, words] = all.map(|port| port.load(Ordering::Relaxed));
        if [syns, answers, words] == [0; 3] {
            return false;
        }
        let Some(segment) = Segment::read(packet, outward) else {
            return false;
        };
        let opens = segment.flags & (SYN | ACK) == SYN;
        let answers_one = segment.flags & (SYN | ACK) == SYN | ACK;
        let says = segment.flags & SYN == 0 && (segment.flags & (FIN | RST) != 0 || segment.data);
        (outward && opens && segment.far_port == syns)
            || (outward && answers_one && segment.near_port == answers)
            || (says && segment.far_port == words)
    }
}

/// What matters of a TCP segment in IPv4.
struct Segment {
    near_port: u16,
    far_port: u16,
    flags: u8,
    data: bool,
}

impl Segment {
    fn read(packet: &[u8], outward: bool) -> Option<Segment> {
        let first = packet.first()?;
        let header = usize::from(first & 15) * 4;
        if first >> 4 != 4 || packet.get(9) != Some(&6) {
            return None;
        }
        let tcp = packet.get(header..)?;
        let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        let (near, far) = if outward { (0, 2) } else { (2, 0) };
        Some(Segment {
            near_port: port(near)?,
            far_port: port(far)?,
            flags: *tcp.get(13)?,
            data: tcp.len() > usize::from(tcp[12] >> 4) * 4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From port 9000 to port 9001.
    fn packet(flags: u8, data: usize) -> Vec<u8> {
        let mut packet = vec![0; 40 + data];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[20..22].copy_from_slice(&9000_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&9001_u16.to_be_bytes());
        packet[32] = 0x50;
        packet[33] = flags;
        packet
    }

    #[test]
    fn only_syns_to_the_port_are_lost() {
        let loss = Loss::default();
        assert!(!loss.takes(&packet(SYN, 0), true));
        loss.of_syns(9001);
        assert!(loss.takes(&packet(SYN, 0), true));
        assert!(!loss.takes(&packet(SYN, 0), false));
        assert!(!loss.takes(&packet(SYN | ACK, 0), true));
        assert!(!loss.takes(&packet(ACK, 10), true));
        loss.of_syns(9000);
        assert!(!loss.takes(&packet(SYN, 0), true));
        assert!(!loss.takes(&[], true));
        assert!(!loss.takes(&[0x45; 12], true));
    }

    #[test]
    fn only_answers_from_the_port_are_lost() {
        let loss = Loss::default();
        loss.of_answers(9000);
        assert!(loss.takes(&packet(SYN | ACK, 0), true));
        assert!(!loss.takes(&packet(SYN | ACK, 0), false));
        assert!(!loss.takes(&packet(SYN, 0), true));
        assert!(!loss.takes(&packet(ACK, 0), true));
        loss.of_answers(9001);
        assert!(!loss.takes(&packet(SYN | ACK, 0), true));
    }

    #[test]
    fn of_words_what_opens_a_connection_and_keeps_it_is_left() {
        let loss = Loss::default();
        loss.of_words(9001);
        for left in [packet(SYN, 0), packet(SYN | ACK, 0), packet(ACK, 0)] {
            assert!(!loss.takes(&left, true));
        }
        for lost in [packet(ACK, 1), packet(ACK | FIN, 0), packet(RST, 0)] {
            assert!(loss.takes(&lost, true));
            // Of another port.
            assert!(!loss.takes(&lost, false));
        }
        loss.of_words(9000);
        assert!(loss.takes(&packet(ACK, 1), false));
    }
}

//! Packets of a capture as steps of the ladder, between those that the verdict tells.

use crate::packet::{Connection, PacketSeen, What};
use crate::verdict::Verdict;

use super::Lane::{Client, Proxy, Upstream};
use super::{Lane, Shape, Steps, arrow, note};

/// Drawn of one verdict at most: the first and the last ones.
const MOST: usize = 60;

/// Adds the packets that belong to the section of this attempt.
pub(super) fn merge(verdict: &Verdict, seen: &[PacketSeen], section: usize, steps: &mut Steps) {
    let left_out = seen.len().saturating_sub(MOST);
    for (place, packet) in seen.iter().enumerate() {
        if belongs(verdict, packet) != section {
            continue;
        }
        let at = packet.at_us(verdict.at);
        if left_out > 0 && place == MOST / 2 {
            let label = format!("{left_out} packets not drawn");
            steps.add(Some(at), note(Proxy, label));
        }
        let drawn = left_out == 0 || place < MOST / 2 || place >= MOST / 2 + left_out;
        let (from, to) = lanes(packet);
        // What a step tells already is not drawn again.
        let told = steps.0.iter().any(|step| {
            let way = step.from == from && step.to == Some(to);
            way && step.at_us == Some(at) && !matches!(step.shape, Shape::Packet | Shape::Idle)
        });
        if drawn && !told {
            steps.add(Some(at), arrow(from, to, Shape::Packet, label(packet)));
        }
    }
}

/// The section of its attempt; for the client's side, of the attempt that was under way.
fn belongs(verdict: &Verdict, packet: &PacketSeen) -> usize {
    match packet.connection {
        Connection::Attempt(attempt) => attempt,
        Connection::Downstream => {
            let at = packet.at_us(verdict.at);
            let begun = verdict.attempts.iter().rposition(|a| a.at_us <= at);
            begun.unwrap_or(0)
        }
    }
}

fn lanes(packet: &PacketSeen) -> (Lane, Lane) {
    let (asks, answers) = match packet.connection {
        Connection::Downstream => (Client, Proxy),
        Connection::Attempt(_) => (Proxy, Upstream),
    };
    match packet.from_client {
        true => (asks, answers),
        false => (answers, asks),
    }
}

fn label(packet: &PacketSeen) -> String {
    let fin = if packet.fin { ", FIN" } else { "" };
    let again = if packet.again { ", again" } else { "" };
    let bytes = packet.length;
    match packet.what {
        What::Syn => "SYN".to_owned(),
        What::SynAck => "SYN, ACK".to_owned(),
        What::Request => format!("request, {bytes} bytes{again}{fin}"),
        What::Response(status) => format!("{status}, {bytes} bytes{again}{fin}"),
        What::Data => format!("{bytes} bytes{again}"),
        What::Ack => "ACK".to_owned(),
        What::Fin if bytes > 0 => format!("{bytes} bytes{again}, FIN"),
        What::Fin => "FIN".to_owned(),
        What::Reset => "RST".to_owned(),
        What::Unreachable => "ICMP: unreachable".to_owned(),
    }
}

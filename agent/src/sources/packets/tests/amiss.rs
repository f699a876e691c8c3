//! Kept-alive connections of which packets are missing or too early: what is told stays with its request,
//! and what is proven is true.

use std::collections::BTreeMap;

use super::build::*;
use super::missing::{asked, tried};
use crate::cause::Cause;
use crate::verdict::Confidence;

/// Clients with a connection each, and how many requests each sends.
const CLIENTS: u16 = 3;
const REQUESTS: u16 = 12;
const CASES: u64 = 600;

/// xorshift64: the same numbers each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Causes by the path of the request that failed; of the others there is nothing to tell.
type Truth = BTreeMap<String, Cause>;

/// One request by way of the proxy, and what came of it; a connection that ended is opened anew.
fn one(
    wire: &mut Wire,
    front: &mut Connection,
    back: &mut Connection,
    at: f64,
    path: &str,
    fate: usize,
) -> Option<Cause> {
    let used = wire
        .packets
        .iter()
        .any(|p| p.from == back.client && p.length > 0);
    let cause = match fate {
        0 => Cause::UpstreamAnswered,
        1 => Cause::UpstreamClosedEarly,
        2 if used => Cause::KeepaliveRace,
        _ => {
            exchanged(wire, [front, back], at, path, 200);
            return None;
        }
    };
    if cause == Cause::UpstreamAnswered {
        exchanged(wire, [front, back], at, path, 503);
        return Some(cause);
    }
    let ask = request("GET", path);
    wire.at(at).send(front, CLIENT, &ask);
    if cause == Cause::KeepaliveRace {
        wire.at(at + 0.1).lost(back, CLIENT, 0x18, &ask);
        wire.at(at + 0.15).fin(back, SERVER);
        wire.at(at + 0.3).reset(back, SERVER);
    } else {
        wire.at(at + 0.1).send(back, CLIENT, &ask);
        wire.at(at + 0.15).ack(back, SERVER);
        wire.at(at + 0.2).fin(back, SERVER);
        wire.at(at + 0.3).fin(back, CLIENT);
    }
    wire.at(at + 0.4).send(front, SERVER, &response(502));
    let port = back.client.port() + 10;
    *back = wire
        .at(at + 1.0)
        .open(&format!("10.0.0.1:{port}"), "10.0.0.2:9000");
    Some(cause)
}

fn traffic(chance: &mut Chance) -> (Wire, Truth) {
    let (mut wire, mut truth) = (Wire::default(), Truth::new());
    for client in 0..CLIENTS {
        let mut front = wire
            .at(0.0)
            .open(&format!("10.0.0.9:{}", 5000 + client), "10.0.0.1:80");
        let mut back = wire
            .at(0.1)
            .open(&format!("10.0.0.1:{}", 4000 + client), "10.0.0.2:9000");
        for i in 0..REQUESTS {
            let at = 10.0 + 40.0 * f64::from(i) + 7.0 * f64::from(client);
            let path = format!("/{client}/{i}");
            let cause = one(
                &mut wire,
                &mut front,
                &mut back,
                at,
                &path,
                chance.below(12),
            );
            truth.extend(cause.map(|cause| (path, cause)));
        }
    }
    wire.packets.sort_by_key(|packet| packet.at);
    (wire, truth)
}

/// Takes some packets out, or forward by less than half a millisecond.
fn spoil(packets: &mut Vec<Packet>, chance: &mut Chance) {
    for _ in 0..1 + chance.below(3) {
        let place = chance.below(packets.len());
        match chance.below(3) {
            0 => packets[place].at -= 1000 * chance.below(500) as u64,
            _ => drop(packets.remove(place)),
        }
    }
    packets.sort_by_key(|packet| packet.at);
}

#[test]
fn what_is_amiss_is_told_of_no_other_request() {
    let (mut failed, mut told) = (0, 0);
    let mut wrong = Vec::new();
    for case in 1..=CASES {
        let mut chance = Chance(case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut wire, truth) = traffic(&mut chance);
        spoil(&mut wire.packets, &mut chance);
        failed += truth.len();
        for decided in verdicts(&wire.packets, &[]) {
            let path = asked(&decided)
                .or_else(|| tried(&decided))
                .unwrap_or_default();
            if !path.starts_with('/') {
                // The request itself is missing.
                continue;
            }
            let (known, cause) = (truth.get(&path), decided.diagnosis.cause);
            told += usize::from(known == Some(&cause));
            let proven = decided.diagnosis.confidence == Confidence::Proven;
            if known.is_none() || (proven && known != Some(&cause)) {
                wrong.push(format!("{case}: {path} {}, not {known:?}", label(&decided)));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {failed}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // And nearly all are told of.
    assert!(told * 100 >= failed * 97, "{told} of {failed}");
}

//! What may happen to a capture: packets dropped, doubled, out of order, cut, one side only.

use std::collections::{BTreeMap, BTreeSet};

use super::{Packet, explain, fixtures, proven, proven_but_for_tiers};

/// xorshift64: the same numbers each time.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Up to so many packets every place is tried; of larger captures some.
const SMALL: usize = 250;

/// Numbers below `limit`: all of them, or about `some`; says how many that is.
fn places(whole: &Whole, what: &str, limit: usize, some: usize) -> Vec<usize> {
    let step = match whole.packets.len() <= SMALL {
        true => 1,
        false => (limit / some).max(1),
    };
    let places: Vec<usize> = (0..limit).step_by(step).collect();
    println!("{}: {} of {limit} {what}", whole.name, places.len());
    places
}

/// A capture, and what it proves as it is.
struct Whole {
    name: String,
    packets: Vec<Packet>,
    truth: BTreeMap<String, Vec<String>>,
}

fn wholes() -> Vec<Whole> {
    let whole = |(name, packets): (String, Vec<Packet>)| Whole {
        name,
        truth: proven_but_for_tiers(&explain(&packets)),
        packets,
    };
    fixtures().into_iter().map(whole).collect()
}

impl Whole {
    /// Each proven cause has to be one that the whole capture proves of the same request.
    fn check(&self, what: &str, damaged: &[Packet]) -> BTreeSet<String> {
        let mut wrong = BTreeSet::new();
        for (path, labels) in proven(&explain(damaged)) {
            for label in labels {
                // Which kind it is takes both sides; which cause does not.
                let cause = label.rsplit(' ').next().unwrap_or_default();
                let fits = |known: &String| known.ends_with(cause);
                // A cut request line has the beginning of its path.
                let mut same = self
                    .truth
                    .iter()
                    .filter(|(whole, _)| whole.starts_with(&path));
                if !same.any(|(_, known)| known.iter().any(fits)) {
                    wrong.insert(format!(
                        "{}, {what}: {path} {label}, not {:?}",
                        self.name,
                        self.truth.get(&path)
                    ));
                }
            }
        }
        wrong
    }
}

fn assert_none(wrong: &BTreeSet<String>) {
    let lines: Vec<&str> = wrong.iter().map(String::as_str).collect();
    assert!(wrong.is_empty(), "{}", lines.join("\n"));
}

/// Checks every capture with each seed's damage.
fn each_seed(seeds: u64, damage: impl Fn(u64, &mut Chance, &[Packet]) -> Vec<Packet>) {
    let mut wrong = BTreeSet::new();
    for whole in wholes() {
        for seed in 0..seeds {
            let damaged = damage(seed, &mut Chance::new(seed + 1), &whole.packets);
            wrong.extend(whole.check(&format!("seed {seed}"), &damaged));
        }
    }
    assert_none(&wrong);
}

#[test]
fn dropped_packets_prove_nothing_else() {
    each_seed(40, |seed, chance, packets| {
        let one_in = [200, 50, 10, 3][seed as usize % 4];
        let keep = |_: &&Packet| chance.below(one_in) != 0;
        packets.iter().filter(keep).cloned().collect()
    });
}

#[test]
fn doubled_packets_change_no_proof() {
    each_seed(12, |_, chance, packets| {
        let copies = |p: &Packet| {
            let mut later = p.clone();
            later.at += 1000 * chance.below(400) as u64;
            match chance.below(3) {
                0 => vec![p.clone(), later],
                _ => vec![p.clone()],
            }
        };
        packets.iter().flat_map(copies).collect()
    });
}

#[test]
fn packets_out_of_order_prove_nothing_else() {
    each_seed(30, |seed, chance, packets| {
        let window = [2, 4, 8, 32, 128, packets.len()][seed as usize % 6];
        let mut shuffled = packets.to_vec();
        for i in 0..shuffled.len() {
            let other = (i + chance.below(window)).min(shuffled.len() - 1);
            shuffled.swap(i, other);
        }
        shuffled
    });
}

#[test]
fn a_capture_may_begin_and_end_anywhere() {
    let mut wrong = BTreeSet::new();
    for whole in wholes() {
        let packets = &whole.packets;
        for cut in places(&whole, "lengths", packets.len(), 60) {
            wrong.extend(whole.check(&format!("up to {cut}"), &packets[..cut]));
            wrong.extend(whole.check(&format!("from {cut}"), &packets[cut..]));
        }
    }
    assert_none(&wrong);
}

#[test]
fn a_snap_length_may_be_any() {
    /// Heads end before it; what follows is counted, not read.
    const HEADS: usize = 400;
    let mut wrong = BTreeSet::new();
    for whole in wholes() {
        let longest = whole.packets.iter().map(|p| p.payload.len()).max();
        let limit = longest.unwrap_or(0).min(HEADS) + 1;
        for length in places(&whole, "snap lengths", limit, 20) {
            let mut cut = whole.packets.clone();
            for packet in &mut cut {
                packet.payload.truncate(length);
            }
            wrong.extend(whole.check(&format!("cut to {length}"), &cut));
        }
    }
    assert_none(&wrong);
}

#[test]
fn one_side_alone_proves_nothing_else() {
    let mut wrong = BTreeSet::new();
    for whole in wholes() {
        let ports: BTreeSet<u16> = whole
            .packets
            .iter()
            .flat_map(|p| [p.from.port(), p.to.port()])
            .filter(|port| *port < 10_000)
            .collect();
        for port in ports {
            let of = |p: &&Packet| p.from.port() == port || p.to.port() == port;
            let side: Vec<Packet> = whole.packets.iter().filter(of).cloned().collect();
            wrong.extend(whole.check(&format!("port {port}"), &side));
        }
    }
    assert_none(&wrong);
}

#[test]
fn clocks_may_be_wrong() {
    each_seed(12, |_, chance, packets| {
        let mut shifted = packets.to_vec();
        let step = chance.below(shifted.len());
        for packet in &mut shifted[step..] {
            packet.at -= 5_000_000_000;
        }
        for packet in &mut shifted {
            packet.at -= 1000 * chance.below(300) as u64;
        }
        shifted
    });
}

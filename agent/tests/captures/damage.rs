//! What may happen to a capture: packets dropped, doubled, out of order, cut, one side only.

use std::collections::BTreeSet;

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

/// Each proven cause has to be one that the whole capture proves of the same request.
fn check(
    what: &str,
    packets: &[Packet],
    damage: impl Fn(&[Packet]) -> Vec<Packet>,
) -> BTreeSet<String> {
    let truth = proven_but_for_tiers(&explain(packets));
    let mut wrong = BTreeSet::new();
    for (path, labels) in proven(&explain(&damage(packets))) {
        for label in labels {
            // Which kind it is takes both sides; which cause does not.
            let cause = label.rsplit(' ').next().unwrap_or_default();
            let fits = |known: &String| known.ends_with(cause);
            // A cut request line has the beginning of its path.
            let mut same = truth.iter().filter(|(whole, _)| whole.starts_with(&path));
            if !same.any(|(_, known)| known.iter().any(fits)) {
                wrong.insert(format!(
                    "{what}: {path} {label}, not {:?}",
                    truth.get(&path)
                ));
            }
        }
    }
    wrong
}

fn assert_none(wrong: &BTreeSet<String>) {
    let lines: Vec<&str> = wrong.iter().map(String::as_str).collect();
    assert!(wrong.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn dropped_packets_prove_nothing_else() {
    let mut wrong = BTreeSet::new();
    for (name, packets) in fixtures() {
        for seed in 0..40 {
            let one_in = [200, 50, 10, 3][seed as usize % 4];
            wrong.extend(check(
                &format!("{name}, seed {seed}"),
                &packets,
                |packets| {
                    let mut chance = Chance::new(seed + 1);
                    let keep = |_: &&Packet| chance.below(one_in) != 0;
                    packets.iter().filter(keep).cloned().collect()
                },
            ));
        }
    }
    assert_none(&wrong);
}

#[test]
fn doubled_packets_change_no_proof() {
    let mut wrong = BTreeSet::new();
    for (name, packets) in fixtures() {
        for seed in 0..12 {
            wrong.extend(check(
                &format!("{name}, seed {seed}"),
                &packets,
                |packets| {
                    let mut chance = Chance::new(seed + 1);
                    let copies = |p: &Packet| {
                        let mut later = p.clone();
                        later.at += 1000 * chance.below(400) as u64;
                        match chance.below(3) {
                            0 => vec![p.clone(), later],
                            _ => vec![p.clone()],
                        }
                    };
                    packets.iter().flat_map(copies).collect()
                },
            ));
        }
    }
    assert_none(&wrong);
}

#[test]
fn packets_out_of_order_prove_nothing_else() {
    let mut wrong = BTreeSet::new();
    for (name, packets) in fixtures() {
        for seed in 0..24 {
            let window = [2, 4, 8, 32][seed as usize % 4];
            wrong.extend(check(
                &format!("{name}, seed {seed}"),
                &packets,
                |packets| {
                    let mut chance = Chance::new(seed + 1);
                    let mut shuffled = packets.to_vec();
                    for i in 0..shuffled.len() {
                        let other = (i + chance.below(window)).min(shuffled.len() - 1);
                        shuffled.swap(i, other);
                    }
                    shuffled
                },
            ));
        }
    }
    assert_none(&wrong);
}

#[test]
fn a_capture_may_begin_and_end_anywhere() {
    let mut wrong = BTreeSet::new();
    for (name, packets) in fixtures() {
        let step = (packets.len() / 60).max(1);
        for cut in (0..packets.len()).step_by(step) {
            let begin = |packets: &[Packet]| packets[..cut].to_vec();
            wrong.extend(check(&format!("{name} up to {cut}"), &packets, begin));
            let end = |packets: &[Packet]| packets[cut..].to_vec();
            wrong.extend(check(&format!("{name} from {cut}"), &packets, end));
        }
    }
    assert_none(&wrong);
}

#[test]
fn a_snap_length_may_be_any() {
    let mut wrong = BTreeSet::new();
    for (name, packets) in fixtures() {
        for length in (0..140).step_by(7) {
            wrong.extend(check(
                &format!("{name} cut to {length}"),
                &packets,
                |packets| {
                    let mut cut = packets.to_vec();
                    for packet in &mut cut {
                        packet.payload.truncate(length);
                    }
                    cut
                },
            ));
        }
    }
    assert_none(&wrong);
}

#[test]
fn one_side_alone_proves_nothing_else() {
    let mut wrong = BTreeSet::new();
    for (name, packets) in fixtures() {
        let ports: BTreeSet<u16> = packets
            .iter()
            .flat_map(|p| [p.from.port(), p.to.port()])
            .filter(|port| *port < 10_000)
            .collect();
        for port in ports {
            wrong.extend(check(
                &format!("{name}, port {port}"),
                &packets,
                |packets| {
                    let of = |p: &&Packet| p.from.port() == port || p.to.port() == port;
                    packets.iter().filter(of).cloned().collect()
                },
            ));
        }
    }
    assert_none(&wrong);
}

#[test]
fn clocks_may_be_wrong() {
    let mut wrong = BTreeSet::new();
    for (name, packets) in fixtures() {
        for seed in 0..12 {
            wrong.extend(check(
                &format!("{name}, seed {seed}"),
                &packets,
                |packets| {
                    let mut chance = Chance::new(seed + 1);
                    let mut shifted = packets.to_vec();
                    let step = chance.below(shifted.len());
                    for packet in &mut shifted[step..] {
                        packet.at -= 5_000_000_000;
                    }
                    for packet in &mut shifted {
                        packet.at -= 1000 * chance.below(300) as u64;
                    }
                    shifted
                },
            ));
        }
    }
    assert_none(&wrong);
}

//! How an upstream connection ended under a request: what the wire proves, and what it cannot.

use super::build::*;

const FRONT: (&str, &str) = ("10.0.0.9:5000", "10.0.0.1:80");
const BACK: (&str, &str) = ("10.0.0.1:4000", "10.0.0.2:9000");

/// One exchange that went well on both connections, then a second request 1 s later.
struct Kept {
    wire: Wire,
    front: Connection,
    back: Connection,
}

impl Kept {
    fn new(method: &str) -> Kept {
        let mut wire = Wire::default();
        let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
        wire.send(&mut front, CLIENT, &request("GET", "/first"));
        let mut back = wire.at(1.0).open(BACK.0, BACK.1);
        wire.send(&mut back, CLIENT, &request("GET", "/first"));
        wire.at(20.0).send(&mut back, SERVER, &response(200));
        wire.ack(&mut back, CLIENT);
        wire.at(21.0).send(&mut front, SERVER, &response(200));
        wire.at(1000.0)
            .send(&mut front, CLIENT, &request(method, "/orders?id=1"));
        Kept { wire, front, back }
    }

    /// The second request goes to the upstream, which does not have it yet.
    fn ask(&mut self, ms: f64) {
        let request = request("POST", "/orders?id=1");
        self.wire
            .at(ms)
            .lost(&mut self.back, CLIENT, 0x18, &request);
    }

    fn respond(&mut self, ms: f64, status: u16) {
        self.wire
            .at(ms)
            .send(&mut self.front, SERVER, &response(status));
    }
}

#[test]
fn a_fin_that_acknowledges_nothing_of_the_request_is_a_race() {
    let mut kept = Kept::new("POST");
    kept.ask(1000.1);
    kept.wire.at(1000.2).fin(&mut kept.back, SERVER);
    kept.respond(1000.3, 502);
    kept.wire.at(1020.0).reset(&mut kept.back, SERVER);
    assert_eq!(
        labels(&kept.wire.packets),
        ["verdict 502 keepalive_race/fin_in_flight proven"]
    );
    // Without the reset the upstream might have closed one direction only.
    kept.wire.packets.pop();
    assert_eq!(
        labels(&kept.wire.packets),
        ["verdict 502 keepalive_race/fin_in_flight likely (reset_received)"]
    );
}

/// Only the number that the other side expects ends a connection, or that of the FIN it has just had.
#[test]
fn a_reset_of_another_number_completes_no_proof() {
    for (off, said) in [
        (0, "proven"),
        (-1, "proven"),
        (-1000, "likely (reset_received)"),
        (1000, "likely (packets)"),
        (1 << 25, "likely (reset_received)"),
    ] {
        let mut kept = Kept::new("POST");
        kept.ask(1000.1);
        kept.wire.at(1000.2).fin(&mut kept.back, SERVER);
        kept.respond(1000.3, 502);
        kept.wire.at(1020.0).reset(&mut kept.back, SERVER);
        let reset = kept.wire.packets.last_mut().unwrap();
        reset.seq = reset.seq.wrapping_add_signed(off);
        assert_eq!(
            labels(&kept.wire.packets),
            [format!("verdict 502 keepalive_race/fin_in_flight {said}")],
            "{off}"
        );
    }
}

#[test]
fn a_fin_that_the_request_acknowledges_had_arrived_before() {
    let mut kept = Kept::new("POST");
    kept.wire.at(990.0).fin(&mut kept.back, SERVER);
    kept.ask(1000.1);
    kept.wire.at(1000.2).reset(&mut kept.back, SERVER);
    kept.respond(1000.3, 502);
    assert_eq!(
        labels(&kept.wire.packets),
        ["verdict 502 keepalive_race/fin_already_received proven"]
    );
}

/// Taken at the upstream, the FIN is captured before the request; what the request acknowledges tells.
#[test]
fn the_captures_place_does_not_matter() {
    let mut kept = Kept::new("POST");
    kept.wire.at(995.0).lost(&mut kept.back, SERVER, 0x11, b"");
    kept.ask(1010.0);
    kept.wire.at(1010.1).reset(&mut kept.back, SERVER);
    let back = kept.back.server;
    let upstream_only: Vec<Packet> = kept
        .wire
        .packets
        .iter()
        .filter(|p| p.from == back || p.to == back)
        .cloned()
        .collect();
    assert_eq!(
        labels(&upstream_only),
        ["verdict - keepalive_race/fin_in_flight proven"]
    );
}

#[test]
fn a_request_that_was_acknowledged_was_no_race() {
    let mut kept = Kept::new("POST");
    kept.ask(1000.1);
    kept.wire.arrives(&mut kept.back, CLIENT);
    kept.wire.at(1020.0).ack(&mut kept.back, SERVER);
    kept.wire.at(1100.0).fin(&mut kept.back, SERVER);
    kept.respond(1100.1, 502);
    assert_eq!(
        labels(&kept.wire.packets),
        ["verdict 502 upstream_closed_early/no_bytes likely (upstream_read)"]
    );
}

#[test]
fn data_acknowledged_after_the_fin_is_a_half_close() {
    let mut kept = Kept::new("POST");
    kept.ask(1000.1);
    kept.wire.at(1000.2).fin(&mut kept.back, SERVER);
    kept.wire.arrives(&mut kept.back, CLIENT);
    kept.wire.at(1020.0).ack(&mut kept.back, SERVER);
    kept.respond(1020.1, 502);
    assert_eq!(
        labels(&kept.wire.packets),
        ["verdict 502 keepalive_race/half_close proven"]
    );
}

/// A server that still has an older connection of these ports acknowledges that as the SYN comes, and is
/// sent a reset for it.
#[test]
fn what_answers_the_syn_for_an_older_connection_is_not_of_this_one() {
    for old in [1000, (1 << 30) + 1000, (1 << 31) + 1000] {
        let mut kept = Kept::new("POST");
        kept.ask(1000.1);
        kept.wire.at(1000.2).fin(&mut kept.back, SERVER);
        kept.wire.arrives(&mut kept.back, CLIENT);
        kept.wire.at(1020.0).ack(&mut kept.back, SERVER);
        kept.respond(1020.1, 502);
        kept.wire.at(1030.0).reset(&mut kept.back, SERVER);
        let client = kept.back.client;
        let packets = &mut kept.wire.packets;
        let syn = packets.iter().position(|p| p.from == client).unwrap();
        let (challenge, mut reset) = (packets[syn].clone(), packets[syn].clone());
        reset.seq = reset.seq.wrapping_sub(old);
        reset.flags = 0x04;
        let challenge = Packet {
            from: challenge.to,
            to: challenge.from,
            seq: 77,
            ack: reset.seq,
            flags: 0x10,
            ..challenge
        };
        packets.insert(syn + 1, challenge);
        packets.insert(syn + 2, reset);
        assert_eq!(
            labels(packets),
            ["verdict 502 keepalive_race/half_close proven"],
            "{old}"
        );
    }
}

/// One that acknowledges the request is the same from a server that closes with it unread and from
/// one that aborts after reading.
#[test]
fn a_reset_alone_proves_nothing() {
    for (flags, said) in [
        (0x04, "keepalive_race/closed_unread"),
        (0x14, "upstream_reset"),
    ] {
        let mut kept = Kept::new("POST");
        kept.ask(1000.1);
        kept.wire.arrives(&mut kept.back, CLIENT);
        kept.wire
            .at(1000.2)
            .lost(&mut kept.back, SERVER, flags, b"");
        kept.respond(1000.3, 502);
        assert_eq!(
            labels(&kept.wire.packets),
            [format!("verdict 502 {said} likely (upstream_read)")]
        );
    }
}

/// Idle connections are closed at one age, and a busy server does so late: the age tells a close
/// that met the request from a reset after it was read, be that at once or while it was held.
#[test]
fn the_age_tells_a_close_from_a_reset_after_reading() {
    let reset_after = |ms: f64, others: u16| {
        let mut kept = Kept::new("POST");
        for i in 0..others {
            let mut other = kept
                .wire
                .at(100.0 + f64::from(i))
                .open(&format!("10.0.0.1:{}", 4100 + i), BACK.1);
            kept.wire
                .send(&mut other, CLIENT, &request("GET", "/other"));
            kept.wire.send(&mut other, SERVER, &response(200));
            kept.wire.at(1085.0 + f64::from(i)).fin(&mut other, SERVER);
        }
        kept.wire.packets.sort_by_key(|packet| packet.at);
        kept.ask(1000.1);
        kept.wire.arrives(&mut kept.back, CLIENT);
        if ms > 10.0 {
            kept.wire.at(990.1 + ms).ack(&mut kept.back, SERVER);
        }
        kept.wire
            .at(1000.1 + ms)
            .lost(&mut kept.back, SERVER, 0x14, b"");
        kept.respond(1000.2 + ms, 502);
        kept.wire.packets.sort_by_key(|packet| packet.at);
        labels(&kept.wire.packets)
    };
    for ms in [0.1, 30.0] {
        let race = "verdict 502 keepalive_race/closed_unread likely (upstream_read)";
        assert_eq!(reset_after(ms, 6), [race], "after {ms} ms");
        let reset = "verdict 502 upstream_reset likely (upstream_read)";
        assert_eq!(reset_after(ms, 0), [reset], "after {ms} ms");
    }
}

#[test]
fn a_retry_makes_a_near_miss_of_it() {
    let mut kept = Kept::new("POST");
    kept.ask(1000.1);
    kept.wire.at(1000.2).fin(&mut kept.back, SERVER);
    let mut again = kept.wire.at(1000.3).open("10.0.0.1:4001", BACK.1);
    kept.wire
        .send(&mut again, CLIENT, &request("POST", "/orders?id=1"));
    kept.wire.at(1001.0).reset(&mut kept.back, SERVER);
    kept.wire
        .at(1005.0)
        .send(&mut again, SERVER, &response(200));
    kept.respond(1005.1, 200);
    assert_eq!(
        labels(&kept.wire.packets),
        ["nearmiss 200 keepalive_race/fin_in_flight proven"]
    );
}

/// A connection that was there before the capture may be new all the same, as far as is seen.
#[test]
fn without_the_connections_beginning_nothing_is_proven() {
    let mut kept = Kept::new("POST");
    kept.ask(1000.1);
    kept.wire.at(1000.2).fin(&mut kept.back, SERVER);
    kept.respond(1000.3, 502);
    kept.wire.at(1020.0).reset(&mut kept.back, SERVER);
    let later: Vec<Packet> = kept
        .wire
        .packets
        .iter()
        .filter(|p| p.at >= BEGIN + 900 * MS)
        .cloned()
        .collect();
    assert_eq!(
        labels(&later),
        ["verdict 502 keepalive_race/fin_in_flight likely (tcp_connections)"]
    );
}

#[test]
fn sequence_numbers_may_wrap_within_the_request() {
    let mut kept = Kept::new("POST");
    kept.ask(1000.1);
    kept.wire.at(1000.2).fin(&mut kept.back, SERVER);
    kept.respond(1000.3, 502);
    kept.wire.at(1020.0).reset(&mut kept.back, SERVER);
    let request = kept
        .wire
        .packets
        .iter()
        .rfind(|p| p.length > 0 && p.to == kept.back.server);
    let shift = 0u32.wrapping_sub(request.unwrap().seq).wrapping_sub(10);
    for packet in &mut kept.wire.packets {
        packet.seq = packet.seq.wrapping_add(shift);
        if packet.flags & 0x10 != 0 {
            packet.ack = packet.ack.wrapping_add(shift);
        }
    }
    assert_eq!(
        labels(&kept.wire.packets),
        ["verdict 502 keepalive_race/fin_in_flight proven"]
    );
}

/// The race with a FIN in flight, beside another connection that the upstream ended as well.
fn race_beside(answered: f64, asked: Option<f64>, closed: f64) -> Vec<String> {
    let mut kept = Kept::new("POST");
    let wire = &mut kept.wire;
    let mut other = wire.at(answered - 5.0).open("10.0.0.1:4100", BACK.1);
    wire.send(&mut other, CLIENT, &request("GET", "/other"));
    wire.at(answered).send(&mut other, SERVER, &response(200));
    if let Some(ms) = asked {
        wire.at(ms)
            .send(&mut other, CLIENT, &request("GET", "/deadly"));
    }
    wire.at(closed).fin(&mut other, SERVER);
    kept.ask(1000.1);
    kept.wire.at(1000.2).fin(&mut kept.back, SERVER);
    kept.respond(1000.3, 502);
    kept.wire.at(1020.0).reset(&mut kept.back, SERVER);
    kept.wire.packets.sort_by_key(|packet| packet.at);
    let mut labels = labels(&kept.wire.packets);
    labels.retain(|label| label.starts_with("verdict 502"));
    labels
}

/// A timer closes what is of one age; a process that dies of one request closes all that it has.
#[test]
fn what_ended_with_others_of_another_age_may_have_died() {
    let proven = ["verdict 502 keepalive_race/fin_in_flight proven"];
    let likely = ["verdict 502 keepalive_race/fin_in_flight likely (peer_closed)"];
    // Of one age, and at another moment.
    assert_eq!(race_beside(25.0, None, 1005.0), proven);
    assert_eq!(race_beside(700.0, None, 1030.0), proven);
    for (answered, asked, closed) in [
        (700.0, None, 1005.0),
        (700.0, None, 995.0),
        (25.0, Some(980.0), 999.0),
        (25.0, Some(980.0), 1001.0),
    ] {
        assert_eq!(
            race_beside(answered, asked, closed),
            likely,
            "{answered} {asked:?} {closed}"
        );
    }
}

/// A process that dies also closes what was connected and never used, of another age.
#[test]
fn what_ended_with_a_connection_that_was_never_used_may_have_died() {
    let race = |opened: f64, closed: f64| {
        let mut kept = Kept::new("POST");
        let mut spare = kept.wire.at(opened).open("10.0.0.1:4100", BACK.1);
        kept.wire.at(closed).fin(&mut spare, SERVER);
        kept.ask(1000.1);
        kept.wire.at(1000.2).fin(&mut kept.back, SERVER);
        kept.respond(1000.3, 502);
        kept.wire.at(1020.0).reset(&mut kept.back, SERVER);
        kept.wire.packets.sort_by_key(|packet| packet.at);
        let mut labels = labels(&kept.wire.packets);
        labels.retain(|label| label.starts_with("verdict 502"));
        labels
    };
    let likely = ["verdict 502 keepalive_race/fin_in_flight likely (peer_closed)"];
    assert_eq!(race(700.0, 1001.0), likely);
    let proven = ["verdict 502 keepalive_race/fin_in_flight proven"];
    assert_eq!(race(700.0, 1030.0), proven);
}

//! After packets were lost: what was open then may be over, and is not taken to be open for ever.

use super::build::*;
use crate::sources::packets::Packets;
use crate::track::Tracker;

/// A request that stays unanswered; then, so many seconds later, one whose connect is refused.
fn refused(seconds: f64, lost: bool) -> String {
    let mut wire = Wire::default();
    let mut open = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    wire.at(1.0)
        .send(&mut open, CLIENT, &request("GET", "/open"));
    let before = wire.packets.len();
    let begin = seconds * 1000.0;
    let mut front = wire.at(begin).open("10.0.0.9:5001", "10.0.0.1:80");
    wire.at(begin + 1.0)
        .send(&mut front, CLIENT, &request("GET", "/refused"));
    let mut back = wire.connection("10.0.0.1:4000", "10.0.0.2:9000");
    wire.at(begin + 1.1).syn(&mut back);
    wire.at(begin + 1.2).push(&mut back, SERVER, 0x14, b"");
    wire.at(begin + 1.3)
        .send(&mut front, SERVER, &response(502));
    // Time goes on.
    wire.at(begin + 2000.0).open("10.0.0.9:5002", "10.0.0.1:80");
    let (mut source, mut out) = (Packets::new(&[]), Vec::new());
    for (number, packet) in wire.packets.iter().enumerate() {
        source.segment(&packet.segment(number as u64 + 1), &mut out);
        if lost && number + 1 == before {
            source.lost("packets", "kernel", 7, &mut out);
        }
    }
    source.finish(&mut out);
    let mut tracker = Tracker::default();
    let mut decided: Vec<_> = out.iter().flat_map(|s| tracker.observe(s)).collect();
    decided.extend(tracker.finish());
    let of_refused = decided.iter().map(label);
    let mut of_refused = of_refused.filter(|label| label.contains("connection_refused"));
    of_refused.next().unwrap()
}

#[test]
fn a_request_whose_end_may_have_been_lost_does_not_stay_in_flight() {
    let sure = "verdict 502 connection_refused proven";
    let unsure = "verdict 502 connection_refused likely (exchange_link)";
    assert_eq!(refused(10.0, true), unsure);
    assert_eq!(refused(100.0, true), sure);
    // Nothing was lost: it waits, however long it takes.
    assert_eq!(refused(100.0, false), unsure);
}

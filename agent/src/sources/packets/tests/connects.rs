//! Connects without a connection among several requests: whose they were, and what is not claimed.

use super::build::*;
use crate::cause::Cause;
use crate::sources::packets::Packets;
use crate::sources::packets::segment::{Frame, Unreachable};

const PROXY: &str = "10.0.0.1:80";

/// Clients' connections to one proxy, and its connects.
#[derive(Default)]
struct Crowd {
    wire: Wire,
    fronts: Vec<Connection>,
    backs: u16,
}

impl Crowd {
    /// A request that arrives now, on a connection of its own.
    fn ask(&mut self, ms: f64, path: &str) -> usize {
        let port = 5000 + self.fronts.len();
        let mut front = self.wire.at(ms).open(&format!("10.0.0.9:{port}"), PROXY);
        self.wire.send(&mut front, CLIENT, &request("GET", path));
        self.fronts.push(front);
        self.fronts.len() - 1
    }

    fn answer(&mut self, ms: f64, which: usize, status: u16) {
        self.wire
            .at(ms)
            .send(&mut self.fronts[which], SERVER, &response(status));
    }

    fn back(&mut self, server: &str) -> Connection {
        self.backs += 1;
        self.wire
            .connection(&format!("10.0.0.1:{}", 40_000 + self.backs), server)
    }

    fn refused(&mut self, ms: f64, server: &str) {
        let mut back = self.back(server);
        self.wire.at(ms).syn(&mut back);
        self.wire.at(ms + 0.01).push(&mut back, SERVER, 0x14, b"");
    }

    /// SYNs after 0 and 1 s.
    fn unanswered(&mut self, ms: f64, server: &str) {
        let back = self.back(server);
        for at in [ms, ms + 1000.0] {
            self.wire.at(at).syn(&mut back.clone());
        }
    }

    /// An attempt that the upstream answers.
    fn forward(&mut self, ms: f64, path: &str, status: u16) {
        let client = format!("10.0.0.1:{}", 40_001 + self.backs);
        self.backs += 1;
        let mut back = self.wire.at(ms).open(&client, "10.0.0.2:8000");
        self.wire.send(&mut back, CLIENT, &request("GET", path));
        self.wire
            .at(ms + 1.0)
            .send(&mut back, SERVER, &response(status));
    }

    /// `path label → upstreams`, in the order of paths.
    fn told(mut self) -> Vec<String> {
        self.wire.packets.sort_by_key(|packet| packet.at);
        let mut lines: Vec<String> = verdicts(&self.wire.packets, &[])
            .iter()
            .map(|decided| {
                let to: Vec<&str> = decided
                    .attempts
                    .iter()
                    .map(|tried| tried.attempt.upstream.0.as_str())
                    .collect();
                let path = path(decided).unwrap_or_default();
                format!("{path} {} → {}", label(decided), to.join(" "))
            })
            .collect();
        lines.sort();
        lines
    }
}

fn path(decided: &crate::track::Decided) -> Option<String> {
    let (_, _, response) = decided.response.as_ref()?;
    match response.request.as_ref()? {
        crate::signal::Opening::HttpRequest { path, .. } => Some(path.clone()),
        _ => None,
    }
}

const UNKNOWN: &str = "unknown unknown (upstream_side, proxy_log) → ";
const REFUSED: &str = "connection_refused likely (exchange_link) → 10.0.0.2:9000";

#[test]
fn a_refused_connect_is_the_request_s_that_had_waited_longest() {
    let mut crowd = Crowd::default();
    // nginx reads both; the second fails at once (no such socket), the first when the reset is seen.
    let tcp = crowd.ask(1.0, "/tcp");
    let unix = crowd.ask(1.1, "/unix");
    crowd.refused(1.3, "10.0.0.2:9000");
    crowd.answer(1.35, unix, 502);
    crowd.answer(1.4, tcp, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/tcp verdict 502 {REFUSED}"),
            format!("/unix verdict 502 {UNKNOWN}"),
        ]
    );
}

#[test]
fn a_slow_failure_belongs_to_the_request_that_was_taken_up_first() {
    let mut crowd = Crowd::default();
    let unreachable = crowd.ask(1.0, "/unreachable");
    let mut slow = crowd.back("10.0.0.2:9000");
    crowd.wire.at(1.01).syn(&mut slow);
    let refused = crowd.ask(1.1, "/refused");
    crowd.refused(1.11, "10.0.0.3:9000");
    crowd.answer(1.2, refused, 502);
    // A little later a router answers the slow one, and the proxy its client.
    crowd.answer(1.55, unreachable, 502);
    let (mut source, mut out) = (Packets::new(&[]), Vec::new());
    let last = crowd.wire.packets.len() - 1;
    for (i, packet) in crowd.wire.packets.iter().enumerate() {
        if i == last {
            let error = Unreachable {
                at: packet.at - MS / 20,
                frame: Frame::default(),
                router: "10.0.0.254".parse().unwrap(),
                from: slow.client,
                to: slow.server,
                seq: slow.seq[CLIENT].wrapping_sub(1),
                errno: 113,
            };
            source.unreachable(&error, &mut out);
        }
        source.segment(&packet.segment(i as u64 + 1), &mut out);
    }
    source.finish(&mut out);
    let mut told: Vec<String> = decided(out)
        .iter()
        .map(|decided| format!("{} {}", path(decided).unwrap(), label(decided)))
        .collect();
    told.sort();
    let likely = |cause| format!("verdict 502 {cause} likely (exchange_link)");
    assert_eq!(
        told,
        [
            format!("/refused {}", likely("connection_refused")),
            format!("/unreachable {}", likely("host_unreachable")),
        ]
    );
}

/// By the clocks' doubt the answer came before the reset: it is a refusal all the same, and no wait.
#[test]
fn a_refusal_that_seems_to_come_after_its_answer_is_no_timeout() {
    let mut crowd = Crowd::default();
    let (a, b) = (crowd.ask(1.0, "/a"), crowd.ask(1.1, "/b"));
    crowd.refused(1.3, "10.0.0.2:9000");
    crowd.refused(1.4, "10.0.0.2:9000");
    crowd.answer(1.35, a, 502);
    crowd.answer(1.405, b, 502);
    assert_eq!(
        crowd.told(),
        ["/a", "/b"].map(|path| format!("{path} verdict 502 {REFUSED}"))
    );
}

#[test]
fn a_connect_led_to_no_answer_that_came_before_it_failed() {
    let mut crowd = Crowd::default();
    let unix = crowd.ask(1.0, "/unix");
    let tcp = crowd.ask(1.1, "/tcp");
    crowd.answer(1.25, unix, 502);
    crowd.refused(1.3, "10.0.0.2:9000");
    crowd.answer(1.4, tcp, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/tcp verdict 502 {REFUSED}"),
            format!("/unix verdict 502 {UNKNOWN}"),
        ]
    );
}

#[test]
fn a_request_that_waits_elsewhere_gets_no_connect_of_another() {
    let mut crowd = Crowd::default();
    // Answered without an attempt in the capture: the proxy has other upstreams.
    let healthy = crowd.ask(1.0, "/unix/1");
    let slow = crowd.ask(2.0, "/unix/2");
    let first = crowd.ask(3.0, "/tcp/1");
    crowd.refused(3.1, "10.0.0.2:9000");
    crowd.answer(3.2, first, 502);
    crowd.answer(10.0, healthy, 200);
    let second = crowd.ask(2000.0, "/tcp/2");
    crowd.refused(2000.1, "10.0.0.2:9000");
    crowd.answer(2000.15, slow, 502);
    crowd.answer(2000.2, second, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/tcp/1 verdict 502 {REFUSED}"),
            format!("/tcp/2 verdict 502 {REFUSED}"),
            format!("/unix/2 verdict 502 {UNKNOWN}"),
        ]
    );
}

#[test]
fn one_request_s_connects_are_not_shared_out() {
    let mut crowd = Crowd::default();
    let tcp = crowd.ask(1.0, "/tcp");
    let other = crowd.ask(1.05, "/no-live-upstream");
    crowd.refused(1.1, "10.0.0.2:9000");
    crowd.refused(1.2, "10.0.0.3:9000");
    crowd.answer(1.3, tcp, 502);
    crowd.answer(1.35, other, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/no-live-upstream verdict 502 {UNKNOWN}"),
            "/tcp verdict 502 connection_refused likely (exchange_link) → \
             10.0.0.2:9000 10.0.0.3:9000"
                .to_owned(),
        ]
    );
}

#[test]
fn where_servers_differ_none_is_named() {
    let mut crowd = Crowd::default();
    let (a, b) = (crowd.ask(1.0, "/a"), crowd.ask(1.1, "/b"));
    // So far apart that neither is the other's next try.
    crowd.refused(2.0, "10.0.0.2:9000");
    crowd.refused(6.0, "10.0.0.3:9000");
    crowd.answer(6.1, a, 502);
    crowd.answer(6.2, b, 502);
    assert_eq!(
        crowd.told(),
        ["/a", "/b"]
            .map(|path| format!("{path} verdict 502 connection_refused likely (exchange_link) → "))
    );
}

#[test]
fn a_retry_that_is_refused_decides_not_the_race_before_it() {
    let mut crowd = Crowd::default();
    let mut pooled = Vec::new();
    for i in 0..3 {
        let first = crowd.ask(f64::from(i), &format!("/first/{i}"));
        let mut back = crowd.back("10.0.0.2:9000");
        crowd.wire.syn(&mut back);
        crowd.wire.push(&mut back, SERVER, 0x12, b"");
        crowd.wire.ack(&mut back, CLIENT);
        let get = request("GET", &format!("/first/{i}"));
        crowd.wire.send(&mut back, CLIENT, &get);
        crowd.wire.send(&mut back, SERVER, &response(200));
        crowd.wire.ack(&mut back, CLIENT);
        crowd.answer(f64::from(i) + 0.5, first, 200);
        pooled.push(back);
    }
    // The server dies: pooled connections are reset, new ones refused.
    let fronts: Vec<usize> = (0..3)
        .map(|i| crowd.ask(2000.0, &format!("/second/{i}")))
        .collect();
    for (i, back) in pooled.iter_mut().enumerate() {
        let get = request("GET", &format!("/second/{i}"));
        crowd.wire.at(2000.1).lost(back, CLIENT, 0x18, &get);
        crowd.wire.at(2000.2).fin(back, SERVER);
        crowd.wire.at(2000.3).reset(back, SERVER);
    }
    for _ in 0..3 {
        crowd.refused(2000.4, "10.0.0.2:9000");
    }
    for front in fronts {
        crowd.answer(2000.5, front, 502);
    }
    let attempts = "10.0.0.2:9000 10.0.0.2:9000";
    assert_eq!(
        crowd.told(),
        [0, 1, 2].map(|i| format!(
            "/second/{i} verdict 502 connection_refused likely (exchange_link) → {attempts}"
        ))
    );
}

#[test]
fn connects_that_no_filter_let_out_failed_like_the_others() {
    let mut crowd = Crowd::default();
    let all: Vec<usize> = (0..4)
        .map(|i| crowd.ask(1.0 + 0.01 * f64::from(i), &format!("/{i}")))
        .collect();
    // Four requests wait, two SYNs are seen, to two servers.
    crowd.unanswered(1.2, "10.0.0.2:9000");
    crowd.unanswered(1.3, "10.0.0.3:9000");
    for (i, which) in all.into_iter().enumerate() {
        crowd.answer(2002.0 + 0.01 * i as f64, which, 504);
    }
    assert_eq!(
        crowd.told(),
        [0, 1, 2, 3].map(|i| format!(
            "/{i} verdict 504 connect_timeout/unknown_path likely (accept_queue, exchange_link) → "
        ))
    );
}

#[test]
fn servers_tried_one_after_the_other_are_one_request_s() {
    let mut crowd = Crowd::default();
    let own = crowd.ask(1.0, "/own");
    crowd.unanswered(1.1, "10.0.0.2:9000");
    crowd.unanswered(2001.2, "10.0.0.3:9000");
    crowd.answer(4001.3, own, 504);
    assert_eq!(
        crowd.told(),
        [
            "/own verdict 504 connect_timeout/unknown_path likely (accept_queue) → \
         10.0.0.2:9000 10.0.0.3:9000"
        ]
    );
}

#[test]
fn a_wait_of_another_length_is_no_connect_s() {
    let mut crowd = Crowd::default();
    let (a, b) = (crowd.ask(1.0, "/a"), crowd.ask(1.0, "/b"));
    crowd.unanswered(1.2, "10.0.0.2:9000");
    crowd.answer(2002.0, a, 504);
    crowd.answer(2602.0, b, 504);
    assert_eq!(
        crowd.told(),
        [
            "/a verdict 504 connect_timeout/unknown_path likely (accept_queue, exchange_link) → \
             10.0.0.2:9000"
                .to_owned(),
            format!("/b verdict 504 {UNKNOWN}"),
        ]
    );
}

#[test]
fn a_proxy_with_upstreams_that_no_capture_shows_may_wait_for_those() {
    let mut crowd = Crowd::default();
    let (a, b) = (crowd.ask(1.0, "/tcp"), crowd.ask(1.0, "/unix/slow"));
    crowd.unanswered(1.2, "10.0.0.2:9000");
    let well = crowd.ask(500.0, "/unix/well");
    crowd.answer(501.0, well, 200);
    crowd.answer(2002.0, a, 504);
    crowd.answer(2002.1, b, 504);
    assert_eq!(
        crowd.told(),
        [
            "/tcp verdict 504 connect_timeout/unknown_path likely (accept_queue, exchange_link) → \
             10.0.0.2:9000"
                .to_owned(),
            format!("/unix/slow verdict 504 {UNKNOWN}"),
        ]
    );
}

#[test]
fn a_failure_that_the_proxy_hides_is_told_unless_it_may_be_none() {
    let hidden = |refused: f64, by_itself: bool| {
        let mut crowd = Crowd::default();
        let sorry = crowd.ask(1.0, "/hidden");
        let forwarded = crowd.ask(1.05, "/well");
        crowd.refused(refused, "10.0.0.2:9000");
        crowd.forward(1.2, "/well", 200);
        crowd.answer(1.3, sorry, 200);
        crowd.answer(3.0, forwarded, 200);
        if by_itself {
            let file = crowd.ask(500.0, "/file");
            crowd.answer(500.1, file, 200);
        }
        // The capture goes on.
        let last = crowd.ask(3000.0, "/last");
        crowd.forward(3000.1, "/last", 200);
        crowd.answer(3002.0, last, 200);
        crowd.told()
    };
    assert_eq!(
        hidden(1.1, false),
        [format!("/hidden verdict 200 {REFUSED}")]
    );
    // Refused before it was asked for, if only by so much as clocks of two interfaces may differ.
    let told = hidden(0.9, false);
    assert!(
        told.iter().all(|line| !line.contains("verdict")),
        "{told:?}"
    );
    // What answers some requests by itself may have answered this one; whose connect it was stays open.
    let told = hidden(1.1, true);
    assert!(
        told.iter().all(|line| !line.contains("verdict")),
        "{told:?}"
    );
}

/// One of two requests alike is refused while the other is still with an upstream, which answers it well.
#[test]
fn an_attempt_that_is_answered_later_was_not_given_up() {
    let mut crowd = Crowd::default();
    let (a, b) = (crowd.ask(1.0, "/a"), crowd.ask(1.01, "/a"));
    crowd.forward(1.1, "/a", 200);
    crowd.refused(1.2, "10.0.0.2:9000");
    crowd.answer(1.3, a, 502);
    crowd.answer(2.2, b, 200);
    assert_eq!(crowd.told(), [format!("/a verdict 502 {REFUSED}")]);
}

#[test]
fn a_health_check_proves_nothing_about_the_request_beside_it() {
    let checked = |before: bool| {
        let mut crowd = Crowd::default();
        if before {
            let first = crowd.ask(0.0, "/first");
            crowd.forward(0.1, "/first", 200);
            crowd.answer(2.0, first, 200);
            crowd.refused(1000.0, "10.0.0.3:9000");
        }
        let own = crowd.ask(3000.0, "/own");
        crowd.refused(3000.2, "10.0.0.3:9000");
        crowd.answer(3000.4, own, 502);
        crowd.told()
    };
    let of_own = |told: Vec<String>| told.into_iter().find(|line| line.starts_with("/own"));
    assert_eq!(
        of_own(checked(false)).unwrap(),
        "/own verdict 502 connection_refused proven → 10.0.0.3:9000"
    );
    assert_eq!(
        of_own(checked(true)).unwrap(),
        "/own verdict 502 connection_refused likely (exchange_link) → 10.0.0.3:9000"
    );
}

/// Interfaces have clocks of their own: only within a connection the order is sure.
#[test]
fn requests_within_the_clocks_doubt_are_in_flight_together() {
    let mut crowd = Crowd::default();
    let first = crowd.ask(1.0, "/first");
    crowd.answer(1.2, first, 502);
    let second = crowd.ask(1.4, "/second");
    crowd.refused(1.5, "10.0.0.2:9000");
    crowd.answer(1.6, second, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/first verdict 502 {UNKNOWN}"),
            format!("/second verdict 502 {REFUSED}"),
        ]
    );
    let mut crowd = Crowd::default();
    let one = crowd.ask(1.0, "/first");
    crowd.answer(1.2, one, 502);
    let get = request("GET", "/second");
    crowd
        .wire
        .at(1.4)
        .send(&mut crowd.fronts[one], CLIENT, &get);
    crowd.refused(1.5, "10.0.0.2:9000");
    crowd.answer(1.6, one, 502);
    assert_eq!(
        crowd.told()[1],
        "/second verdict 502 connection_refused proven → 10.0.0.2:9000"
    );
}

#[test]
fn a_connect_during_an_attempt_is_not_the_request_s() {
    let mut crowd = Crowd::default();
    let own = crowd.ask(1.0, "/own");
    crowd.forward(1.1, "/own", 502);
    crowd.refused(1.5, "10.0.0.3:9000");
    crowd.answer(2.2, own, 502);
    assert_eq!(
        crowd.told(),
        [
            " nearmiss - connection_refused likely (exchange_link) → 10.0.0.3:9000",
            "/own verdict 502 upstream_answered proven → 10.0.0.2:8000",
        ]
    );
}

#[test]
fn tiers_on_one_host_are_told_apart() {
    let mut wire = Wire::default();
    let mut outer = wire.at(0.0).open("127.0.0.1:5000", "127.0.0.1:8000");
    wire.send(&mut outer, CLIENT, &request("GET", "/slow"));
    let mut inner = wire.at(0.2).open("127.0.0.1:5100", "127.0.0.1:8080");
    wire.send(&mut inner, CLIENT, &request("GET", "/slow"));
    let mut app = wire.at(0.4).open("127.0.0.1:5200", "127.0.0.1:9000");
    wire.send(&mut app, CLIENT, &request("GET", "/slow"));
    wire.ack(&mut app, SERVER);
    // The tier in front gives up first, the one behind it a moment later.
    wire.at(3000.4).send(&mut outer, SERVER, &response(504));
    wire.at(3000.5).fin(&mut inner, CLIENT);
    wire.at(3001.5).fin(&mut app, CLIENT);
    let mut told = labels(&wire.packets);
    told.sort();
    assert_eq!(
        told,
        [
            "nearmiss - downstream_gave_up likely (exchange_link)",
            "verdict 504 read_timeout_no_reply likely (upstream_read, upstream_accepted)",
        ]
    );
    let near_miss = verdicts(&wire.packets, &[]);
    let near_miss = near_miss
        .iter()
        .find(|d| d.diagnosis.cause == Cause::DownstreamGaveUp);
    let upstream = &near_miss.unwrap().attempts[0].attempt.upstream;
    assert_eq!(upstream.0, "127.0.0.1:9000");
}

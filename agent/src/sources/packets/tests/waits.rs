//! Connects that nobody answers among several requests: which of them waited for one.

use super::crowd::*;

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

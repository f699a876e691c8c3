//! A week of deployments: ten thousand upstreams, each of which lives for less than an hour.

use why502::cause::Cause;
use why502::sinks::metrics::Metrics;
use why502::verdict::Kind;

use crate::{nginx_seen, verdict};

const UPSTREAMS: u64 = 10_000;
const LIVE: u64 = 50;
const WEEK_NS: u64 = 7 * 24 * 3600 * 1_000_000_000;
/// The contract's.
const MAX_SERIES: usize = 5_000;

fn address(upstream: u64) -> String {
    format!("10.{}.{}.7:8080", upstream / 250, upstream % 250)
}

#[test]
fn in_a_week_of_new_upstreams_the_live_ones_keep_their_names() {
    let metrics = Metrics::new();
    nginx_seen(&metrics, 3);
    for newest in 0..UPSTREAMS {
        metrics.on_tick(WEEK_NS / UPSTREAMS * newest);
        let live = newest.saturating_sub(LIVE - 1)..=newest;
        // Each fails when it comes, and every tenth step from then on.
        for upstream in live.clone().filter(|u| u % 10 == newest % 10) {
            let cause = Cause::ALL[upstream as usize % 5];
            let failure = verdict(Kind::Verdict, Some(502), cause, &address(upstream));
            metrics.on_verdict(&failure);
        }
        if newest % 499 == 0 {
            let text = metrics.render("");
            for upstream in live {
                let label = format!("upstream=\"{}\"", address(upstream));
                assert!(text.contains(&label), "{upstream} at {newest}");
            }
            assert!(!text.contains("upstream=\"other\""), "at {newest}");
            let series = text.lines().filter(|line| !line.starts_with('#')).count();
            assert!(series < MAX_SERIES, "{series} at {newest}");
        }
    }
    assert!(!metrics.render("").contains(&address(0)));
}

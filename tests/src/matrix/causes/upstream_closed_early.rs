//! The upstream reads a request and closes, without or within a head, and lives on.

use super::{By, Cause};
use crate::matrix::upstreams::Act;

pub(super) const CAUSE: Cause = Cause {
    name: "upstream_closed_early",
    by: By::Upstreams(&[Act::Close]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.ask_of_workers(1)?;
        let can = |act| stage.upstream.and_then(|upstream| (upstream.ask)(act));
        let queries: Vec<String> = [Act::Close, Act::Partial]
            .into_iter()
            .filter_map(can)
            .collect();
        stage.fail_by_turns(&queries)
    },
};

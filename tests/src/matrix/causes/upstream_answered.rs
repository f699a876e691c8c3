//! The upstream itself answers 502, 503 or 504.

use super::{By, Cause};
use crate::matrix::upstreams::Act;

const STATUSES: [u16; 3] = [502, 503, 504];

pub(super) const CAUSE: Cause = Cause {
    name: "upstream_answered",
    by: By::Upstreams(&[Act::Status(502)]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.ask_of_workers(2)?;
        let queries = STATUSES.map(|status| stage.ask(Act::Status(status)));
        stage.fail_by_turns(&queries)
    },
};

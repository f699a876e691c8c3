//! The upstream reads a request and closes, without or within a head, and lives on.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::{Act, Manner};

pub(super) const CAUSE: Cause = Cause {
    name: "upstream_closed_early",
    by: By::Upstreams(&[Act::Close]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let manner = Manner {
            workers: 1,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front(&to)?;
        let can = |act| stage.upstream.and_then(|upstream| (upstream.ask)(act));
        let queries: Vec<String> = [Act::Close, Act::Partial]
            .into_iter()
            .filter_map(can)
            .collect();
        let wanted = stage.wanted;
        for query in &queries {
            stage.wanted = wanted.div_ceil(queries.len());
            stage.fail(query)?;
        }
        stage.run.hold(server.running);
        Ok(())
    },
};

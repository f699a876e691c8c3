//! `proxy_fds_exhausted`, where the proxy had no descriptor for an attempt.
//!
//! Needs: that it failed the request without any attempt, and all the descriptors that it may have were open
//! right after. `socket()` is not seen to fail, so `likely`, unless the proxy's own line says so, which can be
//! about no other request. `connect()` never fails so.
//!
//! Confused with what a proxy decides by itself while it happens to be near its limit.

use crate::cause::Cause;
use crate::signal::{Said, Source};

use super::Case;
use super::finding::Finding;

/// The client that got the answer may have gone by then, and another one.
const FREED: u64 = 2;

pub(super) fn exhausted(case: &Case<'_>) -> Option<Finding> {
    let found = case.response?.descriptors?;
    (found.open.saturating_add(FREED) >= found.limit && case.attempts.is_empty()).then(|| {
        let text = format!(
            "{} file descriptors open, limit {}",
            found.open, found.limit
        );
        Finding::likely(
            Cause::ProxyFdsExhausted,
            "proxy_log: whether the proxy had no descriptor for an upstream",
        )
        .fact_at(found.at, Source::Kernel, "descriptors", text)
        .settled()
    })
}

/// The proxy's own line says of this request what its descriptors show.
pub(super) fn confirmed(case: &Case<'_>, said: Said) -> bool {
    let says = matches!(said, Said::ConnectFailed { errno: 23 | 24 });
    says && case.surely_told && exhausted(case).is_some()
}

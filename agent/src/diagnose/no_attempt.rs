//! The proxy answered without an attempt on any upstream: the kernel cannot tell why.
//!
//! No live upstream, no upstream address, its own queue, a limit, or `return 502`: all of them
//! happen inside the proxy. Its log says which; without it the cause is `unknown`.

use crate::cause::Cause;
use crate::signal::Source;

use super::Case;
use super::finding::Finding;

pub(super) fn diagnose(case: &Case<'_>) -> Finding {
    let made_itself = format!(
        "{}, {}, {}, {} and {}",
        Cause::NoLiveUpstreams,
        Cause::DnsFailed,
        Cause::ProxyQueueTimeout,
        Cause::ProxyLimit,
        Cause::ProxyConfig,
    );
    let finding = match case.source {
        // A capture may lack the whole side, a Unix socket is never in one.
        Source::Packets => Finding::unknown(
            "upstream_side: no attempt of the proxy on an upstream is in the capture",
        )
        .also_missing(format!(
            "proxy_log: if it made none, {made_itself} all look like this"
        )),
        _ => Finding::unknown(format!(
            "proxy_log: no attempt on an upstream was seen; {made_itself} all look like this"
        )),
    };
    match case.response {
        Some(_) => finding.settled(),
        None => finding,
    }
}

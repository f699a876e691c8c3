//! The proxy answered without an attempt on any upstream: the kernel cannot tell why.
//!
//! No live upstream, no upstream address, its own queue, a limit, or `return 502`: all of them
//! happen inside the proxy. Its log says which; without it the cause is `unknown`.

use crate::cause::Cause;
use crate::signal::Response;

use super::finding::Finding;

pub(super) fn diagnose(response: Option<&Response>) -> Finding {
    let finding = Finding::unknown(format!(
        "proxy_log: no attempt on an upstream was seen; {}, {}, {}, {} and {} all look like this",
        Cause::NoLiveUpstreams,
        Cause::DnsFailed,
        Cause::ProxyQueueTimeout,
        Cause::ProxyLimit,
        Cause::ProxyConfig,
    ));
    match response {
        Some(_) => finding.settled(),
        None => finding,
    }
}

//! HAProxy 3.2.

use super::{Proxy, haproxy, program};

const NAME: &str = "haproxy-3.2";

pub(super) const PROXY: Proxy = Proxy {
    name: NAME,
    lacking: || program(NAME),
    start: |run, ns, wanted| haproxy::start(run, ns, wanted, NAME),
    ..haproxy::PROXY
};

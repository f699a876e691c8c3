//! nginx 1.30, whose pools are kept without being told to.

use super::{Proxy, nginx, program};

const NAME: &str = "nginx-1.30";

pub(super) const PROXY: Proxy = Proxy {
    name: NAME,
    logs: &["nginx-1.30-error.log", "access.log"],
    lacking: || program(NAME),
    start: |run, ns, wanted| nginx::start(run, ns, wanted, NAME),
    ..nginx::PROXY
};

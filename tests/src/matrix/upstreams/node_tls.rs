//! Node.js in TLS with whose certificate no proxy here is content, or in a version that none speaks any more.

use std::path::Path;

use anyhow::Result;

use super::{Act, Server, Speaks, TRUSTED, Upstream, node};
use crate::certificate::Certificate;
use crate::matrix::proxies::Target;
use crate::netns::NetNs;
use crate::process;
use crate::run::Run;
use crate::software::{Node, node_program};

pub(super) const UNTRUSTED: Upstream = Upstream {
    name: "node-tls",
    speaks: Speaks::Https,
    lacking: || match process::program("openssl") {
        Some(_) => node_program().err().map(|error| format!("{error:#}")),
        None => Some("openssl is not installed".to_owned()),
    },
    ask: |act| (act == Act::Mistrusted).then(String::new),
    start: |run, ns, to, _| start(run, ns, to, "TLSv1.3"),
};

pub(super) const OLD: Upstream = Upstream {
    name: "node-tls-1.1",
    start: |run, ns, to, _| start(run, ns, to, "TLSv1.1"),
    ..UNTRUSTED
};

fn start(run: &Run, ns: &NetNs, to: &Target, version: &str) -> Result<Server> {
    let own = Certificate::make(&run.folder, "own-")?;
    let other = Certificate::make(&run.folder, "other-")?;
    std::fs::copy(other.certificate, run.folder.join(TRUSTED))?;
    let sealed: (&Path, &Path, &str) = (&own.key, &own.certificate, version);
    let to = to.to_string();
    let node = Node::start_tls(run, ns, "node", &to, node::KEEP_ALIVE_MS, sealed)?;
    Ok(Server {
        log: node.log.clone(),
        pid: node.pid(),
        running: Box::new(node),
    })
}

//! Which pairs a run consists of, and why others are left out.

use anyhow::{Result, bail};

use super::Args;
use super::causes::{self, Cause};
use super::proxies::{self, Proxy};
use super::upstreams::{self, Upstream};

/// One (proxy, cause) pair, set up once.
pub(super) struct Pair {
    pub(super) proxy: &'static Proxy,
    pub(super) cause: &'static Cause,
    pub(super) upstream: Option<&'static Upstream>,
    pub(super) repetition: u32,
}

impl Pair {
    /// The folder of what is kept of it.
    pub(super) fn name(&self) -> String {
        format!(
            "{}-{}-{}",
            self.proxy.name, self.cause.name, self.repetition
        )
    }
}

/// The pairs of one run.
pub(super) struct Chosen {
    pub(super) pairs: Vec<Pair>,
    pub(super) proxies: Vec<&'static Proxy>,
    pub(super) skipped: Vec<String>,
}

pub(super) fn choose(args: &Args, seed: u64) -> Result<Chosen> {
    let known = |what, wanted: &[String], known: Vec<&str>| {
        let strange = wanted.iter().find(|name| !known.contains(&name.as_str()));
        match strange {
            Some(name) => bail!("there is no {what} {name}: {} are known", known.join(", ")),
            None => Ok(()),
        }
    };
    known(
        "proxy",
        &args.proxy,
        proxies::ALL.iter().map(|p| p.name).collect(),
    )?;
    known(
        "cause",
        &args.cause,
        causes::ALL.iter().map(|c| c.name).collect(),
    )?;
    known(
        "upstream",
        &args.upstream,
        upstreams::ALL.iter().map(|u| u.name).collect(),
    )?;
    let wanted = |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
    let mut skipped = Vec::new();
    let mut usable = |what: &str, lacking: Option<String>| {
        skipped.extend(lacking.as_ref().map(|why| format!("{what}: {why}")));
        lacking.is_none()
    };
    let proxies: Vec<&'static Proxy> = (proxies::ALL.iter())
        .filter(|proxy| wanted(&args.proxy, proxy.name) && usable(proxy.name, (proxy.lacking)()))
        .collect();
    let upstreams: Vec<&'static Upstream> = (upstreams::ALL.iter())
        .filter(|u| wanted(&args.upstream, u.name) && usable(u.name, (u.lacking)()))
        .collect();
    let mut pairs = Vec::new();
    for repetition in 0..args.repeat {
        for proxy in &proxies {
            for cause in causes::ALL.iter().filter(|c| wanted(&args.cause, c.name)) {
                let mut able = cause.upstreams(&upstreams);
                able.retain(|upstream| proxy.speaks.contains(&upstream.speaks));
                let why = if cause.unix && !proxy.unix {
                    "it calls no Unix sockets"
                } else if cause.spares.contains(&proxy.name) {
                    "it does not fail so"
                } else if able.is_empty() && cause.needs_upstream() {
                    "no upstream for it is here"
                } else {
                    // Each in its turn, begun with another one for each proxy.
                    let turn = repetition as usize + pairs.len() + seed as usize;
                    pairs.push(Pair {
                        proxy,
                        cause,
                        upstream: (!able.is_empty()).then(|| able[turn % able.len()]),
                        repetition,
                    });
                    continue;
                };
                skipped.push(format!("{} × {}: {why}", proxy.name, cause.name));
            }
        }
    }
    Ok(Chosen {
        pairs,
        proxies,
        skipped,
    })
}

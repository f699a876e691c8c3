//! Which pairs a run consists of, and why others are left out.

use anyhow::{Result, bail};

use super::Args;
use super::causes::{self, Cause};
use super::proxies::{self, Proxy};
use super::upstreams::{self, Upstream};

/// One (proxy, cause) pair, set up once.
pub(super) struct Pair {
    /// Its own among those of the run.
    pub(super) number: usize,
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
    /// All repetitions that are asked for, and one by one those for pairs that still fail too rarely.
    pub(super) rounds: Vec<Vec<Pair>>,
    pub(super) proxies: Vec<&'static Proxy>,
    pub(super) skipped: Vec<String>,
}

fn wanted(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|n| n == name)
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
    let (rounds, unable) = rounds(args, seed, &proxies, &upstreams);
    skipped.extend(unable);
    Ok(Chosen {
        rounds,
        proxies,
        skipped,
    })
}

/// The pairs of these, round by round; what cannot be one, and why.
fn rounds(
    args: &Args,
    seed: u64,
    proxies: &[&'static Proxy],
    upstreams: &[&'static Upstream],
) -> (Vec<Vec<Pair>>, Vec<String>) {
    let mut rounds: Vec<Vec<Pair>> = (0..=args.further).map(|_| Vec::new()).collect();
    let mut unable = Vec::new();
    let mut number = 0;
    for repetition in 0..args.repeat + args.further {
        let round = (repetition + 1).saturating_sub(args.repeat) as usize;
        for proxy in proxies {
            for cause in causes::ALL.iter().filter(|c| wanted(&args.cause, c.name)) {
                let mut able = cause.upstreams(upstreams);
                able.retain(|upstream| proxy.speaks.contains(&upstream.speaks));
                let why = if cause.unix && !proxy.unix {
                    "it calls no Unix sockets"
                } else if cause.spares.contains(&proxy.name) {
                    "it does not fail so"
                } else if able.is_empty() && cause.needs_upstream() {
                    "no upstream for it is here"
                } else {
                    // Each in its turn, begun with another one for each proxy.
                    let turn = repetition as usize + number + seed as usize;
                    rounds[round].push(Pair {
                        number,
                        proxy,
                        cause,
                        upstream: (!able.is_empty()).then(|| able[turn % able.len()]),
                        repetition,
                    });
                    number += 1;
                    continue;
                };
                if repetition == 0 {
                    unable.push(format!("{} × {}: {why}", proxy.name, cause.name));
                }
            }
        }
    }
    (rounds, unable)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::matrix::tests::Cli;

    #[test]
    fn further_rounds_are_repetitions_with_conditions_of_their_own() {
        let chosen = |more: &[&str]| {
            let asked = [
                "lab",
                "--cause",
                "connection_refused,protocol_mismatch,unix_accept_queue_full",
            ];
            let args = Cli::parse_from(asked.iter().chain(more)).matrix;
            let proxies: Vec<_> = (proxies::ALL.iter())
                .filter(|proxy| ["nginx", "apache"].contains(&proxy.name))
                .collect();
            let upstreams: Vec<_> = upstreams::ALL.iter().collect();
            rounds(&args, 7, &proxies, &upstreams)
        };
        let name = |pair: &Pair| {
            let upstream = pair.upstream.map(|upstream| upstream.name);
            (pair.name(), pair.number, upstream)
        };
        let (plain, unable) = chosen(&["--repeat", "2"]);
        assert_eq!(plain.len(), 1);
        assert_eq!(plain[0].len(), 2 * 5);
        let (more, still_unable) = chosen(&["--repeat", "2", "--further", "3"]);
        // What is run anyway is the same with and without them.
        assert!(more[0].iter().map(name).eq(plain[0].iter().map(name)));
        let repetitions: Vec<Vec<u32>> = (more[1..].iter())
            .map(|round| round.iter().map(|pair| pair.repetition).collect())
            .collect();
        assert_eq!(repetitions, [[2; 5], [3; 5], [4; 5]]);
        let numbers = more.iter().flatten().map(|pair| pair.number);
        assert!(numbers.eq(0..25));
        assert_eq!(
            unable,
            ["apache × unix_accept_queue_full: it does not fail so"]
        );
        assert_eq!(still_unable, unable);
    }
}

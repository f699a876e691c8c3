//! Ways in which a Node.js upstream dies with requests read from reused connections.

use std::time::Duration;

use anyhow::Result;

use super::front::plain;
use super::pool;
use crate::client::{self, Request};
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::run::Run;
use crate::software::Node;
use crate::wait;

#[derive(Clone, Copy)]
pub(super) struct Death {
    pub cell: &'static str,
    /// What the last request asks for; `None`: SIGKILL from outside.
    act: Option<&'static str>,
    cause: &'static str,
    variant: Option<&'static str>,
}

pub(super) const ALL: [Death; 3] = [
    Death {
        cell: "killed_outside",
        act: None,
        cause: "worker_killed",
        variant: None,
    },
    Death {
        cell: "process_exit",
        act: Some("do=exit"),
        cause: "worker_crashed",
        variant: Some("exit"),
    },
    Death {
        cell: "sigsegv",
        act: Some("do=segv"),
        cause: "worker_crashed",
        variant: Some("signal"),
    },
];

impl Death {
    pub(super) fn expect(self, failed: &'static [u16]) -> Expect {
        Expect {
            variant: self.variant,
            ..Expect::verdict(self.cell, failed, self.cause)
        }
        .with(Check::Equals("/attempts/0/reused", true.into()))
    }

    /// Fills the pool, lets `count` POSTs be read from it, and the process die.
    pub(super) fn happen(
        self,
        run: &Run,
        ns: &NetNs,
        folder: &str,
        node: &mut Node,
        count: usize,
    ) -> Result<()> {
        pool::fill(run, ns, folder, count, "ms=60")?;
        self.strike(run, ns, folder, node, count)
    }

    /// The same, of a pool that is filled already.
    pub(super) fn strike(
        self,
        run: &Run,
        ns: &NetNs,
        folder: &str,
        node: &mut Node,
        count: usize,
    ) -> Result<()> {
        let expect = self.expect(&[502]);
        let hold = |act: &str| {
            let request = Request::post(run.path(folder)).query(act);
            run.expecting(request, &expect)
        };
        let waiting = count - usize::from(self.act.is_some());
        let mut requests: Vec<Request> = (0..waiting).map(|_| hold("do=hold")).collect();
        let last = self.act.map(hold);
        ns.traffic(async || {
            let paths: Vec<String> = requests.iter().map(|each| each.path.clone()).collect();
            let held = client::burst(
                plain(),
                &run.ledger,
                requests
                    .drain(..)
                    .map(|request| (Duration::ZERO, request))
                    .collect(),
            );
            let killing = async {
                wait::until_async("the reads", Duration::from_secs(10), || {
                    let reads = node.log.reads();
                    paths.iter().all(|path| reads.contains_key(path))
                })
                .await?;
                match last {
                    Some(request) => {
                        client::once(plain(), &run.ledger, request).await;
                    }
                    None => node.signal(libc::SIGKILL),
                }
                anyhow::Ok(())
            };
            let (_, killed) = tokio::join!(held, killing);
            killed
        })?;
        node.proc_mut().wait_exit(Duration::from_secs(5))?;
        Ok(())
    }
}

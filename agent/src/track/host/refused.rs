//! Whose requests a proxy could not connect to an upstream for: bounded memory of what takes upstreams out of
//! rotation. Pure.

use std::collections::VecDeque;

use super::passed::folder;
use crate::signal::{Address, Attempt, End, Nanos, Opening};

const KEPT: usize = 1024;

/// A connect for a request that did not come about.
#[derive(Clone, Debug)]
pub struct Refused {
    pub at: Nanos,
    pub upstream: Address,
    pub end: End,
    proxy: u32,
    host: Option<String>,
    folder: String,
}

#[derive(Debug, Default)]
pub(super) struct Connects(VecDeque<Refused>);

impl Connects {
    /// The oldest give way: what is long ago decides nothing.
    pub(super) fn ended(&mut self, at: Nanos, attempt: &Attempt) {
        let connected = !matches!(attempt.end, End::ConnectFailed { .. } | End::ConnectGivenUp);
        let request = attempt
            .downstream
            .as_ref()
            .and_then(|link| link.request.as_ref());
        let (false, Some(folder)) = (connected, folder(request)) else {
            return;
        };
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Refused {
            at,
            upstream: attempt.upstream.clone(),
            end: attempt.end,
            proxy: attempt.proxy,
            host: host(request).map(str::to_owned),
            folder: folder.to_owned(),
        });
    }

    /// The last one of a request of the same Host and below the same folder, by a process that is this
    /// proxy's.
    pub(super) fn before(
        &self,
        at: Nanos,
        request: Option<&Opening>,
        own: impl Fn(u32) -> bool,
    ) -> Option<&Refused> {
        let below = folder(request)?;
        let alike = |one: &&Refused| one.folder == below && one.host.as_deref() == host(request);
        let mut all = self.0.iter().rev().filter(|one| one.at <= at).filter(alike);
        all.find(|one| own(one.proxy))
    }
}

fn host(request: Option<&Opening>) -> Option<&str> {
    match request? {
        Opening::HttpRequest { host, .. } => host.as_deref(),
        _ => None,
    }
}

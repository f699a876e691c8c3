//! Whose requests a proxy could not connect to an upstream for, and whether that upstream has answered since:
//! bounded memory of what takes upstreams out of rotation. Pure.

use std::collections::{HashMap, VecDeque};

use super::SECOND;
use super::passed::folder;
use crate::signal::{Address, Attempt, End, Nanos, Opening};

const KEPT: usize = 1024;
/// The upstreams of one kind of request are among the last ones.
const LOOKED_AT: usize = 64;
/// Who has failed is left out for so long, at least where that is not set otherwise.
const OUT: Nanos = 60 * SECOND;

/// A connect for a request that did not come about.
#[derive(Clone, Debug)]
pub struct Refused {
    pub at: Nanos,
    pub upstream: Address,
    pub end: End,
    proxy: u32,
    host: Option<String>,
    folder: String,
    /// When the proxy had an answer of this upstream again, as was told first.
    over: Option<Nanos>,
}

#[derive(Debug, Default)]
pub(super) struct Connects {
    all: VecDeque<Refused>,
    /// Of how many of these nothing was heard since, by upstream: most answers are of none of them.
    silent: HashMap<Address, usize>,
}

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
        while let Some(oldest) = self.all.front()
            && (self.all.len() >= KEPT || oldest.at.saturating_add(OUT) < at)
        {
            if oldest.over.is_none() {
                heard_of(&mut self.silent, &oldest.upstream);
            }
            self.all.pop_front();
        }
        *self.silent.entry(attempt.upstream.clone()).or_default() += 1;
        self.all.push_back(Refused {
            at,
            upstream: attempt.upstream.clone(),
            end: attempt.end,
            proxy: attempt.proxy,
            host: host(request).map(str::to_owned),
            folder: folder.to_owned(),
            over: None,
        });
    }

    /// An upstream answered a process of which `own` knows whose else it is.
    pub(super) fn answered(&mut self, at: Nanos, upstream: &Address, own: impl Fn(u32) -> bool) {
        if !self.silent.contains_key(upstream) {
            return;
        }
        for one in &mut self.all {
            let silent = one.over.is_none() && one.at < at;
            if silent && one.upstream == *upstream && own(one.proxy) {
                one.over = Some(at);
                heard_of(&mut self.silent, upstream);
            }
        }
    }

    /// The last one of a request of the same Host and below the same folder, by a process that is this
    /// proxy's; none if an upstream of such requests had answered again `until` then.
    pub(super) fn before(
        &self,
        at: Nanos,
        until: Nanos,
        request: Option<&Opening>,
        own: impl Fn(u32) -> bool,
    ) -> Option<&Refused> {
        let below = folder(request)?;
        let alike = |one: &&Refused| one.folder == below && one.host.as_deref() == host(request);
        let out = |one: &&Refused| one.at <= at && until.saturating_sub(one.at) <= OUT;
        let all = self.all.iter().rev().filter(out).filter(alike);
        let mut last = None;
        let mut known: Vec<&Address> = Vec::new();
        for one in all.take(LOOKED_AT).filter(|one| own(one.proxy)) {
            // What came before an upstream's last one is over by that.
            if known.contains(&&one.upstream) {
                continue;
            }
            if one.over.is_some_and(|over| over <= until) {
                return None;
            }
            known.push(&one.upstream);
            last = last.or(Some(one));
        }
        last
    }
}

fn heard_of(silent: &mut HashMap<Address, usize>, upstream: &Address) {
    if let Some(count) = silent.get_mut(upstream) {
        *count -= 1;
        if *count == 0 {
            silent.remove(upstream);
        }
    }
}

fn host(request: Option<&Opening>) -> Option<&str> {
    match request? {
        Opening::HttpRequest { host, .. } => host.as_deref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const A: &str = "10.0.0.2:80";
    const B: &str = "10.0.0.3:80";

    fn attempt(upstream: &str, proxy: u32, how: serde_json::Value) -> Attempt {
        let request = json!({"protocol": "http_request", "method": "GET", "path": "/a/1",
            "path_complete": true, "host": null});
        serde_json::from_value(
            json!({"flow": 1, "proxy": proxy, "thread": proxy, "retry_of": null,
            "downstream": {"flow": 2, "ordinal": 1, "order": "after_read", "client": null,
                "proxy_address": null, "request": request, "state": "open"},
            "upstream": upstream, "local": null, "began": 1, "connected": null, "reused": false,
            "requests_before": 0, "idle_ns": null, "request": null, "received": 0, "response": null,
            "end": how, "tcp": null, "peer": null, "queue": null, "netns": 1,
            "upstream_end": null, "spoke_http": false}),
        )
        .unwrap()
    }

    fn refuse(all: &mut Connects, at: Nanos, upstream: &str, proxy: u32) {
        let how = json!({"how": "connect_failed", "errno": 111});
        all.ended(at, &attempt(upstream, proxy, how));
    }

    fn answer(all: &mut Connects, at: Nanos, upstream: &str, proxy: u32) {
        all.answered(at, &Address(upstream.into()), |of| of == proxy);
    }

    /// Whom process 7 could not connect to before, as of this time.
    fn before(all: &Connects, at: Nanos) -> Option<&str> {
        let request = attempt(A, 7, json!({"how": "answered"}))
            .downstream?
            .request;
        let one = all.before(at, at, request.as_ref(), |of| of == 7)?;
        Some(one.upstream.0.as_str())
    }

    #[test]
    fn an_upstream_that_answers_again_is_not_out() {
        let mut all = Connects::default();
        refuse(&mut all, SECOND, A, 7);
        answer(&mut all, SECOND, A, 7);
        answer(&mut all, 2 * SECOND, B, 7);
        answer(&mut all, 2 * SECOND, A, 8);
        assert_eq!(before(&all, 9 * SECOND), Some(A));
        answer(&mut all, 4 * SECOND, A, 7);
        answer(&mut all, 6 * SECOND, A, 7);
        assert_eq!(before(&all, 3 * SECOND), Some(A));
        assert_eq!(before(&all, 4 * SECOND), None);
        refuse(&mut all, 7 * SECOND, A, 7);
        assert_eq!(before(&all, 8 * SECOND), Some(A));
        assert_eq!(before(&all, 67 * SECOND), Some(A));
        assert_eq!(before(&all, 68 * SECOND), None);
    }

    #[test]
    fn one_of_two_that_answers_again_is_enough() {
        let mut all = Connects::default();
        refuse(&mut all, SECOND, B, 7);
        refuse(&mut all, 2 * SECOND, A, 7);
        assert_eq!(before(&all, 5 * SECOND), Some(A));
        answer(&mut all, 3 * SECOND, B, 7);
        assert_eq!(before(&all, 5 * SECOND), None);
        refuse(&mut all, 4 * SECOND, B, 7);
        assert_eq!(before(&all, 5 * SECOND), Some(B));
    }

    #[test]
    fn what_is_kept_is_bounded_and_counted_right() {
        let mut all = Connects::default();
        for at in 0..3 * KEPT as u64 {
            refuse(&mut all, at, [A, B][(at % 2) as usize], 7);
        }
        assert_eq!(all.all.len(), KEPT);
        assert_eq!(all.silent.values().sum::<usize>(), KEPT);
        answer(&mut all, SECOND, A, 7);
        assert_eq!(all.silent, HashMap::from([(Address(B.into()), KEPT / 2)]));
        refuse(&mut all, 100 * SECOND, A, 7);
        assert_eq!(all.all.len(), 1);
        assert_eq!(all.silent, HashMap::from([(Address(A.into()), 1)]));
    }
}

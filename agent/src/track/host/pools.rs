//! Per proxy and upstream: how pooled connections end, and how attempts went.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::processes::Label;
use super::{SECOND, spread};
use crate::signal::{Address, Attempt, ClosedBy, End, IdleClose, Nanos};
use crate::verdict::Spread;

const CAP: usize = 512;
const CLOSES: usize = 256;
/// From so many closes on, their spread means something.
const ENOUGH: usize = 20;

/// The ends of one proxy's pooled connections to one upstream.
#[derive(Debug, Default)]
pub struct Pool {
    /// Idle times at which the upstream closed, in nanoseconds, with the requests carried until then.
    by_upstream: VecDeque<(u64, u32)>,
    by_proxy: VecDeque<u64>,
    longest_reuse: u64,
    last_answer: Option<Nanos>,
    last_used: Nanos,
    reported: bool,
}

/// An upstream that closes idle connections before the proxy does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClosesEarly {
    /// In microseconds.
    pub closes_after_us: Spread,
    pub longest_reuse_us: u64,
}

impl Pool {
    /// The idle time after which the upstream closes: its median, once there are a few.
    pub fn upstream_closes_after(&self) -> Option<Spread> {
        spread(self.by_upstream.iter().map(|(idle, _)| *idle))
    }

    /// The idle time after which the proxy closes by itself.
    pub fn proxy_closes_after(&self) -> Option<Spread> {
        spread(self.by_proxy.iter().copied())
    }

    /// The longest idle time after which the proxy has used a connection again.
    pub fn longest_reuse(&self) -> u64 {
        self.longest_reuse
    }

    /// When an attempt on this upstream last got an answer.
    pub fn last_answer(&self) -> Option<Nanos> {
        self.last_answer
    }

    /// The number of requests after which the upstream closes at once, where it has such a limit.
    pub fn request_limit(&self) -> Option<u32> {
        let at_once = || {
            self.by_upstream
                .iter()
                .filter(|(idle, _)| *idle < SECOND / 20)
        };
        let limit = at_once().map(|(_, requests)| *requests).max()?;
        let (all, equal) = (
            at_once().count(),
            at_once().filter(|(_, r)| *r == limit).count(),
        );
        (equal >= 3 && equal * 5 >= all * 4 && limit >= 2).then_some(limit)
    }

    pub(super) fn closes_early(&self) -> Option<ClosesEarly> {
        if self.by_upstream.len() < ENOUGH || self.by_proxy.len() >= self.by_upstream.len() {
            return None;
        }
        let nanos = self.upstream_closes_after()?;
        // A timer closes at the same age each time; a restart closes connections of all ages.
        let timer = nanos.p95 - nanos.p5 <= (nanos.median / 4).max(SECOND / 2);
        timer.then_some(ClosesEarly {
            closes_after_us: Spread {
                median: nanos.median / 1000,
                p5: nanos.p5 / 1000,
                p95: nanos.p95 / 1000,
                n: nanos.n,
            },
            longest_reuse_us: self.longest_reuse / 1000,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Pools {
    /// Nested, so that looking one up makes no key.
    by_proxy: FxHashMap<Label, FxHashMap<Address, Pool>>,
    count: usize,
}

impl Pools {
    pub(super) fn get(&self, proxy: &Label, upstream: &Address) -> Option<&Pool> {
        self.by_proxy.get(proxy)?.get(upstream)
    }

    fn get_mut(&mut self, proxy: &Label, upstream: &Address) -> Option<&mut Pool> {
        self.by_proxy.get_mut(proxy)?.get_mut(upstream)
    }

    pub(super) fn new_risk(&mut self, proxy: &Label, upstream: &Address) -> Option<ClosesEarly> {
        let pool = self.get_mut(proxy, upstream)?;
        if pool.reported {
            return None;
        }
        let risk = pool.closes_early()?;
        pool.reported = true;
        Some(risk)
    }

    pub(super) fn idle_closed(&mut self, proxy: &Label, close: &IdleClose, at: Nanos) -> u64 {
        let lost = self.used(proxy, &close.upstream, at);
        let Some(pool) = self.get_mut(proxy, &close.upstream) else {
            return lost;
        };
        match close.by {
            ClosedBy::Upstream => push(&mut pool.by_upstream, (close.idle_ns, close.requests)),
            ClosedBy::Proxy => push(&mut pool.by_proxy, close.idle_ns),
        }
        pool.longest_reuse = pool.longest_reuse.max(close.longest_reuse_ns);
        lost
    }

    pub(super) fn attempted(&mut self, proxy: &Label, attempt: &Attempt, at: Nanos) -> u64 {
        let lost = self.used(proxy, &attempt.upstream, at);
        let Some(pool) = self.get_mut(proxy, &attempt.upstream) else {
            return lost;
        };
        if attempt.end == End::Answered {
            pool.last_answer = pool.last_answer.max(Some(at));
            if attempt.reused {
                pool.longest_reuse = pool.longest_reuse.max(attempt.idle_ns.unwrap_or(0));
            }
        } else if let Some(idle) = idle_when_closed(attempt) {
            // A request met the close, so no `IdleClosed` tells of it.
            push(&mut pool.by_upstream, (idle, attempt.requests_before));
        }
        lost
    }

    /// Sees to it that there is one; says how many were forgotten for it.
    fn used(&mut self, proxy: &Label, upstream: &Address, at: Nanos) -> u64 {
        if let Some(pool) = self.get_mut(proxy, upstream) {
            pool.last_used = pool.last_used.max(at);
            return 0;
        }
        let lost = match self.count >= CAP {
            true => self.forget_unused(),
            false => 0,
        };
        let pool = Pool {
            last_used: at,
            ..Pool::default()
        };
        let pools = self.by_proxy.entry(proxy.clone()).or_default();
        pools.insert(upstream.clone(), pool);
        self.count += 1;
        lost
    }

    /// Forgets the pool that was not used for longest; says how many those are.
    fn forget_unused(&mut self) -> u64 {
        let all = self
            .by_proxy
            .iter()
            .flat_map(|(proxy, pools)| pools.iter().map(move |(to, pool)| (proxy, to, pool)));
        let unused = all.min_by_key(|(_, _, pool)| pool.last_used);
        let Some((proxy, upstream)) = unused.map(|(proxy, to, _)| (proxy.clone(), to.clone()))
        else {
            return 0;
        };
        if let Some(pools) = self.by_proxy.get_mut(&proxy) {
            pools.remove(&upstream);
            if pools.is_empty() {
                self.by_proxy.remove(&proxy);
            }
        }
        self.count -= 1;
        1
    }
}

/// How long a reused connection had been idle when the upstream sent the FIN that met a request.
pub(crate) fn idle_when_closed(attempt: &Attempt) -> Option<u64> {
    let idle = attempt.idle_ns.filter(|_| attempt.reused)?;
    let request = attempt.request.as_ref()?;
    let tcp = attempt.tcp.as_ref()?;
    let fin = tcp.fin.as_ref().filter(|fin| fin.acked == 0)?;
    // The FIN was half a round trip on its way; the last byte received had been, too.
    let last_byte = request.at.checked_sub(idle)?;
    fin.at.checked_sub(last_byte)
}

fn push<T>(ring: &mut VecDeque<T>, value: T) {
    if ring.len() >= CLOSES {
        ring.pop_front();
    }
    ring.push_back(value);
}

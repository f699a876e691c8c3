//! The packet source: from frames, offline or live, to the same signals as the kernel source makes.
//!
//! `stream` and `tcp` follow connections, `talk` finds requests and responses in them, `ties` and `connects`
//! find what belongs to a failed one, `judge` decides what is told, and `signals` tells it. Healthy exchanges leave nothing but a few numbers.

mod abandoned;
mod arena;
mod awaited;
mod begin;
mod clocks;
mod connects;
pub mod decode;
mod due;
mod ends;
pub mod excerpt;
mod exchange;
mod exchanges;
mod facts;
pub mod file;
mod flow;
mod forget;
mod frames;
mod hosts;
mod http;
mod judge;
mod key;
#[cfg(libpcap_linked_in)]
mod libpcap;
pub mod live;
mod opaque;
mod order;
mod outcome;
mod owners;
mod parse;
mod partial;
mod passes;
mod prefetch;
pub mod raw;
mod reorder;
mod requests;
mod responses;
mod rewritten;
pub mod ring;
mod roles;
pub mod segment;
pub mod serving;
mod signals;
mod stream;
mod table;
mod talk;
mod tcp;
#[cfg(test)]
mod tests;
mod ties;
mod together;
mod unread;
pub mod watch;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::signal::{Fact, Nanos, Signal, Source};

use clocks::{Clocks, Stamp};
use exchange::Exchange;
use exchanges::Exchanges;
use flow::Flow;
use hosts::Hosts;
pub use key::space_of;
use order::Order;
use reorder::Reorder;
use serving::Owners;
use table::Table;
use together::Together;

const MILLISECOND: Nanos = 1_000_000;
const SECOND: Nanos = 1_000_000_000;

/// Facts that come after a failure: the reset one round trip later, the response of a busy proxy.
const SETTLE: Nanos = 250 * MILLISECOND;
/// The tracker is told the time this often.
const TICK: Nanos = 50 * MILLISECOND;
/// Failed or unanswered connects remembered until their downstream is answered.
const SUSPECTS: usize = 4096;
/// Two interfaces' clocks may differ by this much when a response is compared with what led to it.
const SKEW: Nanos = MILLISECOND / 2;
/// A proxy answers, or tries again, this soon after an attempt failed.
const AT_ONCE: Nanos = 20 * MILLISECOND;
/// A connect without an answer for so long may be why its downstream fails.
const UNANSWERED: Nanos = 200 * MILLISECOND;
/// A failed connect waits for its downstream's answer as long as others may be tried.
const TRIED: Nanos = 90 * SECOND;
/// With more exchanges than this not all are looked through for a connect's downstream.
const LOOKED_THROUGH: usize = 1024;
/// Bytes of unfinished heads, over all connections.
const PARTIAL: usize = 4 << 20;

/// What was not followed, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections forgotten for want of room.
    pub evicted: u64,
    /// Gaps in connections: bytes that the capture lacks.
    pub gaps: u64,
    /// Heads that were too long or too many at once.
    pub heads: u64,
    /// Connects forgotten for want of room.
    pub connects: u64,
    /// Failed attempts forgotten for want of room.
    pub attempts: u64,
}

/// Follows connections and tells what failed.
#[derive(Default)]
pub struct Packets {
    flows: Table,
    exchanges: Exchanges,
    reorder: Reorder,
    hosts: Hosts,
    /// Heads that have begun, by connection and side.
    partial: FxHashMap<(u32, u8), Vec<u8>>,
    partial_bytes: usize,
    /// Exchanges to be judged, by the time at which the facts are in.
    due: BinaryHeap<Reverse<(Nanos, u32)>>,
    next_due: Nanos,
    /// Connects without an answer, by the address that tried; they carry no request to be told by.
    suspects: FxHashMap<IpAddr, VecDeque<u32>>,
    suspect_count: usize,
    order: Order,
    /// Failed attempts whose responses are still to come.
    awaited: usize,
    /// What roles may be learned from, when it is over.
    lessons: roles::Lessons,
    /// Failed attempts that cannot be read, in the order of their ends.
    unread: VecDeque<unread::Failed>,
    /// Connects without an answer, by the time at which no further SYN can come.
    abandoned: BinaryHeap<Reverse<(Nanos, u32, u64)>>,
    /// Which servers were asked while there were any.
    asked: FxHashMap<IpAddr, abandoned::Asked>,
    /// What servers ended last.
    together: Together,
    /// New connects, watched for their answers.
    connects: VecDeque<(Nanos, u32, u64)>,
    now: Nanos,
    /// When the first packet came.
    began: Nanos,
    /// When packets were lost, the last time.
    lost_at: Nanos,
    clocks: Clocks,
    ticked: Nanos,
    ids: u64,
    segments: u32,
    /// The network namespace of what comes now: each has a loopback of its own.
    space: u32,
    /// There was another than the first one.
    several_spaces: bool,
    owners: Owners,
    /// Processes that connections were found to belong to.
    askers: Vec<u32>,
    started: bool,
    /// No more segments will come.
    ending: bool,
    counts: Counts,
    told: Counts,
}

impl Packets {
    /// `proxies`: addresses that are the proxy's; with none, they are found.
    pub fn new(proxies: &[IpAddr]) -> Packets {
        let mut packets = Packets {
            next_due: Nanos::MAX,
            ..Packets::default()
        };
        packets.hosts.configured = proxies.iter().map(IpAddr::to_canonical).collect();
        packets
    }

    /// What could not be followed so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Connections followed now.
    pub fn connections(&self) -> usize {
        self.flows.len()
    }

    /// What comes now was captured in this network namespace.
    pub fn set_namespace(&mut self, space: u32) {
        self.space = space;
        self.several_spaces |= space != 0;
    }

    /// Which processes serve which addresses, from now on.
    pub fn set_owners(&mut self, owners: Owners) {
        self.owners = owners;
    }

    /// Everything that happened before `now` has been handed over.
    pub fn tick(&mut self, now: Nanos, out: &mut Vec<Signal>) {
        // What was captured may be ahead of who tells the time.
        let at = self.clocks.told(now);
        if at > self.now {
            self.clock_moved(at, out);
        }
    }

    /// Packets were lost, the last of them not after `until`; what was captured before it may
    /// still wait to be handed over.
    pub fn lost_until(
        &mut self,
        until: Nanos,
        stage: &str,
        reason: &str,
        count: u64,
        out: &mut Vec<Signal>,
    ) {
        let fact = Fact::SignalsLost {
            stage: stage.to_owned(),
            reason: reason.to_owned(),
            count,
            probe: None,
        };
        let at = self.clocks.told(until).max(self.now);
        self.lost_at = at;
        self.tell(at, fact, out);
    }

    /// Packets were lost before they could be seen.
    pub fn lost(&mut self, stage: &str, reason: &str, count: u64, out: &mut Vec<Signal>) {
        self.lost_at = self.now;
        self.tell_lost(stage, reason, count, out);
    }

    fn tell_lost(&self, stage: &str, reason: &str, count: u64, out: &mut Vec<Signal>) {
        self.tell(
            self.now,
            Fact::SignalsLost {
                stage: stage.to_owned(),
                reason: reason.to_owned(),
                count,
                probe: None,
            },
            out,
        );
    }

    /// The capture is over: what still waits is told with what is there.
    pub fn finish(&mut self, out: &mut Vec<Signal>) {
        while let Some((flow, side)) = self.reorder.any() {
            self.drain(flow, side, true, out);
        }
        self.ending = true;
        self.learn_roles();
        self.judge_due(Nanos::MAX, out);
        self.judge_open(out);
        self.tell_counts(out);
        self.tell(self.now.saturating_add(2 * SETTLE), Fact::Tick, out);
    }

    /// The capture's time, which does not go back far. `next`: what comes after this, if known.
    #[inline]
    fn clock(&mut self, stamp: Stamp, next: Option<Stamp>, out: &mut Vec<Signal>) -> Nanos {
        let at = self.clocks.read(stamp);
        if at >= self.now && at < self.next_due && at < self.ticked + TICK {
            self.now = at;
            return at;
        }
        let at = self.clocks.settle(stamp, next, self.now);
        self.clock_moved(at, out)
    }

    #[cold]
    fn clock_moved(&mut self, at: Nanos, out: &mut Vec<Signal>) -> Nanos {
        if at > self.now {
            if self.now == 0 {
                self.began = at;
            }
            self.now = at;
            // Before anything is judged: what is waited for no longer may be what it lacks.
            while let Some((flow, side)) = self.reorder.overdue(at) {
                self.drain(flow, side, true, out);
            }
            self.learn_roles();
            if at >= self.next_due {
                self.judge_due(at, out);
            }
            if at >= self.ticked + TICK {
                self.chores(out);
            }
        }
        at
    }

    /// What is done a few times a second of the capture.
    fn chores(&mut self, out: &mut Vec<Signal>) {
        self.ticked = self.now;
        if !self.started {
            self.started = true;
            // What packets cannot show is missing by nature; no kind of fact is promised.
            let (sees, blind) = (Vec::new(), Vec::new());
            self.tell(self.now, Fact::SourceStarted { sees, blind }, out);
        }
        self.unanswered();
        self.tell_abandoned(out);
        self.exchanges.expire(self.now);
        self.together.forget(self.now);
        self.tell_counts(out);
        self.tell(self.now, Fact::Tick, out);
    }

    /// Forgotten connections may have been part of what is open.
    fn tell_counts(&mut self, out: &mut Vec<Signal>) {
        let (now, before) = (self.counts, self.told);
        self.told = now;
        for (reason, count) in [
            ("flows", now.evicted - before.evicted),
            ("heads", now.heads - before.heads),
            ("connects", now.connects - before.connects),
            ("attempts", now.attempts - before.attempts),
        ] {
            if count > 0 {
                self.tell_lost("packets", reason, count, out);
            }
        }
    }

    fn tell(&self, at: Nanos, fact: Fact, out: &mut Vec<Signal>) {
        out.push(Signal {
            at,
            source: Source::Packets,
            fact,
        });
    }

    /// The exchange's connection, unless it was forgotten.
    fn flow_of(&self, exchange: &Exchange) -> Option<&Flow> {
        self.flows
            .peek(exchange.flow)
            .filter(|flow| flow.id == exchange.flow_id)
    }
}

//! Which attempts ended and which failed responses began at the same moment: whether an attempt and
//! a response have only each other. Pure.
//!
//! Proxies that work on several requests at once, or whose work moves between threads, leave no
//! order by which to tell whose attempt it was. What was asked does, where at the moment of the
//! answer one attempt for it ended, and one answer to it began.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::cause::Cause;
use crate::diagnose::Tried;
use crate::signal::{Attempt, End, FlowId, Nanos, Opening, Response};
use crate::track::host::SECOND;
use crate::verdict::Confidence;

/// What is told at most so far apart may be one thing. A proxy answers as soon as it knows.
const AT_ONCE: Nanos = 2_000_000;
/// The same where the host is busy.
pub(super) const LATE: Nanos = 50_000_000;
/// What is decided later than this after it was told is not said to be alone.
const HORIZON: Nanos = 2_000_000_000;
/// With more of them nothing is said to be alone.
const KEPT: usize = 4096;
/// For how long a proxy that had a client whose requests cannot be read is taken to have others.
const UNREAD: Nanos = 3600 * SECOND;
/// Far more proxies than a host has.
const PROXIES: usize = 1024;
/// Bytes of a path that are compared: of an attempt's, no more than that may be known.
const COMPARED: usize = 32;

#[derive(Debug, PartialEq, Eq)]
enum Who {
    /// And when it began.
    Attempt(FlowId, Nanos),
    Response(FlowId, u32),
}

#[derive(Debug)]
struct Moment {
    at: Nanos,
    proxy: u32,
    /// When the response's request was read, as far as that is known.
    asked_at: Nanos,
    /// What was asked; `None` where nothing was (a connect that failed).
    asked: Option<u64>,
    who: Who,
    /// An attempt that got no connection.
    unconnected: bool,
    /// What an attempt failed of, once that is decided.
    told: Option<(Cause, Confidence)>,
}

#[derive(Debug, Default)]
pub(super) struct Moments {
    recent: VecDeque<Moment>,
    /// Up to then some were forgotten.
    forgotten: Nanos,
    /// Proxies with clients of which no request and no response can be told, and when that was seen last.
    unread: BTreeMap<u32, Nanos>,
}

impl Moments {
    /// An attempt that led to a failed response, or may have.
    pub(super) fn ended(&mut self, at: Nanos, attempt: &Attempt) {
        let link = attempt.downstream.as_ref();
        self.read(at, attempt.proxy, link.and_then(|l| l.request.as_ref()));
        let asked = attempt.request.as_ref().and_then(|r| asked(&r.opening));
        self.keep(Moment {
            at,
            proxy: attempt.proxy,
            asked_at: 0,
            asked,
            who: Who::Attempt(attempt.flow, attempt.began),
            unconnected: is_unconnected(attempt),
            told: None,
        });
    }

    pub(super) fn answered(&mut self, at: Nanos, response: &Response) {
        if let Some(last) = &response.last_attempt {
            self.ended(at, last);
        }
        self.read(at, response.proxy, response.request.as_ref());
        let asked = response.request.as_ref().and_then(asked);
        let who = Who::Response(response.downstream, response.ordinal);
        self.keep(Moment {
            at,
            proxy: response.proxy,
            asked_at: response.request_at.unwrap_or(0),
            asked,
            who,
            unconnected: false,
            told: None,
        });
    }

    /// What a client of this proxy sent.
    fn read(&mut self, at: Nanos, proxy: u32, request: Option<&Opening>) {
        if !matches!(
            request,
            Some(Opening::Tls | Opening::Http2 | Opening::Unseen)
        ) {
            return;
        }
        if self.unread.len() >= PROXIES && !self.unread.contains_key(&proxy) {
            let oldest = self.unread.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(proxy, _)| *proxy) {
                self.unread.remove(&oldest);
            }
        }
        let last = self.unread.entry(proxy).or_default();
        *last = at.max(*last);
    }

    /// Whether all responses of this proxy are seen that fail, as far as is known.
    pub(super) fn reads_all(&self, proxy: u32, at: Nanos) -> bool {
        let last = self.unread.get(&proxy);
        last.is_none_or(|last| last.saturating_add(UNREAD) < at)
    }

    fn keep(&mut self, moment: Moment) {
        while let Some(oldest) = self.recent.front() {
            let old = oldest.at + HORIZON < moment.at;
            if !old && self.recent.len() < KEPT {
                break;
            }
            self.forgotten = self.forgotten.max(oldest.at);
            self.recent.pop_front();
        }
        self.recent.push_back(moment);
    }

    /// Whether no attempt of this connect's proxy that ended at this moment was a handshake, as far as
    /// can be told. Connects that failed are not looked at.
    pub(super) fn no_handshake(&self, connect: &Tried, at: Nanos) -> bool {
        let from = connect.at.min(at);
        let connect = &connect.attempt;
        let known = self.forgotten.saturating_add(AT_ONCE) < from;
        let mut here = self.recent.iter().filter(|moment| {
            let connected = matches!(moment.who, Who::Attempt(..)) && !moment.unconnected;
            connected && moment.proxy == connect.proxy && between(moment.at, from, at)
        });
        // One that got a connection is no other's connect, but for what cannot be compared.
        known && connect.request.is_none() && here.all(|moment| moment.asked.is_some())
    }

    /// The other attempts that may have led to this response, where the last of its own ended when it
    /// began, the first began when the request came, and it was for what the response answers. None: no
    /// other attempt and no other response like these comes into question. A connect that failed may
    /// have been for any request.
    ///
    /// Both moments count: a request that waited in the proxy's queue until it was refused is
    /// answered at the moment at which another one's attempt fails, often enough under load.
    pub(super) fn others(
        &self,
        attempts: &[Tried],
        at: Nanos,
        response: &Response,
    ) -> Option<BTreeSet<(FlowId, Nanos)>> {
        let (first, tried) = (attempts.first()?, attempts.last()?);
        let attempt = &tried.attempt;
        let began = response.request_at.is_some_and(|asked| {
            let waited = first.attempt.began.checked_sub(asked);
            // Who finds no room in a queue is told so by another status.
            let prompt = if response.status == Some(502) {
                LATE
            } else {
                AT_ONCE
            };
            waited.is_some_and(|waited| waited <= prompt)
        });
        let earliest = tried.at.min(at).saturating_sub(AT_ONCE);
        if !began || !at_once(tried.at, at) || earliest <= self.forgotten {
            return None;
        }
        // Whose response shows nowhere may be meant as well.
        if !self.reads_all(attempt.proxy, at) {
            return None;
        }
        // Proxies make these by themselves, too, when the same request of another client has failed and
        // is tried again: then no failed response of that client is seen.
        let of_its_own = matches!(response.status, Some(429 | 503)) && tried_again(attempt);
        if of_its_own {
            return None;
        }
        let wanted = attempt.request.as_ref().and_then(|r| asked(&r.opening));
        let answered = response.request.as_ref().and_then(asked);
        // Bytes that cannot be compared are of any request.
        let told = wanted.is_some() && wanted == answered;
        if !told && (attempt.request.is_some() || !is_unconnected(attempt)) {
            return None;
        }
        let own = |m: &&Moment| m.proxy == attempt.proxy;
        let mut others = BTreeSet::new();
        let mut answers = BTreeSet::new();
        let mut later = BTreeSet::new();
        for moment in self.recent.iter().filter(own) {
            let like = moment.asked.is_none() || moment.asked == answered;
            match moment.who {
                Who::Attempt(flow, began) if at_once(moment.at, at) => {
                    let this = (flow, began) == (attempt.flow, attempt.began);
                    others.extend((like && !this).then_some((flow, began)));
                    later.extend((began > at).then_some((flow, began)));
                }
                // Not one whose request came when the attempt had ended.
                Who::Response(flow, ordinal)
                    if at_once(moment.at, tried.at) && moment.asked_at <= tried.at =>
                {
                    let this = (flow, ordinal) == (response.downstream, response.ordinal);
                    // What a connect was for is not told: that of any response with none of its own.
                    let like = like || !told && !self.has_attempt(moment);
                    answers.extend((like && !this).then_some((flow, ordinal)));
                }
                _ => {}
            }
        }
        if answers.is_empty() {
            // What was begun after the only response is not what it was made of.
            others.retain(|other| !later.contains(other));
        }
        // More responses than attempts: not each can have had one.
        (answers.len() <= others.len()).then_some(others)
    }

    /// Whether an attempt for what this response answers ended at its moment.
    fn has_attempt(&self, response: &Moment) -> bool {
        self.recent.iter().any(|m| {
            let attempt = matches!(m.who, Who::Attempt(..)) && m.proxy == response.proxy;
            attempt && m.asked.is_some() && m.asked == response.asked && at_once(m.at, response.at)
        })
    }

    /// Whether an attempt for what this response answers ended since its request came.
    pub(super) fn tried_meanwhile(&self, at: Nanos, response: &Response) -> bool {
        let answered = response.request.as_ref().and_then(asked);
        let from = response.request_at.unwrap_or(at);
        self.recent.iter().any(|m| {
            let attempt = matches!(m.who, Who::Attempt(..)) && m.proxy == response.proxy;
            attempt && m.asked.is_some() && m.asked == answered && between(m.at, from, at)
        })
    }

    /// Whether another attempt than these, for what this response answers, ended since its request came.
    pub(super) fn tried_otherwise(&self, own: &[Tried], at: Nanos, response: &Response) -> bool {
        let answered = response.request.as_ref().and_then(asked);
        let from = response.request_at.unwrap_or(at);
        self.recent.iter().any(|m| {
            let Who::Attempt(flow, began) = m.who else {
                return false;
            };
            let known = |t: &Tried| (t.attempt.flow, t.attempt.began) == (flow, began);
            let another = m.proxy == response.proxy && !own.iter().any(known);
            another && m.asked.is_some() && m.asked == answered && between(m.at, from, at)
        })
    }

    /// Whether nothing else like this was answered in this time.
    pub(super) fn only_answer(&self, response: &Response, from: Nanos, to: Nanos) -> bool {
        let answered = response.request.as_ref().and_then(asked);
        let another = |m: &Moment| match m.who {
            Who::Response(flow, ordinal) => {
                let this = (flow, ordinal) == (response.downstream, response.ordinal);
                let like = m.proxy == response.proxy && m.asked == answered;
                like && !this && (from..=to).contains(&m.at)
            }
            Who::Attempt(..) => false,
        };
        self.forgotten < from && !self.recent.iter().any(another)
    }

    /// The other attempts that ended between this one's end and that moment, and may have been for the same
    /// request.
    pub(super) fn like(&self, tried: &Tried, at: Nanos) -> Option<BTreeSet<(FlowId, Nanos)>> {
        let attempt = &tried.attempt;
        let from = tried.at.min(at);
        let wanted = attempt.request.as_ref().and_then(|r| asked(&r.opening))?;
        let other = |m: &Moment| match m.who {
            Who::Attempt(flow, began) if m.proxy == attempt.proxy => {
                let this = (flow, began) == (attempt.flow, attempt.began);
                let like = m.asked.is_none_or(|asked| asked == wanted) && !this;
                let then = between(m.at, from, at) && began <= at;
                (like && then && !m.unconnected).then_some((flow, began))
            }
            _ => None,
        };
        let known = self.forgotten.saturating_add(AT_ONCE) < from;
        known.then(|| self.recent.iter().filter_map(other).collect())
    }

    /// The same, where no more responses like this one began then than attempts like this ended.
    pub(super) fn as_many(
        &self,
        tried: &Tried,
        at: Nanos,
        response: &Response,
    ) -> Option<BTreeSet<(FlowId, Nanos)>> {
        let others = self.like(tried, at)?;
        let from = tried.at.min(at);
        let answered = response.request.as_ref().and_then(asked);
        let another = |moment: &&Moment| match moment.who {
            Who::Response(flow, ordinal) => {
                let this = (flow, ordinal) == (response.downstream, response.ordinal);
                let like = moment.proxy == response.proxy && moment.asked == answered;
                like && !this && between(moment.at, from, at)
            }
            Who::Attempt(..) => false,
        };
        let answers = self.recent.iter().filter(another).count();
        (answers <= others.len()).then_some(others)
    }

    /// What this attempt failed of, once that is decided.
    pub(super) fn decided(&mut self, attempt: &Attempt, cause: Cause, confidence: Confidence) {
        let who = Who::Attempt(attempt.flow, attempt.began);
        for moment in self.recent.iter_mut().filter(|m| m.who == who) {
            moment.told = Some((cause, confidence));
        }
    }

    pub(super) fn told(&self, (flow, began): (FlowId, Nanos)) -> Option<(Cause, Confidence)> {
        let who = Who::Attempt(flow, began);
        self.recent.iter().rev().find(|m| m.who == who)?.told
    }
}

/// Whether it may have been from then until then.
pub(super) fn between(moment: Nanos, from: Nanos, to: Nanos) -> bool {
    moment.saturating_add(AT_ONCE) >= from && moment <= to.saturating_add(AT_ONCE)
}

/// What proxies try again, unless they are told not to.
fn tried_again(attempt: &Attempt) -> bool {
    let broken = matches!(
        attempt.end,
        End::PeerClosed | End::Reset | End::SendFailed { .. }
    );
    broken && attempt.received == 0
}

pub(super) fn is_unconnected(attempt: &Attempt) -> bool {
    matches!(attempt.end, End::ConnectFailed { .. } | End::ConnectGivenUp)
}

/// Whether two moments may be one.
pub(super) fn at_once(one: Nanos, other: Nanos) -> bool {
    one.abs_diff(other) <= AT_ONCE
}

fn asked(opening: &Opening) -> Option<u64> {
    let Opening::HttpRequest { method, path, .. } = opening else {
        return None;
    };
    let bytes = path.as_bytes();
    let mut hasher = DefaultHasher::new();
    (method, &bytes[..bytes.len().min(COMPARED)]).hash(&mut hasher);
    Some(hasher.finish())
}

//! Which attempts ended and which failed responses began at the same moment: whether an attempt and
//! a response have only each other. Pure.
//!
//! Proxies that work on several requests at once, or whose work moves between threads, leave no
//! order by which to tell whose attempt it was. What was asked does, where at the moment of the
//! answer one attempt for it ended, and one answer to it began.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::diagnose::Tried;
use crate::signal::{Attempt, End, FlowId, Nanos, Opening, Response};

/// What is told at most so far apart may be one thing. A proxy answers as soon as it knows.
const AT_ONCE: Nanos = 2_000_000;
/// What is decided later than this after it was told is not said to be alone.
const HORIZON: Nanos = 2_000_000_000;
/// With more of them nothing is said to be alone.
const KEPT: usize = 4096;
/// Bytes of a path that are compared: of an attempt's, no more than that may be known.
const COMPARED: usize = 32;

#[derive(Debug, PartialEq, Eq)]
enum Who {
    Attempt(FlowId),
    Response(FlowId, u32),
}

#[derive(Debug)]
struct Moment {
    at: Nanos,
    proxy: u32,
    /// What was asked; `None` where nothing was (a connect that failed).
    asked: Option<u64>,
    who: Who,
    /// An attempt that got no connection.
    unconnected: bool,
}

#[derive(Debug, Default)]
pub(super) struct Moments {
    recent: VecDeque<Moment>,
    /// Up to then some were forgotten.
    forgotten: Nanos,
}

impl Moments {
    /// An attempt that led to a failed response, or may have.
    pub(super) fn ended(&mut self, at: Nanos, attempt: &Attempt) {
        let answered_well = attempt.end == End::Answered
            && !matches!(
                attempt.response,
                Some(Opening::HttpResponse { status: 500.. })
            );
        if !answered_well {
            let asked = attempt.request.as_ref().and_then(|r| asked(&r.opening));
            self.keep(Moment {
                at,
                proxy: attempt.proxy,
                asked,
                who: Who::Attempt(attempt.flow),
                unconnected: is_unconnected(attempt),
            });
        }
    }

    pub(super) fn answered(&mut self, at: Nanos, response: &Response) {
        if let Some(last) = &response.last_attempt {
            self.ended(at, last);
        }
        let asked = response.request.as_ref().and_then(asked);
        let who = Who::Response(response.downstream, response.ordinal);
        self.keep(Moment {
            at,
            proxy: response.proxy,
            asked,
            who,
            unconnected: false,
        });
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

    /// Whether no other attempt of its proxy that ended between these moments can have been for the same
    /// request as this one. Connects that failed are not looked at.
    pub(super) fn only(&self, attempt: &Attempt, since: Nanos, until: Nanos) -> bool {
        let wanted = attempt.request.as_ref().and_then(|r| asked(&r.opening));
        let unconnected = is_unconnected(attempt);
        if self.forgotten >= since
            || at_once(self.forgotten, since)
            || wanted.is_none() != unconnected
        {
            return false;
        }
        let mut others = self.recent.iter().filter(|moment| {
            let own = moment.who == Who::Attempt(attempt.flow);
            let attempted = matches!(moment.who, Who::Attempt(_));
            let meanwhile = meanwhile(moment.at, since, until);
            attempted && !own && !moment.unconnected && moment.proxy == attempt.proxy && meanwhile
        });
        // One that got a connection is no other's connect, but for what cannot be compared: a handshake.
        others.all(|moment| moment.asked.is_some() && moment.asked != wanted)
    }

    /// Whether the first of these attempts began when the request came and the last one ended when the
    /// response began, for a request that the response answers, and no other like either did. A
    /// connect that failed may have been for any request.
    ///
    /// Both moments count: a request that waited in the proxy's queue until it was refused is
    /// answered at the moment at which another one's attempt fails, often enough under load.
    pub(super) fn alone(&self, attempts: &[Tried], at: Nanos, response: &Response) -> bool {
        let (Some(first), Some(tried)) = (attempts.first(), attempts.last()) else {
            return false;
        };
        let attempt = &tried.attempt;
        let began = response.request_at.is_some_and(|asked| {
            asked <= first.attempt.began && at_once(asked, first.attempt.began)
        });
        let earliest = tried.at.min(at).saturating_sub(AT_ONCE);
        if !began || !at_once(tried.at, at) || earliest <= self.forgotten {
            return false;
        }
        // Proxies make these by themselves, too, when the same request of another client has failed and
        // is tried again: then no failed response of that client is seen.
        let of_its_own = matches!(response.status, Some(429 | 503)) && tried_again(attempt);
        if of_its_own {
            return false;
        }
        let wanted = attempt.request.as_ref().and_then(|r| asked(&r.opening));
        if attempt.request.is_some() {
            // Bytes that cannot be compared are of any request.
            let answered = response.request.as_ref().and_then(asked);
            if wanted.is_none() || wanted != answered {
                return false;
            }
        } else if !is_unconnected(attempt) {
            return false;
        }
        let mut here = self.recent.iter().filter(|m| m.proxy == attempt.proxy);
        here.all(|moment| match &moment.who {
            Who::Attempt(flow) => {
                let like = wanted.is_none() || moment.asked.is_none() || moment.asked == wanted;
                *flow == attempt.flow || !at_once(moment.at, at) || !like
            }
            Who::Response(flow, ordinal) => {
                let this = (*flow, *ordinal) == (response.downstream, response.ordinal);
                let like = wanted.is_none() || moment.asked.is_none() || moment.asked == wanted;
                this || !at_once(moment.at, tried.at) || !like
            }
        })
    }
}

/// What proxies try again, unless they are told not to.
fn tried_again(attempt: &Attempt) -> bool {
    let broken = matches!(
        attempt.end,
        End::PeerClosed | End::Reset | End::SendFailed { .. }
    );
    broken && attempt.received == 0
}

fn is_unconnected(attempt: &Attempt) -> bool {
    matches!(attempt.end, End::ConnectFailed { .. } | End::ConnectGivenUp)
}

/// Whether a moment is between these two, or may be one of them.
pub(super) fn meanwhile(at: Nanos, since: Nanos, until: Nanos) -> bool {
    (since..=until).contains(&at) || at_once(at, since) || at_once(at, until)
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

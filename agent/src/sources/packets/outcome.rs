//! What came of an attempt, as far as it bears on the response that was made of it.

use crate::signal::{End, Nanos};

use super::exchange::Exchange;
use super::flow::{Direction, Flow, ahead};
use super::{Packets, SKEW};

/// What a write gets after the reset.
const ECONNRESET: i32 = 104;

/// How an attempt ended, and when.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    pub how: End,
    pub at: Nanos,
}

impl Packets {
    /// What came of an attempt for this request, up to its response.
    pub(super) fn outcome(&self, attempt: u32, request: u32) -> Outcome {
        let exchange = self.exchanges.at(attempt);
        let over = self.exchanges.at(request).over_at().unwrap_or(Nanos::MAX);
        let given_up = Outcome {
            how: if exchange.is(Exchange::BARE) {
                End::ConnectGivenUp
            } else {
                End::GivenUp
            },
            at: if over == Nanos::MAX { self.now } else { over },
        };
        match &exchange.ended {
            // Of connects it is their order that tells, as far as two clocks agree.
            Some(ended) if exchange.is(Exchange::BARE) && ended.at <= over.saturating_add(SKEW) => {
                Outcome {
                    how: ended.how,
                    at: ended.at.min(over),
                }
            }
            Some(ended) if ended.at <= over => Outcome {
                how: ended.how,
                at: ended.at,
            },
            None if exchange.answered_at != 0
                && exchange.answered_at <= over.saturating_add(self.skew_of(attempt, request)) =>
            {
                let answered = Outcome {
                    how: End::Answered,
                    at: exchange.answered_at.min(over),
                };
                let cut_off = self.cut_off(attempt, request);
                cut_off.filter(|cut| cut.at <= over).unwrap_or(answered)
            }
            // The proxy answered while it still waited.
            _ => given_up,
        }
    }

    /// By another interface's clock a good answer may come a moment after it was passed on.
    fn skew_of(&self, attempt: u32, request: u32) -> Nanos {
        let status = self.exchanges.at(attempt).status;
        match (1..500).contains(&status) && status == self.exchanges.at(request).status {
            true => SKEW,
            false => 0,
        }
    }

    /// The upstream, which had answered well, reset the connection under a body that it had not taken,
    /// or that was not all sent: the proxy failed the request for it.
    fn cut_off(&self, attempt: u32, request: u32) -> Option<Outcome> {
        let exchange = self.exchanges.at(attempt);
        let flow = self.flow_of(exchange)?;
        let well = (1..500).contains(&exchange.status);
        let refused = well && self.exchanges.at(request).status >= 500;
        let last = exchange.ordinal == flow.requests;
        let reset = flow.is(Flow::RESET_BY_SERVER) && flow.reset_at >= exchange.answered_at;
        if !(refused && last && reset) {
            return None;
        }
        let up = flow.to_server();
        let sent = ahead(exchange.start, exchange.end);
        let untaken = up.is(Direction::ACKED) && ahead(exchange.start, up.acked) < sent;
        let how = if up.parse.is_cut_short() {
            End::SendFailed { errno: ECONNRESET }
        } else {
            End::Reset
        };
        (untaken || how != End::Reset).then_some(Outcome {
            how,
            at: flow.reset_at,
        })
    }
}

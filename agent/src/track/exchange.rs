//! One exchange while its facts come in: attempts, what was learned after them, the response. Pure.

use std::cell::OnceCell;

use super::logs::ToldId;
use super::seen::Seen;
use super::told::Told;
use crate::diagnose::Tried;
use crate::signal::{
    Address, Attempt, DownstreamState, End, FlowClosed, FlowId, Link, LinkOrder, LoggedTry, Nanos,
    Opening, Response, Software, Source,
};

/// Attempts kept of one exchange: the first, and the last ones.
const ATTEMPTS: usize = 16;

/// An exchange with a failed attempt or a failed response.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The last moment anything happened in it.
    pub(super) touched: Nanos,
    pub(super) attempts: Vec<Tried>,
    pub(super) response: Option<(Nanos, Source, Response)>,
    /// The last failed attempt is being tried again.
    pub(super) retried: bool,
    /// What lines of logs say about it, and which lines these are.
    pub(super) told: Option<Told>,
    pub(super) told_id: Option<ToldId>,
    /// The client's status is the log's word.
    pub(super) status_of_log: bool,
    /// What lines are compared with, made when first asked for.
    seen: OnceCell<Seen>,
}

impl Exchange {
    pub(super) fn new(now: Nanos) -> Exchange {
        Exchange {
            touched: now,
            attempts: Vec::new(),
            response: None,
            retried: false,
            told: None,
            told_id: None,
            status_of_log: false,
            seen: OnceCell::new(),
        }
    }

    /// An exchange of which only lines are known.
    pub(super) fn of_log(told: Told, flow: FlowId) -> Exchange {
        let (attempts, response) = told.facts(flow);
        Exchange {
            touched: told.from,
            attempts,
            response,
            retried: false,
            told: Some(told),
            told_id: None,
            status_of_log: false,
            seen: OnceCell::new(),
        }
    }

    pub(super) fn seen(&self) -> &Seen {
        self.seen.get_or_init(|| Seen::of(self))
    }

    /// Takes in its response; the first one counts.
    pub(super) fn respond(&mut self, at: Nanos, source: Source, response: &Response) {
        self.seen.take();
        self.touched = at;
        self.response
            .get_or_insert_with(|| (at, source, response.clone()));
    }

    /// Takes in what lines of logs say about it, in the place of what they said before.
    pub(super) fn take_told(&mut self, told: Option<(ToldId, Told)>) {
        for tried in &mut self.attempts {
            tried.said = None;
        }
        if let Some((_, _, response)) = self.response.as_mut().filter(|_| self.status_of_log) {
            response.status = None;
        }
        self.status_of_log = false;
        let (id, told) = told.unzip();
        if let Some(told) = &told {
            self.take_statements(told);
            self.take_status(told);
        }
        (self.told_id, self.told) = (id, told);
    }

    fn take_statements(&mut self, told: &Told) {
        let said = |(at, one): &(Nanos, LoggedTry)| Some((*at, one.clone(), one.said?));
        let mut open: Vec<_> = told.tries.iter().filter_map(said).collect();
        let alone = open.len() == 1;
        // Of one upstream's several attempts that one line tells of, the last.
        for tried in self.attempts.iter_mut().rev() {
            let same = |one: &LoggedTry| {
                let ends = one.local.as_ref().zip(tried.attempt.local.as_ref());
                let upstream = one.upstream.as_ref() == Some(&tried.attempt.upstream);
                upstream && ends.is_none_or(|(told, seen)| told == seen)
            };
            let place = open.iter().rposition(|(_, one, _)| same(one));
            tried.said = place.map(|place| {
                let (at, _, said) = open.remove(place);
                (at, said)
            });
        }
        // A log that names its servers in its own way tells of the last one. Varnish does where it has no
        // connection, and tells of each try.
        let last_told = told.tries.last().map(|(_, one)| one);
        let varnish = told.proxy == Some(Software::Varnish);
        if let (Some((at, one, said)), Some(last)) = (open.last(), self.attempts.last_mut())
            && last.said.is_none()
            && (alone || varnish && last_told == Some(one) && one.local.is_none())
        {
            last.said = Some((*at, *said));
        }
    }

    /// Where several lines come into question, none gives the status.
    fn take_status(&mut self, told: &Told) {
        if let Some((_, _, response)) = &mut self.response
            && response.status.is_none()
            && !told.ambiguous
            && told.status.is_some()
        {
            response.status = told.status;
            self.status_of_log = true;
        }
    }

    /// Adds an attempt, or completes the one already told (a flow's attempt is told once as ended,
    /// and may be told again as the response's last).
    /// Returns the flow of an attempt that had to be forgotten for it.
    pub(super) fn add(&mut self, at: Nanos, source: Source, attempt: Attempt) -> Option<FlowId> {
        let mut forgotten = None;
        self.seen.take();
        self.touched = self.touched.max(at);
        self.retried = false;
        if let Some(known) = self
            .attempts
            .iter_mut()
            .find(|t| t.attempt.flow == attempt.flow && t.attempt.began == attempt.began)
        {
            let link = known
                .attempt
                .downstream
                .take()
                .or(attempt.downstream.clone());
            let fault = known.attempt.fault.or(attempt.fault);
            if known.attempt.end != End::GivenUp && attempt.end == End::Answered {
                // Its end is known; this only says that the response followed.
                (known.attempt.downstream, known.attempt.fault) = (link, fault);
                return None;
            }
            // What was seen waiting when the response began has ended now; the earlier sample of the
            // upstream's end is the nearer one to the decision.
            let sampled = known
                .attempt
                .peer
                .take()
                .filter(|_| known.attempt.end == End::GivenUp);
            known.attempt = Attempt {
                peer: sampled.or(attempt.peer.clone()),
                downstream: link,
                fault,
                ..attempt
            };
            return None;
        }
        if self.attempts.len() >= ATTEMPTS {
            forgotten = Some(self.attempts.remove(1).attempt.flow);
        }
        self.attempts.push(Tried {
            at,
            source,
            attempt,
            closed: None,
            said: None,
        });
        self.attempts.sort_by_key(|t| t.attempt.began);
        forgotten
    }

    /// Whether this attempt has been told of.
    pub(super) fn knows(&self, attempt: &Attempt) -> bool {
        let same = |t: &Tried| (t.attempt.flow, t.attempt.began) == (attempt.flow, attempt.began);
        self.attempts.iter().any(same)
    }

    /// Whether all its attempts were begun when the request had been read that the other one answers.
    pub(super) fn is_try_of(&self, other: &Exchange) -> bool {
        let Some((_, _, response)) = &other.response else {
            return false;
        };
        let request = (response.downstream, response.ordinal);
        let link = |t: &Tried| t.attempt.downstream.as_ref().map(|l| (l.flow, l.ordinal));
        !self.attempts.is_empty() && self.attempts.iter().all(|t| link(t) == Some(request))
    }

    /// Takes over the attempt of another that is given up.
    pub(super) fn adopt(&mut self, tried: Tried) {
        self.seen.take();
        self.attempts.push(tried);
    }

    /// Gives its last attempt up.
    pub(super) fn release(&mut self) -> Option<Tried> {
        self.seen.take();
        self.attempts.pop()
    }

    /// Ties the last attempt, if it is `alone`, to its response.
    pub(super) fn tie_alone(&mut self, alone: bool) {
        let (Some((_, _, response)), Some(tried), true) =
            (&self.response, self.attempts.last_mut(), alone)
        else {
            return;
        };
        tried.attempt.downstream = Some(Link {
            flow: response.downstream,
            ordinal: response.ordinal,
            order: LinkOrder::Alone,
            client: response.client.clone(),
            proxy_address: response.proxy_address.clone(),
            request: response.request.clone(),
            state: DownstreamState::Unknown,
            read_before_ns: None,
        });
    }

    /// Where its response was seen, or else its last attempt.
    pub(super) fn source(&self) -> Source {
        let response = self.response.as_ref().map(|(_, source, _)| *source);
        let attempt = || self.attempts.last().map(|t| t.source);
        response.or_else(attempt).unwrap_or(Source::Kernel)
    }

    /// When the response was sent; without one, when anything happened last.
    pub(super) fn answered_at(&self) -> Nanos {
        self.response
            .as_ref()
            .map_or(self.touched, |(at, _, _)| *at)
    }

    /// What its client asked for, as far as is known.
    pub(super) fn request(&self) -> Option<&Opening> {
        let answered = self.response.as_ref();
        let answered = answered.and_then(|(.., r)| r.request.as_ref());
        let mut links = (self.attempts.iter()).filter_map(|t| t.attempt.downstream.as_ref());
        answered.or_else(|| links.find_map(|link| link.request.as_ref()))
    }

    /// Who asked, as far as is known.
    pub(super) fn client(&self) -> Option<&Address> {
        let answered = self.response.as_ref();
        let answered = answered.and_then(|(_, _, response)| response.client.as_ref());
        let attempts = self.attempts.iter().rev();
        let mut links = attempts.filter_map(|t| t.attempt.downstream.as_ref());
        answered.or_else(|| links.find_map(|link| link.client.as_ref()))
    }

    /// When it began, as far as is known: facts of it may have been lost since.
    pub(super) fn began(&self) -> Nanos {
        let attempts = self.attempts.iter().map(|t| t.attempt.began.min(t.at));
        let response = self.response.as_ref();
        let response = response.map(|(at, _, r)| r.request_at.unwrap_or(*at));
        attempts.chain(response).min().unwrap_or(self.touched)
    }

    /// Later facts of one of its flows.
    pub(super) fn flow_closed(&mut self, at: Nanos, closed: &FlowClosed) {
        self.touched = self.touched.max(at);
        if let Some(tried) = self
            .attempts
            .iter_mut()
            .rev()
            .find(|t| t.attempt.flow == closed.flow)
        {
            tried.closed = Some(closed.clone());
        }
    }

    /// Nothing but refused calls of Unix sockets, none for a client's request (the C library asks the
    /// name service in this way), or answers to requests that no client is known to have made (a
    /// proxy's own health checks, or those of clients that were answered well).
    pub(super) fn led_by_no_request(&self) -> bool {
        let own = |t: &Tried| {
            t.attempt.downstream.is_none()
                && match t.attempt.end {
                    End::ConnectFailed { .. } => t.attempt.upstream.is_unix(),
                    end => end == End::Answered || t.attempt.received > 0,
                }
        };
        let kernel = self.source() == Source::Kernel;
        kernel && self.response.is_none() && self.attempts.iter().all(own)
    }

    /// Its client was served, as far as it shows, and no attempt of its own has failed.
    pub(super) fn went_well(&self) -> bool {
        let served = |(_, source, response): &(Nanos, Source, Response)| {
            *source == Source::Kernel
                && response.status.is_some_and(|status| status < 500)
                && response.adjacent.is_none()
        };
        let told = self.told.as_ref().is_some_and(|told| !told.saved());
        !told && self.attempts.is_empty() && self.response.as_ref().is_some_and(served)
    }

    /// The last attempt got an answer from its upstream that was not itself a server error.
    pub(super) fn saved(&self) -> bool {
        self.attempts.last().is_some_and(|t| {
            t.attempt.end == End::Answered
                && !matches!(
                    t.attempt.response,
                    Some(Opening::HttpResponse { status: 500.. })
                )
        })
    }

    /// The client ended its connection before the proxy ended its attempt.
    pub(super) fn client_left(&self) -> bool {
        let last = self.attempts.last();
        last.is_some_and(|t| t.attempt.client_left(t.at))
    }

    /// The client's side is TLS or HTTP/2, so that a response cannot be told from other data.
    pub(super) fn opaque(&self) -> bool {
        self.attempts.last().is_some_and(|t| t.attempt.is_opaque())
    }

    /// The client's side is known to be TLS or HTTP/2, or not to be captured; not merely not understood.
    fn encrypted(&self) -> bool {
        let link = self
            .attempts
            .last()
            .and_then(|t| t.attempt.downstream.as_ref());
        matches!(
            link.and_then(|link| link.request.as_ref()),
            Some(Opening::Tls | Opening::Http2 | Opening::Unseen)
        )
    }

    /// Nobody but the proxy ended it, and nothing is tried again: the client was told of a failure,
    /// though its side shows no status. Of a proxy that may have tried again unseen only what its timer
    /// ended counts, or what its log tells.
    pub(super) fn failed_unseen(&self, tries_again_unseen: bool) -> bool {
        // Who is not content with a handshake may try again, or only have checked the server.
        let given_up = |t: &Tried| {
            let handshake = t.attempt.unasked && t.attempt.received > 0;
            t.attempt.end == End::GivenUp && t.attempt.request.is_some() && !handshake
        };
        let last = || self.attempts.last().is_some_and(given_up);
        self.response.is_none()
            && self.encrypted()
            && !self.retried
            && !self.client_left()
            && !self.saved()
            && match self.told_status() {
                Some(status) => status >= 500,
                None => !self.may_be_none() && (!tries_again_unseen || last()),
            }
    }

    /// Within TLS on both sides nothing tells a request from what a tunnel carries.
    pub(super) fn may_be_none(&self) -> bool {
        let unread = |t: &Tried| t.attempt.sealed && t.attempt.is_opaque();
        let status = self.response.as_ref().and_then(|(_, _, r)| r.status);
        status.or(self.told_status()).is_none() && self.attempts.last().is_some_and(unread)
    }

    /// The client's status as lines tell it that can be of no other exchange.
    pub(super) fn told_status(&self) -> Option<u16> {
        let told = self.told.as_ref().filter(|told| !told.ambiguous)?;
        told.status
    }

    /// The longest round trip of its attempts.
    pub(super) fn round_trip(&self) -> Nanos {
        self.attempts
            .iter()
            .filter_map(|t| t.attempt.tcp.as_ref())
            .map(|tcp| u64::from(tcp.srtt_us) * 1000)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signal::Logged;

    /// Envoy's line names the last upstream, to which a try before had gone as well.
    #[test]
    fn of_one_upstreams_attempts_the_last_is_told_of() {
        let mut exchange = Exchange::new(1);
        for flow in [1, 2] {
            let attempt = json!({
                "flow": flow, "proxy": 1, "thread": 1, "downstream": null, "retry_of": null,
                "upstream": "10.0.0.2:80", "local": null, "began": flow, "connected": null,
                "reused": false, "requests_before": 0, "idle_ns": null, "request": null,
                "received": 0, "response": null, "end": {"how": "reset"}, "tcp": null,
                "peer": null, "queue": null,
            });
            exchange.add(
                flow,
                Source::Kernel,
                serde_json::from_value(attempt).unwrap(),
            );
        }
        let line = json!({
            "proxy": "envoy", "line": "access", "pid": null, "connection": null, "client": null,
            "within": 1, "took": null, "said": null, "status": 503, "request": null,
            "tries": [{
                "upstream": "10.0.0.2:80", "said": {"said": "reset"}, "status": null,
                "connect": null, "took": null,
            }],
        });
        let line: Logged = serde_json::from_value(line).unwrap();
        exchange.take_told(Some((1, Told::new(3, &line))));
        let said: Vec<_> = exchange.attempts.iter().map(|t| t.said.is_some()).collect();
        assert_eq!(said, [false, true]);
    }
}

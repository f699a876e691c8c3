//! One exchange as lines of logs tell it: its lines joined, and turned into what rules judge. Pure.

use crate::diagnose::Tried;
use crate::signal::{
    Address, Attempt, DownstreamState, End, FlowId, Link, LinkOrder, LogLine, Logged, LoggedTry,
    Nanos, Opening, Response, Said, Software, Source, tried_again,
};
use crate::track::host::SECOND;

/// Attempts kept of one exchange.
const TRIES: usize = 16;
/// From one failed try to the next one's end, and to the response.
const BETWEEN: Nanos = 120 * SECOND;
/// Two clocks' difference that is forgiven: a line is written a moment after what it tells.
const SLACK: Nanos = SECOND / 10;

/// What the lines about one exchange say together.
#[derive(Clone, Debug)]
pub struct Told {
    /// The proxy, where a line says which.
    pub proxy: Option<Software>,
    pub pid: u32,
    connection: Option<u64>,
    pub client: Option<Address>,
    pub request: Option<Opening>,
    pub status: Option<u16>,
    took: Option<Nanos>,
    pub tries: Vec<(Nanos, LoggedTry)>,
    /// About the exchange, where no try decided it.
    pub said: Option<(Nanos, Said)>,
    pub untried: bool,
    /// The earliest and the latest that its last line's moment can be.
    pub from: Nanos,
    pub to: Nanos,
    pub has_error: bool,
    pub has_access: bool,
    /// Which client's port it was follows from the moment alone: a line without request told it.
    pub guessed: bool,
    /// Which method its client's request had follows from the moment alone: the line with the port names
    /// none.
    pub method_guessed: bool,
    /// Another exchange's lines fit as well, and say something else.
    pub ambiguous: bool,
    /// No other lines, and no other exchange, come into question.
    pub alone: bool,
}

/// A request, and the client's connection that it came on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pid: u32,
    connection: u64,
    method: String,
    path: String,
}

impl Asked {
    /// The same request, on whatever worker's connection.
    pub(super) fn is_like(&self, other: &Asked) -> bool {
        (&self.method, &self.path) == (&other.method, &other.path)
    }

    /// Without its connection.
    pub(super) fn request(&self) -> (String, String) {
        (self.method.clone(), self.path.clone())
    }
}

impl Told {
    pub(super) fn new(at: Nanos, line: &Logged) -> Told {
        let mut told = Told {
            proxy: line.proxy,
            pid: line.pid.unwrap_or(0),
            connection: line.connection,
            client: line.client.clone(),
            request: None,
            status: None,
            took: None,
            tries: Vec::new(),
            said: None,
            untried: false,
            from: at,
            to: at,
            has_error: false,
            has_access: false,
            guessed: false,
            method_guessed: false,
            ambiguous: false,
            alone: true,
        };
        told.add(at, line);
        told
    }

    /// Takes in a further line about it.
    pub(super) fn add(&mut self, at: Nanos, line: &Logged) {
        self.proxy = self.proxy.or(line.proxy);
        self.pid = if self.pid == 0 {
            line.pid.unwrap_or(0)
        } else {
            self.pid
        };
        self.connection = self.connection.or(line.connection);
        let nameless = line.request.is_none() && self.request.is_some();
        let joins_portless = nameless && port(self.client.as_ref()).is_none();
        let unnamed_yet = self.has_error && self.request.is_none() && line.request.is_some();
        let portless = unnamed_yet && port(line.client.as_ref()).is_none();
        self.guessed |= joins_portless || portless;
        let (known, other) = (self.request.as_ref(), line.request.as_ref());
        let ports = (port(self.client.as_ref()), port(line.client.as_ref()));
        self.method_guessed |= match (known.and_then(is_named), other.and_then(is_named)) {
            (Some(false), Some(true)) => ports.1.is_none(),
            (Some(true), Some(false)) => ports.0.is_none(),
            _ => false,
        };
        if port(line.client.as_ref()).is_some() || self.client.is_none() {
            self.client.clone_from(&line.client);
        }
        self.request = merge_request(self.request.take(), line.request.as_ref());
        // The later end, whichever line tells it.
        let to = at.saturating_add(line.within);
        match line.line {
            LogLine::Access if line.took.is_some() || !self.has_error => {
                (self.from, self.to) = (at, to);
            }
            _ => {
                self.from = self.from.max(at);
                self.to = self.to.max(to);
            }
        }
        self.said = self.said.or(line.said.map(|said| (at, said)));
        match line.line {
            LogLine::Error => {
                self.has_error = true;
                for one in &line.tries {
                    self.tried(at, one);
                }
            }
            LogLine::Access => {
                self.has_access = true;
                self.status = line.status;
                self.took = line.took;
                self.untried = line.untried && self.tries.is_empty();
                self.complete(at, &line.tries);
            }
        }
    }

    /// An error line's try; the access line may have told of it before.
    fn tried(&mut self, at: Nanos, one: &LoggedTry) {
        let same = |known: &&mut (Nanos, LoggedTry)| {
            known.1.upstream == one.upstream && self.has_access && !known.1.said.is_some_and(exact)
        };
        if let Some((_, known)) = self.tries.iter_mut().find(same) {
            known.said = one.said.or(known.said);
        } else if self.tries.len() < TRIES {
            self.tries.push((at, one.clone()));
        }
    }

    /// The access line knows all tries, in order; error lines know why they failed.
    fn complete(&mut self, at: Nanos, all: &[LoggedTry]) {
        if all.is_empty() {
            return;
        }
        let mut known = std::mem::take(&mut self.tries);
        for one in all.iter().take(TRIES) {
            let place = known
                .iter()
                .position(|(_, k)| k.upstream == one.upstream || k.upstream.is_none());
            let why = place.map(|place| known.remove(place));
            let said = why.as_ref().and_then(|(_, why)| why.said).or(one.said);
            let when = why.map_or(at, |(when, _)| when);
            self.tries.push((
                when,
                LoggedTry {
                    said,
                    ..one.clone()
                },
            ));
        }
        // What the access line does not name is kept: its names may be others.
        if self.tries.iter().all(|(_, t)| t.said.is_none()) {
            self.tries.extend(known);
        }
    }

    /// Whether a line can be about this exchange.
    pub(super) fn fits(&self, at: Nanos, line: &Logged) -> bool {
        let proxies = matches!((self.proxy, line.proxy), (Some(a), Some(b)) if a != b);
        let ports = matches!((port(self.client.as_ref()), port(line.client.as_ref())), (Some(a), Some(b)) if a != b);
        let connections = self.has_connection_of(line) == Some(false);
        if proxies
            || ports
            || connections
            || !same_request(self.request.as_ref(), line.request.as_ref())
        {
            return false;
        }
        // Apache's lines without a request are of one status each.
        let (own, status) = match line.line {
            LogLine::Error if line.request.is_none() => {
                (line.tries.iter().find_map(status_of_nameless), self.status)
            }
            LogLine::Access if self.request.is_none() => {
                let mut tries = self.tries.iter().map(|(_, one)| one);
                (tries.find_map(status_of_nameless), line.status)
            }
            _ => (None, None),
        };
        let apache = self.proxy.or(line.proxy) == Some(Software::Apache);
        let failed = status.filter(|status| *status >= 500);
        if apache && failed.zip(own).is_some_and(|(status, own)| status != own) {
            return false;
        }
        let end = at.saturating_add(line.within).saturating_add(SLACK);
        match line.line {
            LogLine::Error if self.has_access => {
                // Apache writes in the access line when the request began.
                let begun_then = self.took.is_none() && !writes_at_end(self.proxy);
                let until = self
                    .to
                    .saturating_add(if begun_then { BETWEEN } else { SECOND });
                at <= until && end.saturating_add(self.took.unwrap_or(BETWEEN)) >= self.from
            }
            LogLine::Error => self.to.saturating_add(BETWEEN) >= at && self.may_be_tried(line),
            LogLine::Access if self.has_access => false,
            LogLine::Access => {
                let began_or_ended = line.took.is_none() && !writes_at_end(line.proxy);
                let latest = if began_or_ended {
                    end.saturating_add(BETWEEN)
                } else {
                    end
                };
                let earliest = at
                    .saturating_sub(line.took.unwrap_or(BETWEEN))
                    .saturating_sub(SLACK);
                self.from <= latest && self.to >= earliest
            }
        }
    }

    /// What was asked on which of nginx's numbered connections.
    pub(super) fn asked(&self) -> Option<Asked> {
        let (Some(Software::Nginx), Some(connection)) = (self.proxy, self.connection) else {
            return None;
        };
        let Some(Opening::HttpRequest { method, path, .. }) = &self.request else {
            return None;
        };
        Some(Asked {
            pid: self.pid,
            connection,
            method: method.clone(),
            path: path.clone(),
        })
    }

    fn has_connection_of(&self, line: &Logged) -> Option<bool> {
        let same_kind = self.proxy == line.proxy && self.pid == line.pid.unwrap_or(0);
        let (Some(a), Some(b)) = (self.connection, line.connection) else {
            return None;
        };
        same_kind.then_some(a == b)
    }

    /// A further failed try of it: nginx does not try the same server twice. Without a connection's
    /// number nothing else ties two error lines.
    fn may_be_tried(&self, line: &Logged) -> bool {
        let again = |one: &LoggedTry| {
            self.tries
                .iter()
                .any(|(_, known)| known.upstream == one.upstream)
        };
        self.has_connection_of(line) == Some(true)
            && self.said.is_none()
            && !line.tries.iter().any(again)
            || port(self.client.as_ref()).is_some()
                && port(line.client.as_ref()).is_some()
                && self.connection == line.connection
                && line.tries.is_empty()
                && line.said.is_none()
    }

    /// Its moment is that at which it was asked: Apache's access line alone says no other.
    pub(super) fn tells_beginning(&self) -> bool {
        let access_alone = self.has_access && !self.has_error && self.took.is_none();
        access_alone && !writes_at_end(self.proxy)
    }

    /// What is said of why, in brief.
    pub(super) fn why(&self) -> impl Iterator<Item = Said> {
        let tries = self.tries.iter().filter_map(|(_, one)| one.said);
        tries.chain(self.said.map(|(_, said)| said))
    }

    /// The upstream of its last try, as it names it.
    pub(super) fn upstream(&self) -> Option<&Address> {
        self.tries.last()?.1.upstream.as_ref()
    }

    /// Go's `ReverseProxy` writes no request and no client: nothing but its moment ties it.
    pub(crate) fn names_nothing(&self) -> bool {
        self.proxy == Some(Software::Go) && self.request.is_none()
    }

    /// All that it says is how a connection broke, as a pooled one does before it is tried again.
    pub(super) fn broke(&self) -> bool {
        self.why().all(Said::broke)
    }

    /// Whether the two say the same, whosever they are.
    pub(super) fn says_the_same(&self, other: &Told) -> bool {
        self.status == other.status && self.why().eq(other.why())
    }

    /// Anything failed in it, as far as its lines tell.
    pub(super) fn failed(&self) -> bool {
        let again = tried_again(self.proxy, self.tries.iter().map(|(_, one)| one));
        let failed = self.status.is_some_and(|s| s >= 500);
        self.has_error || failed || again || self.why().next().is_some()
    }

    /// A later try saved it, as far as the lines tell.
    pub(super) fn saved(&self) -> bool {
        let fine = |status: u16| status < 500;
        let last = self.tries.last().map(|(_, one)| one);
        // A status of the last try is in the access line: then that line knows how it ended.
        let known = last.and_then(|one| one.status);
        self.status.is_some_and(fine) && known.is_none_or(fine)
    }

    /// The client ended it first.
    pub(super) fn client_left(&self) -> bool {
        self.why().any(|said| said == Said::ClientLeft) || self.status == Some(499)
    }

    /// As facts of the kind that all sources give. `flow` begins numbers that no kernel gives.
    pub(super) fn facts(&self, flow: FlowId) -> (Vec<Tried>, Option<(Nanos, Source, Response)>) {
        let state = match self.client_left() {
            true => DownstreamState::ClosedByClient,
            false => DownstreamState::Open,
        };
        let began = self.from.saturating_sub(self.took.unwrap_or(0));
        // Which of its ports it was is a guess then.
        let host_alone = |client: &Address| Address(client.ip().to_owned());
        let client = match self.guessed {
            true => self.client.as_ref().map(host_alone),
            false => self.client.clone(),
        };
        let link = Link {
            flow,
            ordinal: 1,
            order: LinkOrder::AfterRead,
            client: client.clone(),
            proxy_address: None,
            request: self.request.clone(),
            state,
            read_before_ns: None,
        };
        let last = self.tries.len().saturating_sub(1);
        let tried: Vec<Tried> = self
            .tries
            .iter()
            .enumerate()
            .map(|(n, (at, one))| {
                let at = if n == last { self.from.max(*at) } else { *at };
                Tried {
                    at,
                    source: Source::Log,
                    attempt: Attempt {
                        flow: flow + 1 + n as u64,
                        proxy: self.pid,
                        thread: self.pid,
                        downstream: Some(link.clone()),
                        retry_of: (n > 0).then(|| flow + n as u64),
                        upstream: one.upstream.clone().unwrap_or_else(unnamed),
                        local: None,
                        began: at.saturating_sub(one.took.unwrap_or(0)).max(began),
                        connected: None,
                        reused: false,
                        requests_before: 0,
                        idle_ns: None,
                        request: None,
                        received: 0,
                        response: one
                            .status
                            .filter(|_| answered(one))
                            .map(|status| Opening::HttpResponse { status }),
                        end: end(one),
                        tcp: None,
                        peer: None,
                        queue: None,
                        netns: 0,
                        upstream_end: None,
                        spoke_http: false,
                        sealed: false,
                        tickets: false,
                        unasked: false,
                        fault: None,
                    },
                    closed: None,
                    said: one.said.map(|said| (at, said)),
                }
            })
            .collect();
        let answered = tried.last().filter(|t| t.attempt.end == End::Answered);
        let response = Response {
            proxy: self.pid,
            thread: self.pid,
            downstream: flow,
            ordinal: 1,
            // Who left got none.
            status: self.status.filter(|_| !self.client_left()),
            client,
            proxy_address: None,
            request: self.request.clone(),
            request_at: self.took.map(|_| began),
            request_body: None,
            adjacent: tried.last().map(|t| t.attempt.flow),
            last_attempt: answered.map(|t| Box::new(t.attempt.clone())),
            untied: None,
            unread: None,
            descriptors: None,
            in_touch: Vec::new(),
        };
        (tried, Some((self.from, Source::Log, response)))
    }
}

/// Stands for an upstream that no line names.
pub(crate) fn unnamed() -> Address {
    Address("unknown".to_owned())
}

fn answered(one: &LoggedTry) -> bool {
    match one.said {
        None => one.status.is_some_and(|s| s < 500),
        Some(said) => said == Said::Answered,
    }
}

/// A statement that names one way to fail.
fn exact(said: Said) -> bool {
    !matches!(
        said,
        Said::NotConnected
            | Said::ClosedOrReset
            | Said::StreamEnded
            | Said::HeadRefused
            | Said::TimedOut
            | Said::Denied
    )
}

fn end(one: &LoggedTry) -> End {
    match one.said {
        Some(Said::ConnectFailed { errno }) => End::ConnectFailed { errno },
        Some(Said::NotConnected | Said::ConnectTimedOut) => End::ConnectGivenUp,
        Some(Said::PeerClosed | Said::ClosedOrReset) => End::PeerClosed,
        Some(Said::Reset) => End::Reset,
        Some(Said::SendFailed { errno }) => End::SendFailed { errno },
        None if answered(one) => End::Answered,
        Some(Said::Answered) => End::Answered,
        _ => End::GivenUp,
    }
}

/// What Apache answers where its line names no request: it has no connection, or a head that it passes on
/// to nobody.
fn status_of_nameless(one: &LoggedTry) -> Option<u16> {
    match one.said? {
        Said::ConnectFailed { .. } => Some(503),
        Said::HeadInvalid => Some(500),
        _ => None,
    }
}

/// Whether the time of its lines is that at which the exchange was over, also where they do not say how long
/// it took.
fn writes_at_end(proxy: Option<Software>) -> bool {
    matches!(proxy, Some(Software::Nginx | Software::Pingora))
}

pub(super) fn port(address: Option<&Address>) -> Option<&str> {
    let address = address?;
    (address.ip().len() < address.0.len()).then_some(address.0.as_str())
}

/// Nothing in the two contradicts; a method of `-` stands for any.
pub(super) fn same_request(a: Option<&Opening>, b: Option<&Opening>) -> bool {
    let (
        Some(Opening::HttpRequest {
            method: m,
            path: p,
            path_complete: p_all,
            ..
        }),
        Some(Opening::HttpRequest {
            method: n,
            path: q,
            path_complete: q_all,
            ..
        }),
    ) = (a, b)
    else {
        return true;
    };
    let (short, long, cut) = if p.len() <= q.len() {
        (p, q, !p_all)
    } else {
        (q, p, !q_all)
    };
    let paths = p == q || (cut && long.starts_with(short.as_str()));
    (m == n || m == "-" || n == "-") && paths
}

/// Whether a request has its method.
fn is_named(opening: &Opening) -> Option<bool> {
    match opening {
        Opening::HttpRequest { method, .. } => Some(method != "-"),
        _ => None,
    }
}

/// The same for requests that are told to be on one connection, of which one may have another's method.
pub(super) fn same_path(a: Option<&Opening>, b: Option<&Opening>) -> bool {
    let nameless = |opening: &Opening| match opening.clone() {
        Opening::HttpRequest {
            path,
            path_complete,
            host,
            ..
        } => Opening::HttpRequest {
            method: "-".to_owned(),
            path,
            path_complete,
            host,
        },
        other => other,
    };
    same_request(a.map(nameless).as_ref(), b)
}

fn merge_request(known: Option<Opening>, other: Option<&Opening>) -> Option<Opening> {
    let named = |o: &Opening| is_named(o) == Some(true);
    let (Some(mut known), Some(other)) = (known.clone(), other) else {
        return known.or_else(|| other.cloned());
    };
    let host_of = |o: &Opening| match o {
        Opening::HttpRequest { host, .. } => host.clone(),
        _ => None,
    };
    let host = host_of(&known).or_else(|| host_of(other));
    if !named(&known) && named(other) {
        known = other.clone();
    }
    if let Opening::HttpRequest { host: place, .. } = &mut known {
        *place = host;
    }
    Some(known)
}

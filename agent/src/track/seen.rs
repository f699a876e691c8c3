//! Whether lines of a log and what another source saw are one exchange. Pure.

use super::exchange::Exchange;
use super::told::{Told, port, same_path, same_request};
use crate::diagnose;
use crate::signal::{Address, Attempt, End, Nanos, Opening, Software, Source};

/// A line is written a moment after the response; two clocks of one host agree to less.
pub(super) const SLACK: Nanos = 100_000_000;
/// The same where nothing but the moment tells them apart.
const AT_ONCE: Nanos = 10_000_000;
/// Of a proxy that was kept from its CPU: HAProxy's own clock stands still meanwhile, or goes on ahead.
const STALLED: Nanos = 3_000_000_000;

/// What identifies an exchange that was seen otherwise.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The process that answered, or tried.
    pub(super) proxy: Option<u32>,
    /// When its attempts ended and its response began.
    times: Vec<Nanos>,
    /// When it was asked.
    began: Option<Nanos>,
    client: Option<Address>,
    /// Behind TLS, that it was this client's connection follows from the order of things alone.
    guessed: bool,
    /// As the client sent it; `None` where that cannot be read.
    request: Option<Opening>,
    tries: Vec<Try>,
    /// The last try was found for it, and may be another's.
    given: bool,
    status: Option<u16>,
}

#[derive(Clone, Debug)]
struct Try {
    upstream: Address,
    local: Option<Address>,
    /// As the proxy sent it, which may have rewritten it.
    request: Option<Opening>,
    end: End,
    answer: Option<u16>,
}

/// What ties the two; the more telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit {
    /// The moment is the same, but for what two clocks differ by.
    moment: bool,
    /// The line names the last try's own connection to the upstream.
    connection: bool,
    port: bool,
    request: bool,
    upstream: bool,
    /// The line says of the last try what was seen of it.
    agrees: bool,
    client: Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    Differs,
    SameAddress,
    SamePort,
}

impl Fit {
    /// Whether the other one fits by its moment, too, if this one does.
    pub(super) fn as_near(self, other: Fit) -> bool {
        other.moment || !self.moment
    }
}

impl Try {
    fn of(attempt: &Attempt) -> Try {
        let request = attempt.request.as_ref().map(|r| r.opening.clone());
        Try {
            upstream: attempt.upstream.clone(),
            local: attempt.local.clone(),
            request: request.filter(is_request),
            end: attempt.end,
            answer: match attempt.response {
                Some(Opening::HttpResponse { status }) => Some(status),
                _ => None,
            },
        }
    }
}

impl Seen {
    pub(super) fn of(exchange: &Exchange) -> Seen {
        let response = exchange.response.as_ref();
        let link = exchange
            .attempts
            .iter()
            .rev()
            .find_map(|t| t.attempt.downstream.as_ref());
        let times = exchange.attempts.iter().map(|t| t.at);
        let request = response
            .and_then(|(_, _, r)| r.request.clone())
            .or_else(|| link?.request.clone());
        let request = request.filter(is_request);
        let answered = response.and_then(|(_, _, r)| r.client.clone());
        let own = |_: &u16| !exchange.status_of_log;
        let tried = || exchange.attempts.last().map(|t| t.attempt.proxy);
        Seen {
            proxy: response.map(|(_, _, r)| r.proxy).or_else(tried),
            times: times.chain(response.map(|(at, _, _)| *at)).collect(),
            began: response.and_then(|(_, _, r)| r.request_at),
            guessed: answered.is_none() && request.is_none(),
            client: answered.or_else(|| link?.client.clone()),
            request,
            tries: exchange
                .attempts
                .iter()
                .map(|t| Try::of(&t.attempt))
                .collect(),
            given: response.is_some() && link.is_none() && exchange.source() == Source::Kernel,
            status: response.and_then(|(_, _, r)| r.status).filter(own),
        }
    }

    /// What ties it to these lines; `None` where something speaks against it. `errors`: the proxy's
    /// error log is read as well, so a failure has a line there.
    pub(super) fn fit(&self, told: &Told, errors: bool) -> Option<Fit> {
        let told_begun = self.began.filter(|_| told.tells_beginning());
        // Go's proxy says why, as it answers 502 or 504, and nothing else by which to find whose line it is.
        let nameless = told.names_nothing();
        let answers = self.answers_nameless();
        // Whose attempt was given to another is counted as well.
        if nameless && !(answers && (self.tries.is_empty() || self.agrees(told))) {
            return None;
        }
        let near = |slack| {
            let mut times = self.times.iter().chain(&told_begun);
            times.any(|at| within(*at, told, slack))
        };
        let moment = near(if nameless { AT_ONCE } else { SLACK });
        let slips = told.proxy == Some(Software::Haproxy);
        let slipped = || slips && near(STALLED) && self.is_surely(told);
        if !moment && !slipped() {
            return None;
        }
        let statuses = matches!((self.status, told.status), (Some(a), Some(b)) if a != b);
        if statuses || !self.asked(told) {
            return None;
        }
        let addresses = || told.tries.iter().filter_map(|(_, t)| t.upstream.as_ref());
        let used = |address: &Address| self.tries.iter().any(|t| t.upstream == *address);
        let upstream = addresses().any(used);
        let elsewhere = !upstream && !self.tries.is_empty() && addresses().any(is_address);
        if elsewhere && !(self.given && self.is_asked_by(told)) {
            return None;
        }
        let (client, other) = (self.client.as_ref(), told.client.as_ref());
        if other.is_some_and(|other| client != Some(other) && self.asks_as(other, client)) {
            return None;
        }
        let ports = port(client).zip(port(other));
        let address = client.zip(other).is_none_or(|(a, b)| a.ip() == b.ip());
        // Behind a load balancer the log may name another client, at a port of its own.
        let ports = ports.filter(|_| address).map(|(a, b)| a == b);
        let guessed = self.guessed || told.guessed;
        if ports == Some(false) && !guessed {
            return None;
        }
        let asked = |request: Option<&Opening>| {
            request.is_some()
                && told.request.is_some()
                && same_request(request, told.request.as_ref())
        };
        let fit = Fit {
            moment,
            connection: self.tries.last().is_some_and(|last| names(told, last)),
            port: ports == Some(true) && !guessed,
            request: asked(self.request.as_ref())
                || self.tries.iter().any(|t| asked(t.request.as_ref())),
            upstream,
            agrees: self.agrees(told),
            client: match (address, ports) {
                (false, _) => Client::Differs,
                (true, Some(true)) if !told.guessed => Client::SamePort,
                (true, _) => Client::SameAddress,
            },
        };
        let tied = fit.request || fit.upstream || fit.client == Client::SamePort;
        (tied || address && self.may_be_by_moment(told, errors)).then_some(fit)
    }

    /// This client was the proxy itself, asking an upstream that is a proxy as well, whose line it is then.
    fn asks_as(&self, asking: &Address, client: Option<&Address>) -> bool {
        let elsewhere = client.is_some_and(|client| client.ip() != asking.ip());
        self.tries.iter().any(|one| match &one.local {
            Some(own) if port(Some(asking)).is_some() => own == asking,
            Some(own) => elsewhere && own.ip() == asking.ip(),
            None => elsewhere && one.upstream.is_unix() && asking.is_unix(),
        })
    }

    /// It may be what a line that names no request tells of, whatever is known of its tries.
    pub(super) fn may_be_nameless(&self, told: &Told) -> bool {
        let mut times = self.times.iter();
        told.names_nothing()
            && self.answers_nameless()
            && times.any(|at| within(*at, told, AT_ONCE))
    }

    /// What Go's proxy answers as it says why.
    fn answers_nameless(&self) -> bool {
        self.status.is_none_or(|status| matches!(status, 502 | 504))
    }

    /// What is left without the try that it was given, if it was.
    pub(super) fn without_given(&self) -> Option<Seen> {
        let given = self.given && !self.tries.is_empty();
        given.then(|| Seen {
            tries: Vec::new(),
            ..self.clone()
        })
    }

    /// No attempt is known to have led to it.
    pub(super) fn is_untried(&self) -> bool {
        self.tries.is_empty()
    }

    /// The client's port, the request and the status are all the same.
    fn is_surely(&self, told: &Told) -> bool {
        let status = self.status.is_some() && self.status == told.status;
        self.is_asked_by(told) && status
    }

    /// The client's port and the request are the same.
    fn is_asked_by(&self, told: &Told) -> bool {
        let ports = port(self.client.as_ref()).zip(port(told.client.as_ref()));
        let same_port = ports.is_some_and(|(a, b)| a == b) && !self.guessed && !told.guessed;
        let (seen, line) = (self.request.as_ref(), told.request.as_ref());
        let asked = seen.is_some() && line.is_some() && same_request(seen, line);
        same_port && asked
    }

    /// Nothing in what was asked speaks against it. Where the line that names the client's port has no
    /// method, the method may be another client's.
    fn asked(&self, told: &Told) -> bool {
        let (seen, line) = (self.request.as_ref(), told.request.as_ref());
        let ports = (port(self.client.as_ref()), port(told.client.as_ref()));
        let one_connection = matches!(ports, (Some(a), Some(b)) if a == b);
        match told.method_guessed && one_connection {
            true => same_path(seen, line),
            false => same_request(seen, line),
        }
    }

    /// Nothing but the client and the moment tie them.
    fn may_be_by_moment(&self, told: &Told, errors: bool) -> bool {
        match self.tries.last() {
            Some(last) if last.end == End::Answered => last.answer == told.status,
            Some(_) => told.has_error || !errors,
            None => true,
        }
    }

    fn agrees(&self, told: &Told) -> bool {
        let Some(last) = self.tries.last() else {
            return told.tries.is_empty();
        };
        match told.tries.last().map(|(_, one)| (one.said, one.status)) {
            Some((Some(said), _)) => diagnose::ended_so(said, last.end),
            Some((None, Some(status))) => last.answer == Some(status),
            // The proxy decided by itself.
            None if told.said.is_some() => false,
            Some((None, None)) | None => last.answer.is_some() && last.answer == told.status,
        }
    }
}

/// Whether it names this try's own connection, by both ends.
fn names(told: &Told, one: &Try) -> bool {
    told.tries.last().is_some_and(|(_, told)| {
        let upstream = told.upstream.as_ref() == Some(&one.upstream);
        upstream && told.local.is_some() && told.local == one.local
    })
}

fn is_request(opening: &Opening) -> bool {
    matches!(opening, Opening::HttpRequest { .. })
}

/// Whether anything of it happened when these lines say that theirs did: asked first, being cheap.
fn within(at: Nanos, told: &Told, slack: Nanos) -> bool {
    at.saturating_add(slack) >= told.from && at <= told.to.saturating_add(slack)
}

/// Whether this proxy can have written lines of that one.
pub(super) fn wrote(seen: Option<Software>, line: Option<Software>) -> bool {
    match (seen, line) {
        (None | Some(Software::Other), _) | (_, None) => true,
        (Some(seen), Some(line)) => seen == line,
    }
}

/// Not a name of the proxy's own.
pub(super) fn is_address(address: &Address) -> bool {
    address.is_unix() || address.0.parse::<std::net::SocketAddr>().is_ok()
}

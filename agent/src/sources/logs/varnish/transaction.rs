//! One transaction of Varnish's while its records come: a client's request, or a fetch for it.

use super::super::Moment;
use super::super::text::{host_name, leading_number, request, status, upstream};
use super::super::time::epoch;
use super::held::Held;
use super::words::{
    backend, client, connection, cut, head_fault, link, no_head, not_connected, unasked,
};
use crate::signal::{Address, LoggedTry, Nanos, Opening, Said};

/// Kept of one transaction; Varnish makes two tries at most in each fetch.
const TRIES: usize = 8;
const LINKS: usize = 16;
/// VCL's turns, each at most once in a transaction.
const TURNS: [&str; 12] = [
    "RECV",
    "HASH",
    "HIT",
    "MISS",
    "PASS",
    "PIPE",
    "PURGE",
    "DELIVER",
    "SYNTH",
    "BACKEND_FETCH",
    "BACKEND_RESPONSE",
    "BACKEND_ERROR",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Restart,
    Fetch,
}

/// What its records say.
#[derive(Debug)]
pub(super) struct Transaction {
    pub kind: Kind,
    pub parent: u64,
    /// What it led to, in order.
    pub links: Vec<u64>,
    /// A client may have written of it.
    pub doubtful: bool,
    /// Records of it are missing.
    pub incomplete: bool,
    pub client: Option<Address>,
    pub request: Option<Opening>,
    pub began: Option<Moment>,
    /// The answer was ready, and when it was sent.
    pub answered: Option<Moment>,
    pub sent: Option<Moment>,
    pub status: Option<u16>,
    pub synthetic: bool,
    /// The client sent no more of its request.
    pub unsent: bool,
    pub tries: Vec<LoggedTry>,
    /// Why a fetch made no try in the end.
    pub said: Option<Said>,
}

/// One whose records come.
#[derive(Debug)]
pub(super) struct Reading {
    pub number: u64,
    /// `None` where it is of no interest: a session, a part of a page, a fetch for nobody.
    pub transaction: Option<Transaction>,
    begun: bool,
    ended: bool,
    /// VCL runs: what is written may be its own.
    in_vcl: bool,
    /// It has logged something in this turn.
    vcl_logged: bool,
    /// VCL's turns so far, a bit for each.
    turns: u16,
    method: Option<String>,
    /// The latest time that it tells.
    at: Nanos,
    /// Of a fetch: the head has come, or has failed to.
    headed: bool,
    /// The last try is under way.
    open: bool,
    /// What was wrong with the head.
    fault: Option<Said>,
}

impl Reading {
    pub(super) fn new(number: u64) -> Reading {
        Reading {
            number,
            transaction: None,
            begun: false,
            ended: false,
            in_vcl: false,
            vcl_logged: false,
            turns: 0,
            method: None,
            at: 0,
            headed: false,
            open: false,
            fault: None,
        }
    }

    /// Its records have begun, and there must be more.
    pub(super) fn under_way(&self) -> bool {
        self.begun && !self.ended
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// False where this cannot be Varnish's own: its transactions begin and end with these records.
    pub(super) fn record(&mut self, tag: &str, text: &str, held: &mut Held) -> bool {
        if self.ended || self.begun && tag == "Begin" {
            return false;
        }
        match tag {
            "Begin" => self.begin(text),
            // Some were left out of this log: it is of no use.
            _ if !self.begun => {}
            "End" if self.in_vcl => return false,
            "End" => {
                self.ended = true;
                self.incomplete_if(text.trim_ascii() == "synth");
            }
            "VCL_call" => self.call(text),
            "VCL_return" => self.leave(text),
            // What is said of it by who reads the shared memory: some was lost, or it takes too long.
            "VSL" => self.incomplete_if(true),
            "VCL_Error" => self.is_synthetic(false),
            "RespStatus" => self.status(text),
            "VCL_Log" => self.vcl_logged = true,
            _ if self.in_vcl => {}
            "Timestamp" => self.timestamp(text),
            "Link" => self.link(text),
            "ReqStart" | "ReqMethod" | "ReqURL" | "ReqHeader" => self.asked(tag, text),
            _ => self.fetched(tag, text, held),
        }
        true
    }

    /// `req 2 rxreq`, `bereq 3 pass`: what it is, whose, and why.
    fn begin(&mut self, text: &str) {
        self.begun = true;
        let Some((what, parent, why)) = link(text) else {
            return;
        };
        let kind = match (what, why) {
            ("req", "rxreq") => Kind::Request,
            ("req", "restart") => Kind::Restart,
            ("bereq", _) if why != "bgfetch" => Kind::Fetch,
            _ => return,
        };
        self.transaction = Some(Transaction {
            kind,
            parent,
            links: Vec::new(),
            doubtful: false,
            incomplete: false,
            client: None,
            request: None,
            began: None,
            answered: None,
            sent: None,
            status: None,
            synthetic: false,
            unsent: false,
            tries: Vec::new(),
            said: None,
        });
    }

    fn doubt_if(&mut self, doubtful: bool) {
        if let Some(transaction) = &mut self.transaction {
            transaction.doubtful |= doubtful;
        }
    }

    fn incomplete_if(&mut self, incomplete: bool) {
        if let Some(transaction) = &mut self.transaction {
            transaction.incomplete |= incomplete;
        }
    }

    fn is_synthetic(&mut self, synthetic: bool) {
        if let Some(transaction) = &mut self.transaction {
            transaction.synthetic = synthetic;
        }
    }

    fn call(&mut self, turn: &str) {
        let place = TURNS.iter().position(|name| *name == turn);
        let bit = place.map_or(0, |place| 1 << place);
        self.doubt_if(self.in_vcl || self.turns & bit != 0);
        self.turns |= bit;
        (self.in_vcl, self.vcl_logged) = (true, false);
    }

    fn leave(&mut self, how: &str) {
        self.doubt_if(!self.in_vcl);
        self.in_vcl = false;
        match how {
            "synth" => self.is_synthetic(true),
            "fail" => self.is_synthetic(false),
            _ => {}
        }
    }

    /// VCL may set it: the last one counts.
    fn status(&mut self, text: &str) {
        // Or it is part of what VCL has just logged.
        self.doubt_if(self.in_vcl && self.vcl_logged);
        if let Some(transaction) = &mut self.transaction
            && transaction.kind != Kind::Fetch
        {
            transaction.status = status(text);
        }
    }

    /// `Process: 1795383410.300904 0.000921 0.000008`
    fn timestamp(&mut self, text: &str) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let Some((label, rest)) = text.split_once(": ") else {
            return;
        };
        let Some(moment) = rest.split(' ').next().and_then(epoch) else {
            return;
        };
        self.at = moment.at;
        match (label, transaction.kind) {
            ("Beresp", Kind::Fetch) => self.headed = true,
            // What follows is an answer of its own.
            ("Error", Kind::Fetch) => self.open = false,
            ("Start", _) => transaction.began = transaction.began.or(Some(moment)),
            ("Process", _) => transaction.answered = Some(moment),
            ("Resp", _) => transaction.sent = Some(moment),
            _ => {}
        }
    }

    fn link(&mut self, text: &str) {
        if let Some(transaction) = &mut self.transaction
            && let Some((what, number, why)) = link(text)
            && transaction.links.len() < LINKS
        {
            let own = match what {
                "req" => why == "restart",
                "bereq" => why != "bgfetch",
                _ => false,
            };
            transaction.links.extend(own.then_some(number));
        }
    }

    /// As the client sent it: VCL has had no turn yet.
    fn asked(&mut self, tag: &str, text: &str) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if self.turns != 0 || transaction.kind == Kind::Fetch {
            return;
        }
        match tag {
            "ReqStart" if transaction.client.is_none() => transaction.client = client(text),
            "ReqMethod" => self.method = Some(text.to_owned()),
            "ReqURL" if transaction.request.is_none() => {
                let method = self.method.as_deref().unwrap_or("-");
                transaction.request = request(method, text, None).map(|asked| cut(asked, text));
            }
            "ReqHeader" => {
                if let Some((name, host)) = text.split_once(": ")
                    && name.eq_ignore_ascii_case("host")
                    && let Some(Opening::HttpRequest { host: known, .. }) = &mut transaction.request
                    && known.is_none()
                {
                    *known = host_name(host);
                }
            }
            _ => {}
        }
    }

    fn fetched(&mut self, tag: &str, text: &str, held: &mut Held) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if transaction.kind != Kind::Fetch {
            transaction.unsent |= tag == "FetchError";
            return;
        }
        match tag {
            "BackendOpen" if transaction.tries.len() < TRIES => {
                transaction.tries.extend(connection(text));
                transaction.said = None;
                (self.open, self.fault) = (true, None);
            }
            "BackendClose" => self.open = false,
            "BogoHeader" => self.fault = head_fault(text),
            "FetchError" if !self.headed => self.failed(text, held),
            // One that Varnish made follows its own error.
            "BerespStatus" if self.headed && self.open => {
                if let Some(one) = transaction.tries.last_mut()
                    && one.said.is_none()
                    && one.status.is_none()
                {
                    one.status = status(text);
                }
            }
            _ => {}
        }
    }

    /// Before a head had come.
    fn failed(&mut self, text: &str, held: &mut Held) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if let Some(errno) = text.strip_prefix("backend write error: ") {
            let errno = leading_number(errno).filter(|errno| matches!(errno, 32 | 104));
            let broken = errno.filter(|_| self.open);
            if let (Some(errno), Some(one)) = (broken, transaction.tries.last_mut()) {
                one.said = Some(Said::SendFailed { errno });
            }
        } else if let Some((name, why)) = backend(text) {
            // It is no try of a connection before this.
            self.open = false;
            match not_connected(why, |errno| held.said(name, self.at, errno)) {
                Some(said) if transaction.tries.len() < TRIES => {
                    transaction.said = None;
                    transaction.tries.push(LoggedTry {
                        upstream: upstream(name),
                        said: Some(said),
                        ..LoggedTry::default()
                    });
                }
                _ => transaction.said = unasked(why),
            }
        } else if let Some(said) = no_head(text, self.fault) {
            if let Some(one) = transaction.tries.last_mut().filter(|_| self.open) {
                one.said = Some(said);
            }
        } else if text.starts_with("Director ") && text.ends_with(" returned no backend") {
            transaction.said = Some(Said::NoLiveUpstreams);
        }
    }
}

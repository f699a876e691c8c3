//! The book of one scenario: every request with the status its client saw, and the truth about it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use serde::Serialize;

use crate::expect::{Expect, HEALTHY};

/// One request and what came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sent {
    pub method: &'static str,
    /// Without query; unique, unless the requests of a crowd are to be alike.
    pub path: String,
    pub query: String,
    /// The client's end of its connection, where that is known.
    pub client: Option<SocketAddr>,
    /// `None`: no response.
    pub status: Option<u16>,
    pub error: Option<String>,
    /// Monotonic nanoseconds.
    pub began: u64,
    pub ended: u64,
}

impl Sent {
    pub fn failed(&self) -> bool {
        self.status.is_some_and(|status| status >= 500)
    }
}

pub struct Ledger {
    prefix: String,
    /// The host's kernel lets nothing be proven: what else would be has to be `likely`.
    unproven: bool,
    /// Its kernel leaves out runs of probes, which is told: what would be proven may be `likely` then.
    lossy: bool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    issued: u32,
    sent: Vec<Sent>,
    truth: BTreeMap<String, Expect>,
}

impl Ledger {
    pub fn new(prefix: &str) -> Ledger {
        Ledger {
            prefix: prefix.to_owned(),
            unproven: false,
            lossy: false,
            inner: Mutex::default(),
        }
    }

    /// The same where nothing can be proven.
    pub fn unproven(self, unproven: bool) -> Ledger {
        Ledger { unproven, ..self }
    }

    /// The same where losses that are told are no fault.
    pub fn lossy(self, lossy: bool) -> Ledger {
        Ledger { lossy, ..self }
    }

    /// A new path below `folder`, never issued before in this scenario.
    pub fn path(&self, folder: &str) -> String {
        let mut inner = self.inner.lock().expect("ledger");
        inner.issued += 1;
        format!("{folder}/{}-{:06}", self.prefix, inner.issued)
    }

    /// Whether a path was issued by this ledger.
    pub fn owns(&self, path: &str) -> bool {
        path.rsplit('/')
            .next()
            .and_then(|id| id.rsplit_once('-'))
            .is_some_and(|(prefix, _)| prefix == self.prefix)
    }

    pub fn record(&self, sent: Sent) {
        self.inner.lock().expect("ledger").sent.push(sent);
    }

    /// States the truth about a request, by its path, or by path and query where only these are its
    /// own; the last word counts.
    pub fn expect(&self, path: &str, mut expect: Expect) {
        if self.unproven && expect.confidence == "proven" {
            expect.confidence = "likely";
        }
        expect.may_lose = self.lossy && expect.confidence == "proven";
        let mut inner = self.inner.lock().expect("ledger");
        inner.truth.insert(path.to_owned(), expect);
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.inner.lock().expect("ledger").sent.clone()
    }

    /// Every request with its truth; without a word it has to be healthy.
    pub fn entries(&self) -> Vec<(Sent, Expect)> {
        let inner = self.inner.lock().expect("ledger");
        inner
            .sent
            .iter()
            .map(|sent| {
                let own = format!("{}?{}", sent.path, sent.query);
                let truth = inner
                    .truth
                    .get(&own)
                    .or_else(|| inner.truth.get(&sent.path));
                let truth = truth.cloned();
                (sent.clone(), truth.unwrap_or(HEALTHY))
            })
            .collect()
    }
}

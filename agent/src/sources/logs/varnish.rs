//! What `varnishlog` prints (`-g request`, `session` or `vxid`): a line a record, records below a line
//! that names their transaction, transactions to an exchange by what links them. Pure.
//!
//! Varnish refuses requests with control characters in their head, and varnishlog escapes what was
//! refused. What VCL logs (`std.log`) is printed as it is: where VCL decodes a client's text, that can
//! be lines of any form. So what is within VCL's turn is not believed, a transaction begins where
//! the one before has ended and ends where nothing follows, and it is told when the next one has
//! begun. Text that goes on after that would not fit in a record of Varnish's default length.

use std::collections::{HashMap, VecDeque};

use super::{Parsed, Timed};
use crate::signal::{LogLine, Logged, Said, Software};
use held::Held;
use transaction::{Kind, Reading, Transaction};

mod held;
mod transaction;
mod words;

/// Transactions kept that have ended and whose others have not; the oldest goes.
const KEPT: usize = 2048;
/// More than one request's restarts and retries make.
const OF_ONE: usize = 64;
/// Sixteen times what Varnish lets a record be, unless it is told otherwise (`vsl_reclen`).
const RECORD: usize = 16 * 256;

#[derive(Debug, Default)]
pub(super) struct Varnish {
    /// The transaction whose records come now.
    reading: Option<Reading>,
    /// Transactions whose last record has come, by their numbers.
    whole: HashMap<u64, Transaction>,
    /// In the order in which they ended; some are gone.
    order: VecDeque<u64>,
    held: Held,
    /// Bytes that may still be of a record in which a client wrote lines.
    doubted: usize,
    /// Exchanges not told because a client may have written parts of them.
    pub(super) distrusted: u64,
    /// The same of those of which varnishlog has lost records.
    pub(super) lost: u64,
}

/// Whether it is the line above a transaction's records.
pub(super) fn begins(line: &str) -> bool {
    header(line).is_some()
}

/// `**  << BeReq    >> 4         `: the transaction's number.
fn header(line: &str) -> Option<u64> {
    let rest = line.strip_prefix('*')?;
    let (level, rest) = rest.split_once("<< ")?;
    let (kind, number) = rest.split_once(">> ")?;
    let level = level
        .bytes()
        .all(|b| matches!(b, b'*' | b' ') || b.is_ascii_digit());
    let known = matches!(kind.trim_end(), "Request" | "BeReq" | "Session" | "Unknown");
    let number = number.trim_ascii();
    (level && known).then(|| number.parse().ok())?
}

/// `--  BackendOpen    17 app 10.0.0.2 80 10.0.0.1 4100 connect`: tag and text; with `-v` the
/// transaction's number and its side are around the tag.
fn record(line: &str) -> Option<(&str, &str)> {
    let (level, rest) = line.split_once(' ')?;
    let levels = level.bytes().all(|b| b == b'-' || b.is_ascii_digit());
    if !level.starts_with('-') || !levels {
        return None;
    }
    let rest = rest.trim_ascii_start();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let rest = rest.get(digits..)?.trim_ascii_start();
    let tag = rest.split(' ').next()?;
    let named = tag.starts_with(|c: char| c.is_ascii_uppercase());
    let letters = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let text = rest.get(tag.len().max(14)..).unwrap_or("");
    let text = text.strip_prefix(' ').unwrap_or(text);
    let text = match digits {
        0 => text,
        _ => text.get(2..).unwrap_or(""),
    };
    (named && letters && tag.len() >= 3).then_some((tag, text))
}

impl Varnish {
    pub(super) fn parse(&mut self, line: &str) -> Parsed {
        if self.doubted > 0 {
            self.doubted = self.doubted.saturating_sub(line.len() + 1);
            return Parsed::Nothing;
        }
        if let Some(number) = header(line) {
            return self.begin(number);
        }
        let Some((tag, text)) = record(line) else {
            return Parsed::NotUnderstood;
        };
        let Some(reading) = &mut self.reading else {
            // Of a transaction that had begun before this log was read.
            return Parsed::Nothing;
        };
        if !reading.record(tag, text, &mut self.held) {
            self.doubt(line.len());
        }
        Parsed::Nothing
    }

    /// Nothing more is being written: requests are told with what is there.
    pub(super) fn flush(&mut self, out: &mut Vec<Timed>) {
        match self.reading.take() {
            Some(reading) if !reading.has_ended() => {
                self.reading = Some(reading);
                return;
            }
            Some(reading) => out.extend(self.keep(reading)),
            None => {}
        }
        let order = std::mem::take(&mut self.order);
        for number in &order {
            let root = self.whole.get(number).map(|transaction| transaction.kind);
            if root == Some(Kind::Request) {
                out.extend(self.tell(*number));
            }
        }
        // A fetch may be over before its request is.
        self.order = order;
        self.order.retain(|number| self.whole.contains_key(number));
    }

    fn begin(&mut self, number: u64) -> Parsed {
        let told = match self.reading.take() {
            Some(reading) if reading.under_way() => {
                self.doubt(0);
                return Parsed::NotUnderstood;
            }
            Some(reading) => self.keep(reading),
            None => None,
        };
        self.reading = Some(Reading::new(number));
        told.map_or(Parsed::Nothing, Parsed::Signal)
    }

    /// Somebody else than Varnish wrote a line: nothing is believed of this transaction, nor of what may be
    /// in the same record.
    fn doubt(&mut self, length: usize) {
        self.reading = None;
        self.distrusted += 1;
        self.doubted = RECORD.saturating_sub(length);
    }

    /// It has ended: gives the exchange that is whole with it.
    fn keep(&mut self, reading: Reading) -> Option<Timed> {
        let transaction = reading.transaction?;
        let mut root = Some((reading.number, &transaction));
        let mut steps = 0;
        let mut found = None;
        while let Some((number, of)) = root.filter(|_| steps < OF_ONE) {
            if of.kind == Kind::Request {
                found = Some(number);
                break;
            }
            steps += 1;
            root = self.whole.get(&of.parent).map(|parent| (of.parent, parent));
        }
        if self.order.len() >= 2 * KEPT {
            self.order.retain(|number| self.whole.contains_key(number));
        }
        self.whole.insert(reading.number, transaction);
        self.order.push_back(reading.number);
        match found.filter(|root| self.is_whole(*root)) {
            Some(root) => self.tell(root),
            None if self.whole.len() > KEPT => self.make_room(),
            None => None,
        }
    }

    /// Gives up the oldest: if it is a request, without what has not come of it.
    fn make_room(&mut self) -> Option<Timed> {
        while let Some(number) = self.order.pop_front() {
            match self.whole.get(&number).map(|transaction| transaction.kind) {
                Some(Kind::Request) => return self.tell(number),
                Some(_) => {
                    self.whole.remove(&number);
                    return None;
                }
                None => {}
            }
        }
        None
    }

    /// Whether all that it led to is there.
    fn is_whole(&self, root: u64) -> bool {
        let mut waiting = vec![root];
        for _ in 0..OF_ONE {
            let Some(number) = waiting.pop() else {
                return true;
            };
            let Some(transaction) = self.whole.get(&number) else {
                return false;
            };
            waiting.extend(&transaction.links);
        }
        true
    }

    /// A request and all that it led to, as one line of a log.
    fn tell(&mut self, root: u64) -> Option<Timed> {
        let mut waiting = vec![root];
        let mut all = Vec::new();
        while let Some(number) = waiting.pop().filter(|_| all.len() < OF_ONE) {
            if let Some(transaction) = self.whole.remove(&number) {
                waiting.extend(transaction.links.iter().rev());
                all.push(transaction);
            }
        }
        if all.iter().any(|transaction| transaction.doubtful) {
            self.distrusted += 1;
            return None;
        }
        if all.iter().any(|transaction| transaction.incomplete) {
            self.lost += 1;
            return None;
        }
        exchange(all)
    }
}

/// In the order of things: the request, what was fetched for it, and what it was restarted as.
fn exchange(all: Vec<Transaction>) -> Option<Timed> {
    let asked = |transaction: &&Transaction| transaction.kind != Kind::Fetch;
    let last = all.iter().rev().find(asked)?;
    let first = all.first()?;
    let (status, answered) = (last.status?, last.answered.or(last.sent)?);
    let (began, client) = (first.began?, first.client.clone()?);
    let request = first.request.clone();
    let fetched = all.iter().rev().find(|t| t.kind == Kind::Fetch);
    // What VCL answers by itself.
    let synthetic = last.synthetic && status >= 500 && all.iter().all(|t| t.links.is_empty());
    let said = match fetched {
        Some(fetched) => fetched.said,
        None => synthetic.then_some(Said::Configured),
    };
    let unsent = all.iter().any(|transaction| transaction.unsent);
    let mut tries: Vec<_> = all.into_iter().flat_map(|t| t.tries).collect();
    if let Some(one) = tries.last_mut()
        && one.said.is_none()
        && one.status == Some(status)
        && status >= 500
    {
        one.said = Some(Said::Answered);
    }
    // Varnish ends such a request at the upstream by an error of its own, which reads the same.
    if let Some(one) = tries.last_mut()
        && unsent
        && matches!(one.said, Some(Said::SendFailed { .. }))
    {
        one.said = None;
    }
    Some(Timed::exchange(
        answered,
        Logged {
            proxy: Some(Software::Varnish),
            line: LogLine::Access,
            pid: None,
            connection: None,
            client: Some(client),
            request,
            within: answered.within,
            took: Some(answered.at.saturating_sub(began.at)),
            status: Some(status),
            untried: tries.is_empty(),
            tries,
            said,
        },
    ))
}

#[cfg(test)]
mod tests;

//! Which verdicts are about no request of a pair: their path was not asked for, or they name none and fit no
//! failure that is without a verdict. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::alike;
use crate::expect::{Expect, Kind};
use crate::ledger::Sent;

/// What one source said of a pair.
#[derive(Default)]
pub(super) struct Sorted<'a> {
    /// The verdicts by the paths of those requests that they are about.
    pub(super) by_path: BTreeMap<&'a str, Vec<&'a Value>>,
    pub(super) strays: Vec<&'a Value>,
}

pub(super) fn sort<'a>(entries: &'a [(Sent, Expect)], lines: &'a [Value]) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    let asked = |path: &str| entries.iter().any(|(sent, _)| sent.path == path);
    let mut nameless = Vec::new();
    for line in lines.iter().filter(|line| is_verdict(line)) {
        match line["request"]["path"].as_str() {
            Some(path) if asked(path) => sorted.by_path.entry(path).or_default().push(line),
            Some(_) => sorted.strays.push(line),
            None => nameless.push(line),
        }
    }
    if nameless.is_empty() {
        return sorted;
    }
    let said = alike::share(entries, &sorted.by_path);
    let mut silent: Vec<&(Sent, Expect)> = (entries.iter().zip(&said))
        .filter(|((sent, truth), said)| said.is_empty() && has_failed(sent, truth))
        .map(|(entry, _)| entry)
        .collect();
    // Those that name a client leave nobody to be guessed.
    nameless.sort_by_key(|line| client(line).is_none());
    for line in nameless {
        match silent.iter().position(|(sent, _)| fits(line, sent)) {
            Some(at) => {
                let path = &silent.swap_remove(at).0.path;
                sorted.by_path.entry(path).or_default().push(line);
            }
            None => sorted.strays.push(line),
        }
    }
    sorted
}

pub(super) fn is_verdict(line: &Value) -> bool {
    line["type"] == "verdict"
}

/// A response that failed, or a proxy that closed without one.
fn has_failed(sent: &Sent, truth: &Expect) -> bool {
    sent.failed() || sent.status.is_none() && truth.kind == Kind::Verdict
}

/// By its client, or, where it names none, by the status that the client saw.
fn fits(line: &Value, sent: &Sent) -> bool {
    match client(line) {
        Some(client) => sent.client == Some(client),
        None => sent.status.is_some() && line["status"].as_u64() == sent.status.map(u64::from),
    }
}

fn client(line: &Value) -> Option<SocketAddr> {
    line["client"]["address"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::expect::HEALTHY;

    fn sent(path: &str, port: u16, status: Option<u16>) -> Sent {
        Sent {
            path: path.into(),
            client: Some(([127, 0, 0, 1], port).into()),
            status,
            ..Sent::default()
        }
    }

    fn truth() -> Expect {
        Expect::verdict("c", &[502], "worker_killed")
    }

    fn line(path: Option<&str>, client: Option<&str>, status: Option<u16>) -> Value {
        json!({"type": "verdict", "status": status,
               "request": {"path": path}, "client": {"address": client}})
    }

    /// The paths that have verdicts, and how many are strays.
    fn told(entries: &[(Sent, Expect)], lines: &[Value]) -> (Vec<String>, usize) {
        let sorted = sort(entries, lines);
        let paths = (sorted.by_path.iter())
            .flat_map(|(path, lines)| lines.iter().map(|_| (*path).to_owned()));
        (paths.collect(), sorted.strays.len())
    }

    #[test]
    fn what_nobody_asked_for_is_a_stray() {
        let entries = [(sent("/a", 1, Some(502)), truth())];
        let lines = [
            line(Some("/a"), None, Some(502)),
            line(Some("/well/healthz"), None, Some(502)),
            json!({"type": "near_miss", "request": {"path": "/b"}}),
            json!({"type": "summary"}),
        ];
        assert_eq!(told(&entries, &lines), (vec!["/a".to_owned()], 1));
        assert_eq!(sort(&entries, &lines).strays, [&lines[1]]);
    }

    #[test]
    fn one_without_a_path_is_of_a_failure_that_has_none_or_a_stray() {
        let entries = [
            (sent("/a", 1, Some(502)), truth()),
            (sent("/b", 2, Some(504)), truth()),
            (sent("/c", 3, Some(200)), HEALTHY),
            (sent("/d", 4, None), truth()),
        ];
        let told = |lines: &[Value]| told(&entries, lines);
        let at = |port: u16| format!("127.0.0.1:{port}");
        // By its client, whatever it says of the status.
        let own = line(None, Some(&at(2)), None);
        assert_eq!(told(&[own]), (vec!["/b".to_owned()], 0));
        let silent = line(None, Some(&at(4)), Some(502));
        assert_eq!(told(&[silent]), (vec!["/d".to_owned()], 0));
        // Of a client that did not fail, or that there was not.
        for port in [3, 9] {
            let other = line(None, Some(&at(port)), Some(502));
            assert_eq!(told(&[other]), (vec![], 1), "{port}");
        }
        // By its status, once for each failure.
        let by_status = || line(None, None, Some(502));
        assert_eq!(told(&[by_status()]), (vec!["/a".to_owned()], 0));
        assert_eq!(
            told(&[by_status(), by_status()]),
            (vec!["/a".to_owned()], 1)
        );
        let named = line(Some("/a"), None, Some(502));
        assert_eq!(
            told(&[by_status(), named]),
            (vec!["/a".to_owned()], 1),
            "it has its verdict"
        );
        // Who names a client comes first.
        let exact = line(None, Some(&at(1)), Some(502));
        let (paths, strays) = told(&[by_status(), exact]);
        assert_eq!((paths, strays), (vec!["/a".to_owned()], 1));
        // With neither it is nobody's.
        assert_eq!(told(&[line(None, None, None)]), (vec![], 1));
    }
}

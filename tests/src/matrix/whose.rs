//! Which pair a line is about of the agent that watches all of them: by its path, else by its proxy. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::slices::Part;
use super::strays;

/// The lines of each pair, in their order.
#[derive(Default)]
pub(super) struct Handed {
    pub(super) of_pairs: Vec<Vec<Value>>,
    /// Verdicts that are about no pair.
    pub(super) nobodys: Vec<Value>,
    /// How many verdicts are about proxies that other programs of this host have started.
    pub(super) elsewhere: u32,
}

/// When each process was seen in which network namespace.
pub(super) struct Seen(BTreeMap<u64, Vec<(u64, u64)>>);

impl Seen {
    /// As the probes' recording has it.
    pub(super) fn read(recording: &str) -> Seen {
        let mut seen: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        // Most lines are about something else.
        for line in recording.lines().filter(|line| line.contains("\"netns\"")) {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            let fact = &line["fact"];
            let then = (line["at"].as_u64(), fact["netns"].as_u64());
            if let (Some(pid), (Some(at), Some(netns))) = (fact["pid"].as_u64(), then) {
                seen.entry(pid).or_default().push((at, netns));
            }
        }
        Seen(seen)
    }

    /// When a process was last seen before a line about it was heard, and where.
    fn before(&self, heard: u64, pid: u64) -> Option<(u64, u64)> {
        let all = self.0.get(&pid)?;
        all.iter().filter(|(at, _)| *at <= heard).max().copied()
    }
}

/// `pair_of` knows a path's pair; `heard` is when lines were read, by their ids.
pub(super) fn hand_out<'a>(
    lines: Vec<Value>,
    pair_of: impl Fn(&str) -> Option<usize>,
    parts: &[Part],
    seen: &Seen,
    heard: impl Fn(&str) -> Option<&'a u64>,
) -> Handed {
    let mut handed = Handed {
        of_pairs: parts.iter().map(|_| Vec::new()).collect(),
        ..Handed::default()
    };
    for line in lines {
        let of_path = line["request"]["path"].as_str().and_then(&pair_of);
        if let Some(pair) = of_path {
            handed.of_pairs[pair].push(line);
            continue;
        }
        let pid = line["proxy"]["pid"].as_u64();
        let then = line["id"].as_str().and_then(&heard).copied();
        let place = pid.and_then(|pid| seen.before(then.unwrap_or(u64::MAX), pid));
        // Pairs one after the other may have a namespace of the same number.
        let is_there = |part: &Part, (at, netns): (u64, u64)| {
            part.netns == netns && (part.began..=part.ended).contains(&at)
        };
        let pair = place.map(|place| parts.iter().position(|part| is_there(part, place)));
        match pair {
            Some(Some(pair)) => handed.of_pairs[pair].push(line),
            Some(None) => handed.elsewhere += u32::from(strays::is_verdict(&line)),
            None if strays::is_verdict(&line) => handed.nobodys.push(line),
            None => {}
        }
    }
    handed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_its_paths_or_its_proxys_or_nobodys() {
        let seen = |at: u64, pid: u64, netns: u64| {
            let fact = json!({"kind": "process_seen", "pid": pid, "netns": netns});
            json!({"at": at, "fact": fact}).to_string()
        };
        // The namespace of the first pair has come back as the second's, and the pid as another's.
        let recording = [
            json!({"why502_recording": 1}).to_string(),
            seen(1, 5, 40),
            seen(11, 7, 70),
            seen(31, 8, 70),
            seen(32, 7, 70),
        ];
        let seen = Seen::read(&recording.join("\n"));
        let part = |began| Part {
            netns: 70,
            began,
            ended: began + 10,
        };
        let line = |kind: &str, id: &str, path: Option<&str>, pid: Option<u64>| json!({"type": kind, "id": id, "request": {"path": path}, "proxy": {"pid": pid}});
        let verdict = |id, path, pid| line("verdict", id, path, pid);
        let lines = vec![
            verdict("a", Some("/first"), None),
            verdict("b", Some("/odd"), Some(7)),
            verdict("c", None, Some(7)),
            verdict("d", None, Some(8)),
            verdict("e", Some("/odd"), Some(5)),
            verdict("f", None, None),
            verdict("g", None, Some(9)),
            line("near_miss", "h", None, Some(5)),
            line("summary", "", None, None),
        ];
        let heard: BTreeMap<&str, u64> = [("b", 15), ("c", 35), ("d", 35), ("e", 35)].into();
        let pair_of = |path: &str| (path == "/first").then_some(0);
        let handed = hand_out(lines, pair_of, &[part(10), part(30)], &seen, |id| {
            heard.get(id)
        });
        let ids = |lines: &[Value]| -> String {
            lines
                .iter()
                .filter_map(|line| line["id"].as_str())
                .collect()
        };
        assert_eq!(ids(&handed.of_pairs[0]), "ab");
        assert_eq!(ids(&handed.of_pairs[1]), "cd");
        assert_eq!(ids(&handed.nobodys), "fg");
        assert_eq!(handed.elsewhere, 1);
    }
}

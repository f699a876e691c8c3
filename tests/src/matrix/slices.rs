//! One pair's part of a recording of all: the facts of its own proxy, and what concerns everybody.
//! Pairs have the same addresses, each in namespaces of its own, which logs do not tell apart. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// What tells a pair's facts from others'.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The network namespace of its proxy, by its inode.
    pub(super) netns: u64,
    /// Monotonic nanoseconds.
    pub(super) began: u64,
    pub(super) ended: u64,
}

/// The recording of each part, in the order of `parts`.
pub(super) fn slices(recording: &str, parts: &[Part]) -> Vec<String> {
    let lines: Vec<(&str, Value)> = recording
        .lines()
        .filter_map(|line| Some((line, serde_json::from_str(line).ok()?)))
        .collect();
    let number = |value: &Value| value.as_u64();
    let mut netns_of = BTreeMap::new();
    let mut proxy_of = BTreeMap::new();
    for (_, line) in &lines {
        let fact = &line["fact"];
        if let (Some(pid), Some(netns)) = (number(&fact["pid"]), number(&fact["netns"])) {
            netns_of.insert(pid, netns);
        }
        if let (Some(flow), Some(proxy)) = (number(&fact["flow"]), number(&fact["proxy"])) {
            proxy_of.insert(flow, proxy);
        }
    }
    let wanted = |line: &Value, part: &Part| {
        let fact = &line["fact"];
        let by_flow = || number(&fact["flow"]).and_then(|flow| proxy_of.get(&flow).copied());
        let proxy = number(&fact["proxy"]).or_else(by_flow);
        let netns = proxy.and_then(|pid| netns_of.get(&pid));
        let of_all = matches!(
            fact["kind"].as_str(),
            None | Some("source_started" | "signals_lost")
        );
        let then = number(&line["at"]).is_some_and(|at| (part.began..=part.ended).contains(&at));
        of_all || then && netns.is_none_or(|netns| *netns == part.netns)
    };
    parts
        .iter()
        .map(|part| {
            let own = lines.iter().filter(|(_, line)| wanted(line, part));
            own.map(|(text, _)| format!("{text}\n")).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Part, slices};

    #[test]
    fn each_part_has_its_own_proxys_facts_and_those_of_everybody() {
        let fact = |at: u64, fact: serde_json::Value| json!({"at": at, "fact": fact}).to_string();
        let recording = [
            json!({"why502_recording": 1}).to_string(),
            fact(1, json!({"kind": "source_started"})),
            fact(15, json!({"kind": "attempt_ended", "flow": 1, "proxy": 7})),
            fact(16, json!({"kind": "attempt_ended", "flow": 2, "proxy": 8})),
            fact(17, json!({"kind": "process_seen", "pid": 7, "netns": 70})),
            fact(17, json!({"kind": "process_seen", "pid": 8, "netns": 80})),
            fact(18, json!({"kind": "flow_closed", "flow": 2})),
            fact(19, json!({"kind": "process_exited", "pid": 9})),
            fact(99, json!({"kind": "process_exited", "pid": 10})),
        ];
        let part = |netns| Part {
            netns,
            began: 10,
            ended: 20,
        };
        let out = slices(&recording.join("\n"), &[part(70), part(80)]);
        let lines = |text: &String| -> Vec<usize> {
            let place = |line: &str| recording.iter().position(|known| known == line);
            text.lines().filter_map(place).collect()
        };
        assert_eq!(lines(&out[0]), [0, 1, 2, 4, 5, 7]);
        assert_eq!(lines(&out[1]), [0, 1, 3, 4, 5, 6, 7]);
    }
}

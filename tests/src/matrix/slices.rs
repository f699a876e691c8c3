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
    // Numbers of processes come again in a long run.
    let mut netns_of: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
    let mut proxy_of = BTreeMap::new();
    for (_, line) in &lines {
        let fact = &line["fact"];
        let told = [&line["at"], &fact["pid"], &fact["netns"]].map(number);
        if let [Some(at), Some(pid), Some(netns)] = told {
            netns_of.entry(pid).or_default().insert(at, netns);
        }
        if let (Some(flow), Some(proxy)) = (number(&fact["flow"]), number(&fact["proxy"])) {
            proxy_of.insert(flow, proxy);
        }
    }
    let wanted = |line: &Value, part: &Part| {
        let fact = &line["fact"];
        let by_flow = || number(&fact["flow"]).and_then(|flow| proxy_of.get(&flow).copied());
        let proxy = number(&fact["proxy"]).or_else(by_flow);
        let told = proxy.and_then(|pid| netns_of.get(&pid));
        let within = |at: &u64| (part.began..=part.ended).contains(at);
        let is_there = |told: &BTreeMap<u64, u64>| {
            told.iter()
                .any(|(at, netns)| *netns == part.netns && within(at))
        };
        let of_all = matches!(
            fact["kind"].as_str(),
            None | Some("source_started" | "signals_lost")
        );
        let then = number(&line["at"]).is_some_and(|at| within(&at));
        of_all || then && told.is_none_or(is_there)
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

    #[test]
    fn a_number_that_came_again_is_another_process() {
        let seen = |at: u64, netns: u64| json!({"at": at, "fact": {"kind": "process_seen", "pid": 7, "netns": netns}});
        let ended =
            |at: u64| json!({"at": at, "fact": {"kind": "attempt_ended", "flow": at, "proxy": 7}});
        let all = [ended(10), seen(11, 70), ended(12), seen(21, 80), ended(22)];
        let recording: Vec<String> = all.iter().map(|line| line.to_string()).collect();
        let part = |netns, began| Part {
            netns,
            began,
            ended: began + 10,
        };
        let out = slices(&recording.join("\n"), &[part(70, 5), part(80, 18)]);
        let count = |text: &String| text.matches("attempt_ended").count();
        assert_eq!((count(&out[0]), count(&out[1])), (2, 1));
    }
}

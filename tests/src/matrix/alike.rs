//! Which lines are about which of several requests for one path. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::Value;

use crate::expect::Expect;
use crate::ledger::Sent;

/// The lines about each request: by its client where a line names one, else those that failed come
/// first, in the order in which they ended.
pub(super) fn share<'a>(
    entries: &[(Sent, Expect)],
    lines: &BTreeMap<&str, Vec<&'a Value>>,
) -> Vec<Vec<&'a Value>> {
    let mut shares: Vec<Vec<&Value>> = vec![Vec::new(); entries.len()];
    let mut asked: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, (sent, _)) in entries.iter().enumerate() {
        asked.entry(&sent.path).or_default().push(number);
    }
    for (path, mut numbers) in asked {
        let said = lines.get(path).map_or(&[][..], Vec::as_slice);
        if let [only] = numbers[..] {
            shares[only] = said.to_vec();
            continue;
        }
        numbers.sort_by_key(|number| {
            let sent = &entries[*number].0;
            (!sent.failed(), sent.ended)
        });
        let clients: BTreeSet<SocketAddr> = (numbers.iter())
            .filter_map(|number| entries[*number].0.client)
            .collect();
        let own = |line: &Value| -> Option<SocketAddr> {
            let named = line["client"]["address"].as_str()?.parse().ok();
            named.filter(|client| clients.contains(client))
        };
        // Those that name nobody go to who is left.
        let (named, nameless): (Vec<&Value>, Vec<&Value>) =
            said.iter().partition(|line| own(line).is_some());
        for line in named.into_iter().chain(nameless) {
            let of = match own(line) {
                Some(client) => (numbers.iter()).find(|n| entries[**n].0.client == Some(client)),
                None => numbers.iter().find(|number| shares[**number].is_empty()),
            };
            let of = of.or(numbers.last()).copied();
            shares[of.expect("somebody asked")].push(line);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::share;
    use crate::expect::HEALTHY;
    use crate::ledger::Sent;

    #[test]
    fn a_line_goes_to_its_client_or_to_the_first_that_failed_without_one() {
        let sent = |path: &str, port: u16, status: u16, ended: u64| {
            let sent = Sent {
                path: path.into(),
                client: Some(([127, 0, 0, 1], port).into()),
                status: Some(status),
                ended,
                ..Sent::default()
            };
            (sent, HEALTHY)
        };
        let entries = [
            sent("/a", 1, 200, 1),
            sent("/a", 2, 502, 3),
            sent("/a", 3, 502, 2),
            sent("/b", 4, 502, 2),
        ];
        let line = |address: Value| json!({"client": {"address": address}});
        let lines = [
            line(Value::Null),
            line(json!("127.0.0.1:2")),
            line(json!("127.0.0.1:1")),
            line(json!("127.0.0.1:9")),
        ];
        let by_path: BTreeMap<&str, Vec<&Value>> =
            [("/a", lines[..3].iter().collect()), ("/b", vec![&lines[3]])].into();
        let shares = share(&entries, &by_path);
        assert_eq!(shares[0], [&lines[2]]);
        assert_eq!(shares[1], [&lines[1]]);
        assert_eq!(shares[2], [&lines[0]]);
        assert_eq!(shares[3], [&lines[3]]);
    }
}

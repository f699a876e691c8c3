//! `cargo xtask streams DIR`: recordings of a lab's run become the fixtures in `tests/streams`.
//!
//! Of each scenario a few exchanges per kind of verdict are kept whole, with what the host told of
//! the processes, listeners and pools around them. Lines are copied, never rewritten.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::shell;

/// Exchanges kept of each kind of verdict: so many of the first, and of the last.
const KEPT_EACH_SIDE: usize = 3;
/// Closes of idle connections kept per upstream: more than any rule asks for.
const IDLE_CLOSES: usize = 30;
const DAY: u64 = 86_400_000_000_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The lab's output: a folder per scenario, each with recording.jsonl and why502.jsonl
    lab: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let target = shell::root().join("tests/streams");
    fs::create_dir_all(&target)?;
    let mut scenarios: Vec<PathBuf> = fs::read_dir(&args.lab)
        .with_context(|| format!("read {}", args.lab.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    scenarios.retain(|path| path.join("recording.jsonl").is_file());
    scenarios.sort();
    ensure!(
        !scenarios.is_empty(),
        "no recording below {}",
        args.lab.display()
    );
    for scenario in scenarios {
        let name = scenario.file_name().unwrap_or_default().to_string_lossy();
        let read = |file: &str| {
            let path = scenario.join(file);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let fixture = trim(&read("recording.jsonl")?, &read("why502.jsonl")?)
            .with_context(|| format!("trim {name}"))?;
        let path = target.join(format!("{name}.jsonl"));
        fs::write(&path, &fixture)?;
        println!("{:7} bytes  {}", fixture.len(), relative(&path));
    }
    println!("now: INSTA_UPDATE=always cargo test --package why502 --test streams");
    Ok(())
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(shell::root()).unwrap_or(path);
    path.display().to_string()
}

/// The lines of a recording that the chosen exchanges need.
fn trim(recording: &str, results: &str) -> Result<String> {
    let (header, lines) = recording
        .split_once('\n')
        .context("the recording is empty")?;
    let offset = serde_json::from_str::<Value>(header)?["clock_offset_ns"]
        .as_u64()
        .context("the header has no clock_offset_ns")?;
    let signals: Vec<(&str, Value)> = lines
        .lines()
        .map(|line| Ok((line, serde_json::from_str(line)?)))
        .collect::<Result<_>>()?;
    let results: Vec<Value> = results
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;

    let mut exchanges = Exchanges::default();
    for (_, signal) in &signals {
        exchanges.join(&signal["fact"]);
    }
    let mut chosen = HashSet::new();
    for verdict in few_of_each(&results) {
        let found = exchange_of(verdict, &signals, offset)?;
        chosen.extend(exchanges.of(found));
    }
    let around = Around::of(
        signals
            .iter()
            .map(|(_, signal)| &signal["fact"])
            .filter(|fact| {
                exchanges
                    .of(fact)
                    .is_some_and(|root| chosen.contains(&root))
            }),
    );
    let mut idle_closes: HashMap<&str, usize> = HashMap::new();
    let mut out = format!("{header}\n");
    for (line, signal) in &signals {
        let fact = &signal["fact"];
        let keep = match text(fact, "kind") {
            "source_started" | "proxy_started" | "process_seen" | "signal_sent" | "oom_killed"
            | "signals_lost" => true,
            "listener_seen" => around.listens(text(fact, "address")),
            "process_exited" => ["pid", "parent"].iter().any(|key| {
                fact[key]
                    .as_u64()
                    .is_some_and(|pid| around.pids.contains(&pid))
            }),
            "idle_closed" => {
                let upstream = text(fact, "upstream");
                let count = idle_closes.entry(upstream).or_default();
                *count += 1;
                around.upstreams.contains(upstream) && *count <= IDLE_CLOSES
            }
            _ => exchanges
                .of(fact)
                .is_some_and(|root| chosen.contains(&root)),
        };
        if keep {
            out.push_str(line);
            out.push('\n');
        }
    }
    Ok(out)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The first and the last verdicts and near misses of each kind.
fn few_of_each(results: &[Value]) -> impl Iterator<Item = &Value> {
    let mut by_kind: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for result in results {
        if matches!(text(result, "type"), "verdict" | "near_miss") {
            let kind = ["type", "cause", "variant", "confidence", "status"]
                .map(|key| result[key].to_string())
                .join(" ");
            by_kind.entry(kind).or_default().push(result);
        }
    }
    by_kind.into_values().flat_map(|all| {
        let last = all.len().saturating_sub(KEPT_EACH_SIDE);
        let keep = move |i: usize| i < KEPT_EACH_SIDE || i >= last;
        all.into_iter()
            .enumerate()
            .filter(move |(i, _)| keep(*i))
            .map(|(_, result)| result)
    })
}

/// The signal of a verdict's exchange that is nearest to the verdict's time, which the live run may
/// have told by a clock measured anew.
fn exchange_of<'a>(
    verdict: &Value,
    signals: &'a [(&str, Value)],
    offset: u64,
) -> Result<&'a Value> {
    let time = time_of_day(text(verdict, "time"))
        .with_context(|| format!("a verdict's time: {}", verdict["time"]))?;
    let wanted = verdict["request"]["path"].as_str();
    let fits = |fact: &Value| {
        let paths = [
            &fact["request"]["path"],
            &fact["request"]["opening"]["path"],
            &fact["downstream"]["request"]["path"],
        ];
        matches!(text(fact, "kind"), "attempt_ended" | "response_sent")
            && wanted.is_none_or(|path| paths.iter().any(|p| p.as_str() == Some(path)))
    };
    signals
        .iter()
        .filter(|(_, signal)| fits(&signal["fact"]))
        .min_by_key(|(_, signal)| {
            let at = (signal["at"].as_u64().unwrap_or(0) + offset) % DAY;
            at.abs_diff(time).min(DAY - at.abs_diff(time))
        })
        .map(|(_, signal)| &signal["fact"])
        .with_context(|| format!("no signal of {wanted:?}"))
}

/// Nanoseconds since midnight of `2026-01-31T23:59:59.123456789Z`.
fn time_of_day(rfc3339: &str) -> Option<u64> {
    let (_, time) = rfc3339.trim_end_matches('Z').split_once('T')?;
    let (clock, fraction) = time.split_once('.')?;
    let mut seconds = 0;
    for part in clock.split(':') {
        seconds = seconds * 60 + part.parse::<u64>().ok()?;
    }
    Some(seconds * 1_000_000_000 + fraction.parse::<u64>().ok()?)
}

/// Which facts are of one exchange, by the flows and requests that they name.
#[derive(Default)]
struct Exchanges {
    parent: HashMap<String, String>,
}

impl Exchanges {
    fn join(&mut self, fact: &Value) {
        let mut names = names(fact).into_iter();
        let Some(first) = names.next() else { return };
        let first = self.root(&first);
        for other in names {
            let other = self.root(&other);
            if other != first {
                self.parent.insert(other, first.clone());
            }
        }
    }

    fn root(&self, name: &str) -> String {
        let mut name = name;
        while let Some(parent) = self.parent.get(name) {
            name = parent;
        }
        name.to_owned()
    }

    fn of(&self, fact: &Value) -> Option<String> {
        names(fact).first().map(|name| self.root(name))
    }
}

/// The flows and requests that a fact names, if it is one of an exchange.
fn names(fact: &Value) -> Vec<String> {
    let flow = |flow: &Value| flow.as_u64().map(|flow| format!("flow {flow}"));
    let request = |flow: &Value, of: &Value| {
        // Within TLS and HTTP/2 a connection's requests are not counted.
        (text(&of["request"], "protocol") == "http_request")
            .then(|| format!("request {flow} {}", of["ordinal"]))
    };
    let found = match text(fact, "kind") {
        "attempt_ended" => {
            let link = &fact["downstream"];
            vec![
                flow(&fact["flow"]),
                flow(&fact["retry_of"]),
                request(&link["flow"], link).filter(|_| text(link, "order") != "unclear"),
            ]
        }
        "response_sent" => vec![
            request(&fact["downstream"], fact),
            flow(&fact["adjacent"]),
            flow(&fact["last_attempt"]["flow"]),
        ],
        "flow_closed" | "attempt_retried" | "process_sampled" => vec![flow(&fact["flow"])],
        _ => vec![],
    };
    found.into_iter().flatten().collect()
}

/// What the chosen exchanges name of the host.
#[derive(Default)]
struct Around<'a> {
    upstreams: HashSet<&'a str>,
    pids: HashSet<u64>,
}

impl<'a> Around<'a> {
    fn of(facts: impl Iterator<Item = &'a Value>) -> Around<'a> {
        let mut around = Around::default();
        for fact in facts {
            for attempt in [fact, &fact["last_attempt"]] {
                around.upstreams.extend(attempt["upstream"].as_str());
                let peer = &attempt["peer"];
                let pids = [
                    &peer["reader"]["pid"],
                    &peer["closed"]["pid"],
                    &attempt["pid"],
                ];
                around
                    .pids
                    .extend(pids.iter().filter_map(|pid| pid.as_u64()));
            }
        }
        around
    }

    /// The listener is one of the upstreams, or takes all addresses on the port of one.
    fn listens(&self, address: &str) -> bool {
        let port = ["0.0.0.0:", "[::]:"]
            .iter()
            .find_map(|all| address.strip_prefix(all));
        self.upstreams.contains(address)
            || port.is_some_and(|port| {
                let same =
                    |upstream: &&str| upstream.rsplit_once(':').is_some_and(|(_, p)| p == port);
                self.upstreams.iter().any(same)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(at: u64, path: &str) -> String {
        format!(
            r#"{{"at":{at},"fact":{{"kind":"attempt_ended","flow":{at},"upstream":"unix:/a","retry_of":null,"downstream":{{"flow":7,"ordinal":{at},"order":"after_read","request":{{"protocol":"http_request","path":"{path}"}}}}}}}}"#
        )
    }

    #[test]
    fn a_few_exchanges_of_each_kind_stay_whole() {
        let mut recording = vec![
            r#"{"why502_recording":1,"clock_offset_ns":1000}"#.to_owned(),
            r#"{"at":1,"fact":{"kind":"source_started","sees":[]}}"#.to_owned(),
            r#"{"at":2,"fact":{"kind":"listener_seen","address":"unix:/a"}}"#.to_owned(),
            r#"{"at":3,"fact":{"kind":"listener_seen","address":"unix:/b"}}"#.to_owned(),
            r#"{"at":4,"fact":{"kind":"process_exited","pid":5,"parent":1}}"#.to_owned(),
        ];
        let mut results = Vec::new();
        for n in 10..20 {
            recording.push(attempt(n, &format!("/{n}")));
            recording.push(format!(
                r#"{{"at":{n},"fact":{{"kind":"flow_closed","flow":{n}}}}}"#
            ));
            results.push(format!(
                r#"{{"type":"verdict","cause":"c","time":"2026-01-01T00:00:00.00000{:04}Z","request":{{"path":"/{n}"}}}}"#,
                1000 + n
            ));
        }
        results.push(r#"{"type":"summary"}"#.to_owned());
        let kept = trim(&recording.join("\n"), &results.join("\n")).unwrap();
        let count = |word: &str| kept.matches(word).count();
        assert_eq!(count("attempt_ended"), 2 * KEPT_EACH_SIDE, "{kept}");
        assert_eq!(count("flow_closed"), 2 * KEPT_EACH_SIDE, "{kept}");
        assert!(
            kept.contains("unix:/a") && !kept.contains("unix:/b"),
            "{kept}"
        );
        assert_eq!(count("process_exited"), 0, "{kept}");
        assert!(
            kept.starts_with(&recording[0])
                && kept.contains("\"/19\"")
                && !kept.contains("\"/14\"")
        );
    }

    #[test]
    fn a_time_of_day_has_nanoseconds() {
        assert_eq!(
            time_of_day("2026-01-31T00:01:01.000000002Z"),
            Some(61_000_000_002)
        );
        assert_eq!(time_of_day("yesterday"), None);
    }
}

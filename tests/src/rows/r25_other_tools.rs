//! Row 25: tools of others beside the agent (Debian's `libbpf-tools`), which see connections with programs
//! of their own. Where they see what why502 sees they have to agree, connection by connection, by its two
//! addresses and ports and in order. What each cannot see:
//!
//! - why502 records failed attempts alone: so all requests here fail, each on a connection of its own.
//! - tcpstates knows no local port when a connect begins: changes are put together by the socket's address.
//!   It does not tell a reset from an end without one, nor why a state changed.
//! - tcptracer sees of a connect that fails the close alone, and tells accepts as well.
//! - tcpconnlat sees that a SYN was answered, not how, and no end.

mod tool;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::NGINX;
use super::front::{Front, PLAIN_PORT};
use crate::client::Request;
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::run::{Need, Run, START, Scenario};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;
use tool::{Tool, called, changes, connects};

/// Ports that nothing else on the host calls: the tools see all of its network namespaces.
const REFUSING: u16 = 19_502;
const APP: u16 = 19_503;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 25,
        name: "other-tools",
        needs: &[NGINX, Need::Agent, Need::Program("tcpstates")],
        run,
    }]
}

/// A connection as its two ends are named: the proxy's, the upstream's.
type Ends = (String, String);

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let app = format!("127.0.0.1:{APP}");
    let upstream = Scripted::start(run, &ns, "app", &app, Mode::Asked, 128)?;
    let http = format!(
        "server {{ {} proxy_read_timeout 1s;
           location /refused {{ proxy_pass http://127.0.0.1:{REFUSING}; }}
           location /app {{ proxy_pass http://{app}; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    // Resets are proven of an upstream that has spoken HTTP. Before the tools, for it is not recorded.
    let spoke = run.expecting(
        Request::get(run.path("/app")),
        &Expect::healthy("spoke", &[200]),
    );
    Front::Plain.burst(run, &ns, vec![(Duration::ZERO, spoke)])?;
    let states = Tool::start(run, "tcpstates", "NEWSTATE")?;
    let tracer = Tool::start(run, "tcptracer", "DPORT")?;
    let latency = Tool::start(run, "tcpconnlat", "DPORT")?;

    let cells = [
        Expect::verdict("refused", &[502], "connection_refused").variant("no_listener"),
        Expect::verdict("close", &[502], "upstream_closed_early").variant("no_bytes"),
        Expect::verdict("reset", &[502], "upstream_reset").variant("abort"),
        // What it waits for is seen in a sample, or not.
        Expect::verdict("hold", &[504], "read_timeout_no_reply")
            .or("read_timeout_no_reply", Some("waiting_on_socket")),
    ];
    let mut requests = Vec::new();
    for number in 0..run.wanted() {
        let at = Duration::from_millis(number as u64 * 100);
        for expect in &cells {
            let request = match expect.cell {
                "refused" => Request::get(run.path("/refused")),
                act => Request::get(run.path("/app")).query(&format!("do={act}")),
            };
            requests.push((at, run.expecting(request, expect)));
        }
    }
    let count = requests.len();
    Front::Plain.burst(run, &ns, requests)?;
    for expect in &cells {
        run.at_least(expect.cell, run.wanted());
    }

    let recording = run.out.join("recording.jsonl");
    let mut recorded = BTreeMap::new();
    let whole = wait::until("the attempts in the recording", START, || {
        let text = std::fs::read_to_string(&recording).unwrap_or_default();
        recorded = attempts(&text);
        recorded.len() >= count
    });
    if whole.is_err() {
        run.problem(format!("{} attempts of {count} recorded", recorded.len()));
    }
    let mut agree = Vec::new();
    let mut compare = |run: &mut Run, tool: Option<Tool>, differ: Differ| -> Result<()> {
        if let Some(tool) = tool {
            agree.push(tool.name);
            let (name, said) = (tool.name, tool.end()?);
            for problem in differ(&recorded, &said) {
                run.problem(format!("{name}: {problem}"));
            }
        }
        Ok(())
    };
    compare(run, states, differ_in_states)?;
    compare(run, tracer, differ_in_connections)?;
    compare(run, latency, differ_in_answers)?;
    ensure!(!agree.is_empty(), "none of the tools starts here");
    run.note(format!("{count} connections beside {}", agree.join(", ")));
    run.hold((nginx, upstream, ns));
    Ok(())
}

type Differ = fn(&BTreeMap<Ends, Value>, &str) -> Vec<String>;

/// The recorded attempts at our ports.
fn attempts(recording: &str) -> BTreeMap<Ends, Value> {
    let facts = recording.lines().filter_map(|line| {
        let mut signal: Value = serde_json::from_str(line).ok()?;
        let fact = signal["fact"].take();
        (fact["kind"] == "attempt_ended").then_some(fact)
    });
    let ends = |fact: &Value| -> Option<Ends> {
        let upstream = fact["upstream"].as_str()?.to_owned();
        let (_, port) = upstream.rsplit_once(':')?;
        called(port).then_some((fact["local"].as_str()?.to_owned(), upstream))
    };
    facts
        .filter_map(|fact| Some((ends(&fact)?, fact)))
        .collect()
}

/// The states through which a socket goes whose attempt is as recorded, as far as the proxy decides.
fn states_of(attempt: &Value) -> Option<&'static [&'static str]> {
    let connected = !attempt["connected"].is_null();
    Some(match (attempt["end"]["how"].as_str()?, connected) {
        ("connect_failed", false) => &["SYN_SENT", "CLOSE"],
        ("peer_closed", true) => &["SYN_SENT", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"],
        ("reset", true) => &["SYN_SENT", "ESTABLISHED", "CLOSE"],
        ("given_up", true) => &["SYN_SENT", "ESTABLISHED", "FIN_WAIT1"],
        _ => return None,
    })
}

fn differ_in_states(recorded: &BTreeMap<Ends, Value>, said: &str) -> Vec<String> {
    let seen = changes(said);
    let mut problems = others(recorded, seen.keys());
    for (ends, attempt) in recorded {
        let told = (&attempt["connected"], &attempt["end"]);
        let agrees = match (states_of(attempt), seen.get(ends)) {
            (Some(states), Some(changes)) => changes.starts_with(states),
            _ => false,
        };
        if !agrees {
            problems.push(format!("{ends:?}: {:?}, recorded {told:?}", seen.get(ends)));
        }
    }
    problems
}

/// Each connect that succeeded, and after each connect one close.
fn differ_in_connections(recorded: &BTreeMap<Ends, Value>, said: &str) -> Vec<String> {
    let seen = tool::connections(said);
    let mut problems = others(recorded, seen.keys());
    for (ends, attempt) in recorded {
        let wanted = match attempt["connected"].is_null() {
            true => "X",
            false => "CX",
        };
        let kinds = seen.get(ends).map_or("", String::as_str);
        if kinds != wanted {
            problems.push(format!("{ends:?}: {kinds:?}, recorded {wanted:?}"));
        }
    }
    problems
}

/// Each connect, whether it was taken or refused, once.
fn differ_in_answers(recorded: &BTreeMap<Ends, Value>, said: &str) -> Vec<String> {
    let seen = connects(said);
    let mut problems = others(recorded, seen.keys());
    for ends in recorded.keys() {
        let count = seen.get(ends).copied().unwrap_or_default();
        if count != 1 {
            problems.push(format!("{ends:?}: {count} answers"));
        }
    }
    problems
}

/// What a tool saw, and why502 did not.
fn others<'a>(
    recorded: &BTreeMap<Ends, Value>,
    seen: impl Iterator<Item = &'a Ends>,
) -> Vec<String> {
    seen.filter(|ends| !recorded.contains_key(ends))
        .map(|ends| format!("{ends:?}: not recorded"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDING: &str = r#"{"at":1,"source":"kernel","fact":{"kind":"attempt_ended","upstream":"127.0.0.1:19502","local":"127.0.0.1:4001","connected":null,"end":{"how":"connect_failed","errno":111}}}
{"at":2,"source":"kernel","fact":{"kind":"attempt_ended","upstream":"127.0.0.1:19503","local":"127.0.0.1:4002","connected":2,"end":{"how":"given_up"}}}
{"at":3,"source":"kernel","fact":{"kind":"attempt_ended","upstream":"127.0.0.1:9000","local":"127.0.0.1:4003","connected":3,"end":{"how":"reset"}}}
"#;
    const STATES: &str = "\
SKADDR           PID     COMM       LADDR           LPORT RADDR           RPORT OLDSTATE    -> NEWSTATE    MS
ffff8f1bc2f30000 7       nginx      127.0.0.1       0     127.0.0.1       19502 CLOSE       -> SYN_SENT    0.000
ffff8f1bc2f30000 7       nginx      127.0.0.1       4001  127.0.0.1       19502 SYN_SENT    -> CLOSE       0.020
ffff8f1bc2f30000 7       nginx: w   127.0.0.1       0     127.0.0.1       19503 CLOSE       -> SYN_SENT    0.000
ffff8f1bc2f31111 7       nginx      127.0.0.1       19503 127.0.0.1       4002  LISTEN      -> SYN_RECV    0.000
ffff8f1bc2f30000 7       nginx      127.0.0.1       4002  127.0.0.1       19503 SYN_SENT    -> ESTABLISHED 0.030
ffff8f1bc2f30000 7       nginx      127.0.0.1       4002  127.0.0.1       19503 ESTABLISHED -> FIN_WAIT1   1000.0
";
    const TRACER: &str = "\
T  PID    COMM             IP SADDR            DADDR            SPORT  DPORT
X  7      nginx            4  127.0.0.1        127.0.0.1        4001   19502
C  7      nginx            4  127.0.0.1        127.0.0.1        4002   19503
A  8      lab              4  127.0.0.1        127.0.0.1        19503  4002
X  7      nginx            4  127.0.0.1        127.0.0.1        4002   19503
";
    const LATENCY: &str = "\
PID    COMM         IP SADDR            LPORT DADDR            DPORT LAT(ms)
7      nginx        4  127.0.0.1        4001  127.0.0.1        19502 0.02
7      nginx        4  127.0.0.1        4002  127.0.0.1        19503 0.03
";

    #[test]
    fn tools_that_tell_the_same_agree() {
        let recorded = attempts(RECORDING);
        assert_eq!(recorded.len(), 2);
        assert_eq!(differ_in_states(&recorded, STATES), [""; 0]);
        assert_eq!(differ_in_connections(&recorded, TRACER), [""; 0]);
        assert_eq!(differ_in_answers(&recorded, LATENCY), [""; 0]);
    }

    #[test]
    fn lines_of_another_processor_may_come_late() {
        let mut lines: Vec<&str> = STATES.lines().collect();
        let last = lines.len() - 1;
        lines.swap(last, last - 1);
        assert_eq!(
            differ_in_states(&attempts(RECORDING), &lines.join("\n")),
            [""; 0]
        );
    }

    #[test]
    fn every_line_that_one_lacks_is_found() {
        let recorded = attempts(RECORDING);
        let tools: [(Differ, &str); 3] = [
            (differ_in_states, STATES),
            (differ_in_connections, TRACER),
            (differ_in_answers, LATENCY),
        ];
        for (differ, said) in tools {
            for (left_out, line) in said.lines().enumerate().skip(1) {
                // Of the upstream's end nothing is compared.
                if line.contains("LISTEN") || line.starts_with('A') {
                    continue;
                }
                let lines = said.lines().enumerate();
                let rest = lines.filter(|(number, _)| *number != left_out);
                let rest: Vec<_> = rest.map(|(_, line)| line).collect();
                assert_ne!(differ(&recorded, &rest.join("\n")), [""; 0], "{line}");
            }
            let fewer = attempts(RECORDING.lines().next().unwrap());
            assert_ne!(differ(&fewer, said), [""; 0]);
        }
    }
}

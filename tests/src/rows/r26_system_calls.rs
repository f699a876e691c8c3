//! Row 26: a kernel without typed hooks for sends and receives, without fentry and fexit, and without tracefs:
//! the lowest rung of every ladder is the way into and out of all system calls. No kernel of Debian's for
//! x86-64 is so poor; names that its BTF has are kept from the agent. Verdicts are as with the better hooks.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::front::Front;
use super::{GUNICORN, NGINX, r02_keepalive_race, r07_never_read, r11_connect_errors};
use crate::run::{Run, Scenario};
use crate::without;

/// Where the better hooks are.
const MISSING: [&str; 9] = [
    "btf_trace_sock_send_length",
    "btf_trace_sock_recv_length",
    "tcp_sendmsg",
    "tcp_recvmsg",
    "unix_stream_sendmsg",
    "__sys_connect",
    "__sys_listen",
    "__x64_sys_close",
    "__arm64_sys_close",
];

/// What is seen instead, and by what.
const SEEN: [(&str, &str); 5] = [
    ("reads", "tp_btf/sys_exit"),
    ("writes", "tp_btf/sys_exit"),
    ("connect_errors", "tp_btf/sys_exit"),
    ("closes", "tp_btf/sys_enter"),
    ("unix_listens", "tp_btf/sys_exit"),
];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            row: 26,
            name: "system-calls-races",
            needs: r02_keepalive_race::NEEDS,
            run: |run| {
                take_hooks_away(run)?;
                r02_keepalive_race::other_variants(run, Front::Plain)
            },
        },
        Scenario {
            row: 26,
            name: "system-calls-never-read",
            needs: &[NGINX, GUNICORN],
            run: |run| {
                take_hooks_away(run)?;
                r07_never_read::run(run)
            },
        },
        Scenario {
            row: 26,
            name: "system-calls-connects",
            needs: &[NGINX],
            run: |run| {
                take_hooks_away(run)?;
                r11_connect_errors::run(run)
            },
        },
    ]
}

/// Has an agent watch that is told of a poorer kernel, and makes sure that it believes that.
fn take_hooks_away(run: &mut Run) -> Result<()> {
    let Some(why502) = run.options.why502.clone() else {
        return Ok(());
    };
    let poor = without::wrapper(&run.out, &MISSING, &why502)?;
    let checked = Command::new(&poor).args(["check", "--json"]).output()?;
    let text = String::from_utf8_lossy(&checked.stdout);
    let lines: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let line = |fact: &str| {
        let found = lines.iter().find(|line| line["fact"] == fact);
        found.with_context(|| format!("check is silent on {fact}"))
    };
    for (fact, hook) in SEEN {
        let line = line(fact)?;
        ensure!(line["visible"] == true && line["hook"] == hook, "{line}");
    }
    // Before 5.12 no socket has an identity, by whatever hook it is seen.
    let identity = line("socket_identity")?;
    ensure!(identity["visible"] != run.options.unproven, "{identity}");
    run.options.why502 = Some(poor);
    Ok(())
}

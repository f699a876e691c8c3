//! `capture --pcap`, from packets and beside kernel probes: the file holds every verdict, gives the
//! same causes when it is explained, and none of the clients' secrets.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{file_name, why502};
use crate::agent::Capture;
use crate::netns::NetNs;
use crate::rows::front::plain;
use crate::rows::r19_bad_days::Host;
use crate::run::{Run, START};
use crate::wait;

const CANARY: &str = "s3cr3t-canary";

pub(super) fn run(run: &mut Run) -> Result<()> {
    let host = Host::start(run)?;
    run.add_proxy(host.nginx.pid())?;
    let pid = host.nginx.pid();
    let mut agents = Vec::new();
    for source in ["packets", "kernel"] {
        let file = run.out.join(format!("{source}.pcapng"));
        let mut command = why502(run, "capture", source, &[pid])?;
        command.args(["--for", "600s", "--pcap"]);
        command.arg(&file);
        let mut agent = Capture::launch(command, &run.out.join(source))?;
        agent.wait_ready()?;
        agents.push((agent, file));
    }
    let wanted = run.wanted();
    let paths: Vec<String> = (0..wanted).map(|_| run.path("/known")).collect();
    for path in &paths {
        ask(&host.ns, path)?;
        ask(&host.ns, &run.path("/app"))?;
    }
    for (agent, file) in agents {
        let name = file_name(&file);
        let told = wait::until("the verdicts", START, || agent.lines().len() >= wanted);
        let ended = agent.end(libc::SIGINT)?;
        if told.is_err() || ended.exit != 0 {
            run.problem(format!(
                "{name}: status {}, {:?}",
                ended.exit, ended.messages
            ));
        }
        let lost = &ended.summary()?["lost"]["signals"];
        if *lost != 0 {
            run.problem(format!("{name}: {lost} lost"));
        }
        let written = std::fs::read(&file).with_context(|| format!("read {name}"))?;
        let written = String::from_utf8_lossy(&written);
        if written.contains(CANARY) || written.contains("/app/") {
            run.problem(format!("{name} holds a secret, or a healthy exchange"));
        }
        let verdicts = causes(&ended.lines);
        for line in ended.lines.iter().filter(|line| line["type"] == "verdict") {
            let id = format!("[{}]", line["id"].as_str().unwrap_or("?"));
            let decides = written.matches(&id).count();
            let path = line["request"]["path"].as_str().unwrap_or("?");
            if decides != 1 || !written.contains(&format!("GET {path}?xxxxx")) {
                run.problem(format!("{name}: {id} {decides} times, or no request line"));
            }
        }
        let decided = written.matches("ECONNREFUSED: this decides").count();
        let proven = ended.lines.iter();
        let proven = proven.filter(|line| line["confidence"] == "proven").count();
        let explained = explain(run.why502()?, &file)?;
        let again = causes(&explained);
        if verdicts.len() != wanted || decided != proven || verdicts != again {
            run.problem(format!(
                "{name}: {verdicts:?}, {proven} proven, {decided} decide, explained {again:?}"
            ));
        }
    }
    host.hold(run);
    Ok(())
}

/// A request with secrets wherever a request can have some.
fn ask(ns: &NetNs, path: &str) -> Result<()> {
    ns.enter(|| {
        let mut stream = TcpStream::connect(plain())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // In one packet: a line that is split is not shown.
        let request = format!(
            "GET {path}?token={CANARY} HTTP/1.1\r\nHost: lab.example\r\nCookie: {CANARY}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{CANARY}",
            CANARY.len()
        );
        stream.write_all(request.as_bytes())?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    })
}

/// The cause of each failed request, by path.
fn causes(lines: &[Value]) -> BTreeMap<&str, &str> {
    let verdicts = lines.iter().filter(|line| line["type"] == "verdict");
    verdicts
        .filter_map(|line| Some((line["request"]["path"].as_str()?, line["cause"].as_str()?)))
        .collect()
}

fn explain(why502: &Path, file: &Path) -> Result<Vec<Value>> {
    let output = Command::new(why502)
        .args(["explain", "--json"])
        .arg(file)
        .output()
        .context("run why502 explain")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).context("a line of explain"))
        .collect()
}

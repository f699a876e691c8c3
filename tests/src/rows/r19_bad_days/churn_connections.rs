//! Storms of refused connects and of connections that carry one request each: when they are over, the
//! agent's maps have no more entries than before, and every failure was counted, but for what lost signals that
//! were told account for.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{APP, fail, refused};
use crate::agent::Capture;
use crate::bpf;
use crate::netns::NetNs;
use crate::prometheus::{free_port, get};
use crate::rows::front::{Front, KNOWN_LOCATION, PLAIN_PORT, plain};
use crate::run::{Run, START};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

const CLIENTS: usize = 8;
/// Verdicts come within a quarter of a second: an agent that lost signals and has counted nothing for so long
/// counts no more.
const QUIET: Duration = Duration::from_secs(2);

pub(super) fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let socket = format!("unix:{}", run.folder.join("app.sock").display());
    let tcp = Scripted::start(run, &ns, "tcp", APP, Mode::Answer, 128)?;
    let unix = Scripted::start(run, &ns, "unix", &socket, Mode::Answer, 128)?;
    // Logs of a million requests would fill the disk.
    let http = format!(
        "access_log off;
         server {{ {} error_log /dev/null crit; {KNOWN_LOCATION}
           location /tcp {{ proxy_pass http://{APP}; }}
           location /unix {{ proxy_pass http://{socket}; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    let port = free_port()?;
    let mut command = Command::new(run.why502()?);
    command
        .args(["run", "--no-history", "--json", "--pid"])
        .arg(nginx.pid().to_string())
        .args(["--listen", &format!("127.0.0.1:{port}")]);
    let mut daemon = Capture::launch(command, &run.out.join("daemon"))?;
    daemon.wait_ready()?;

    // What is made once, and stays: entries of the upstreams' processes, say.
    let few = 20 * CLIENTS;
    let mut failed = storm(&ns, few, few)?;
    Counted::whole(port, failed)?;
    let before = bpf::entries(daemon.pid())?;
    let memory = resident_kb(daemon.pid())?;
    let (refusals, short) = run.either((10_000, 1_000), (1_000_000, 100_000));
    failed += storm(&ns, refusals, short)?;
    let counted = Counted::whole(port, failed)?;
    let no_more = |now: &BTreeMap<String, usize>| {
        let mut entries = now.iter();
        entries.all(|(map, count)| before.get(map).is_some_and(|before| count <= before))
    };
    let mut after = bpf::entries(daemon.pid())?;
    let over = wait::until("the end of the connections' entries", START, || {
        after = bpf::entries(daemon.pid()).unwrap_or_default();
        no_more(&after)
    });
    let Counted { failures, lost } = counted;
    // So few are no flood: nothing has to be lost, unless the kernel leaves out runs of probes.
    if lost > 0 && !run.options.full && !run.options.lossy {
        run.problem(format!("{lost} signals lost"));
    }
    run.note(format!(
        "{refusals} refused connects and {short} short connections: {} entries in maps before, {} after; \
         {failures} failures counted of {failed}, {lost} signals lost; {memory} kB resident before, {} after",
        before.values().sum::<usize>(),
        after.values().sum::<usize>(),
        resident_kb(daemon.pid())?
    ));
    if over.is_err() {
        run.problem(format!("the maps had {before:?}, and have {after:?}"));
    }
    let daemon = daemon.end(libc::SIGTERM)?;
    if daemon.exit != 0 {
        run.problem(format!("daemon: exit status {}", daemon.exit));
    }
    run.watch(&[&nginx])?;
    fail(run, &ns, &refused("after"))?;
    run.hold((nginx, tcp, unix, ns));
    Ok(())
}

/// Requests to a port where nobody listens, over connections that stay; then, half to each upstream, one
/// request on each connection. Returns how many failed.
fn storm(ns: &NetNs, refusals: usize, short: usize) -> Result<usize> {
    ns.enter(|| {
        let known = each_client(refusals, |client, count| {
            let mut stream = connect()?;
            for number in 0..count {
                let path = format!("/known/{client}-{number}");
                let status = exchange(&mut stream, &path)?;
                ensure!(status == 502, "{path}: status {status}");
            }
            Ok(())
        });
        known.and(each_client(short, |client, count| {
            for number in 0..count {
                let upstream = ["tcp", "unix"][number % 2];
                let path = format!("/{upstream}/{client}-{number}");
                let status = exchange(&mut connect()?, &path)?;
                ensure!(status == 200, "{path}: status {status}");
            }
            Ok(())
        }))
    })?;
    Ok(refusals)
}

/// So many things to do, shared among the clients.
fn each_client(count: usize, work: impl Fn(usize, usize) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || work(client, count / CLIENTS)))
            .collect();
        let mut clients = clients.into_iter();
        clients.try_for_each(|client| client.join().expect("client"))
    })
}

fn connect() -> Result<TcpStream> {
    let stream = TcpStream::connect(plain()).context("connect to nginx")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(START))?;
    Ok(stream)
}

/// One request; the status of its response, which is read whole.
fn exchange(stream: &mut TcpStream, path: &str) -> Result<u16> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: lab.example\r\n\r\n")?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let size = stream.read(&mut buffer)?;
        if size == 0 {
            bail!("{path}: closed without a response");
        }
        bytes.extend_from_slice(&buffer[..size]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let mut lines = head.lines();
        let length =
            lines.find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = length.with_context(|| format!("no length in {head:?}"))?;
        if body.len() >= length {
            let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
            return status.with_context(|| format!("no status in {head:?}"));
        }
    }
}

/// What the metrics show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    failures: u64,
    /// Signals.
    lost: u64,
}

impl Counted {
    fn now(port: u16) -> Result<Counted> {
        let (_, text) = get(port, "/metrics")?;
        let sum = |name: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name));
            lines
                .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
                .sum()
        };
        Ok(Counted {
            failures: sum("why502_failed_responses_total{"),
            lost: sum("why502_signals_lost_total{"),
        })
    }

    /// All that the agent will count of so many failures.
    fn whole(port: u16, failed: usize) -> Result<Counted> {
        let failed = failed as u64;
        let mut last = Counted::now(port)?;
        let mut since = Instant::now();
        let all = wait::until("every failure in the metrics", START, || {
            if let Ok(now) = Counted::now(port)
                && now != last
            {
                (last, since) = (now, Instant::now());
            }
            last.failures == failed || last.lost > 0 && since.elapsed() > QUIET
        });
        last.accounts_for(failed)?;
        all?;
        Ok(last)
    }

    /// A lost signal takes one failure with it at most: more are not missing, and none where nothing was lost.
    fn accounts_for(self, failed: u64) -> Result<()> {
        let Counted { failures, lost } = self;
        ensure!(
            failures <= failed,
            "{failures} failures counted, {failed} happened"
        );
        ensure!(
            failed - failures <= lost,
            "{failures} failures counted of {failed}, and {lost} signals told as lost"
        );
        Ok(())
    }
}

fn resident_kb(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.context("no VmRSS")?.parse().context("VmRSS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_failures_are_missing_than_signals_were_lost() {
        let accounted = |failures, lost| Counted { failures, lost }.accounts_for(100).is_ok();
        assert!(accounted(100, 0));
        assert!(accounted(100, 7));
        assert!(accounted(93, 7));
        assert!(!accounted(92, 7));
        assert!(!accounted(99, 0));
        // Counted twice is wrong whatever was lost.
        assert!(!accounted(101, 7));
    }
}

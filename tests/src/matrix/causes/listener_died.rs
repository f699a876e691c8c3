//! The upstream's listener goes, with requests on connections that nobody has accepted: its process is
//! killed, or gunicorn, whose only worker is busy, is told to quit.

use std::any::Any;
use std::fs;
use std::time::Duration;

use anyhow::Result;

use super::{By, Cause, Stage, busy};
use crate::client;
use crate::matrix::proxies::Target;
use crate::matrix::upstreams;
use crate::process;
use crate::software::{Gunicorn, Scripted};
use crate::upstream::Mode;
use crate::wait;

const LONG: Duration = Duration::from_secs(20);

pub(super) const CAUSE: Cause = Cause {
    name: "listener_died",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.in_few_crowds();
        // What is tried again finds nobody who listens.
        stage.tries_connects_alone();
        // A check that waits to be accepted cannot be told from a request.
        stage.draw.checks = None;
        let unix = stage.proxy.unix && stage.draw.coin();
        if !unix {
            stage.apart(Duration::ZERO)?;
        }
        let quits = stage.draw.coin() && process::program("gunicorn").is_some();
        stage.server = Some(match quits {
            true => "gunicorn",
            false => upstreams::SCRIPTED,
        });
        let mut done = 0;
        while done < stage.wanted {
            let count = stage.draw.crowd.min(stage.wanted - done);
            let listening = Listening::start(stage, unix, quits, done)?;
            if done == 0 {
                stage.front_for(&listening.at, LONG)?;
            }
            die_with(stage, count, &listening)?;
            done += count;
        }
        Ok(())
    },
};

struct Listening {
    at: Target,
    pid: u32,
    /// What ends it.
    signal: i32,
    _running: Box<dyn Any + Send + Sync>,
}

impl Listening {
    fn start(stage: &Stage, unix: bool, quits: bool, number: usize) -> Result<Listening> {
        let (ns, at) = match unix {
            true => (&*stage.near, stage.unix()),
            false => stage.there(),
        };
        if let Target::Unix(path) = &at
            && path.exists()
        {
            // The one before has left it.
            fs::remove_file(path)?;
        }
        let address = at.to_string();
        if quits {
            let name = format!("gunicorn{number}");
            let patient = ["--timeout", "600"];
            let gunicorn = Gunicorn::start(&stage.run, ns, &name, &address, 1, &patient)?;
            let busy = busy::occupied(stage, &at, &gunicorn.log)?;
            return Ok(Listening {
                at,
                pid: gunicorn.pid(),
                signal: libc::SIGQUIT,
                _running: Box::new((busy, gunicorn)),
            });
        }
        let name = format!("silent{number}");
        let mode = Mode::NeverAccept;
        let silent = Scripted::start(&stage.run, ns, &name, &address, mode, 128)?;
        Ok(Listening {
            at,
            pid: silent.pid(),
            signal: libc::SIGKILL,
            _running: Box::new(silent),
        })
    }

    /// Connections that wait to be accepted, by the kernel's own lists.
    fn waiting(&self) -> usize {
        let list = |name| {
            let file = format!("/proc/{}/net/{name}", self.pid);
            fs::read_to_string(file).unwrap_or_default()
        };
        match &self.at {
            Target::Tcp(address) => queued(&list("tcp"), address.port()),
            Target::Unix(path) => unaccepted(&list("unix"), &path.display().to_string()),
        }
    }
}

/// Of a listener's line, what would be bytes to be read elsewhere.
fn queued(tcp: &str, port: u16) -> usize {
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let local = words.get(1)?.rsplit_once(':')?.1;
        let listens = words.get(3) == Some(&"0A") && u16::from_str_radix(local, 16) == Ok(port);
        let length = words.get(4)?.rsplit_once(':')?.1;
        usize::from_str_radix(length, 16).ok().filter(|_| listens)
    };
    tcp.lines().find_map(of_line).unwrap_or(0)
}

/// Those that have the listener's path and no file of a process's yet.
fn unaccepted(unix: &str, path: &str) -> usize {
    let waits = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(5) == Some(&"02") && words.last() == Some(&path)
    };
    unix.lines().filter(waits).count()
}

/// Sends so many requests, and ends the listener when all of them wait.
fn die_with(stage: &mut Stage, count: usize, listening: &Listening) -> Result<()> {
    let spread = Duration::from_millis(8);
    let requests = (0..count)
        .map(|_| {
            let request = stage.failing("");
            (stage.draw.moment(spread), request)
        })
        .collect();
    let after = stage.draw.moment(Duration::from_millis(100));
    let (to, ledger) = (stage.to(), &stage.run.ledger);
    stage.near.traffic(async || {
        let dying = async {
            wait::until_async("the queue", LONG / 2, || listening.waiting() >= count).await?;
            tokio::time::sleep(after).await;
            process::kill(listening.pid, listening.signal);
            anyhow::Ok(())
        };
        let (_, died) = tokio::join!(client::burst(to, ledger, requests), dying);
        died
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_wait_are_counted_by_their_listener() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
            \x20  0: 0100007F:2328 00000000:0000 0A 00000000:00000003 00:00000000 00000000\n\
            \x20  1: 0100007F:2329 00000000:0000 0A 00000000:00000005 00:00000000 00000000\n\
            \x20  2: 0100007F:2328 0100007F:9C40 01 00000000:00000057 00:00000000 00000000\n";
        assert_eq!(queued(tcp, 9000), 3);
        assert_eq!(queued(tcp, 9001), 5);
        assert_eq!(queued(tcp, 9002), 0);
        let unix = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 5461 /tmp/fault.sock\n\
            0000000000000000: 00000002 00000000 00000000 0001 02 0 /tmp/fault.sock\n\
            0000000000000000: 00000002 00000000 00000000 0001 02 0 /tmp/fault.sock\n\
            0000000000000000: 00000002 00000000 00000000 0001 02 0 /tmp/other.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 5470 /tmp/fault.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 5471\n";
        assert_eq!(unaccepted(unix, "/tmp/fault.sock"), 2);
    }
}

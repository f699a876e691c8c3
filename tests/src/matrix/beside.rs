//! What goes on beside a fault on the same proxy: clients that are well, of which some give up or are
//! all for one path; checks of a balancer in front, which end in resets; a second fault.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::draw::Draw;
use super::proxies::Again;
use super::stage::WELL;
use crate::client::{self, Request};
use crate::expect::Expect;
use crate::ledger::Ledger;
use crate::netns::NetNs;

/// Where the second fault's own server would be, if it has one.
pub(super) const FOLDER: &str = "/beside";
/// How the truth of its requests is told from the pair's own.
pub(super) const CELL: &str = "beside";
/// A proxy that waits longer is not waited for.
const SOON: Duration = Duration::from_secs(3);
const ANY: &[u16] = &[500, 502, 503, 504];

/// A second fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Second {
    pub(super) cause: &'static str,
    folder: &'static str,
    query: &'static str,
    pub(super) server: Server,
}

/// What is at the address of the second fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Nobody,
    NeverAccepts,
    /// Nobody, and a server that answers what is tried again.
    NobodyAndOther,
}

const ALL: &[Second] = &[
    of_server("connection_refused", Server::Nobody),
    of_server("read_timeout_never_accepted", Server::NeverAccepts),
    of_server("connection_refused", Server::NobodyAndOther),
    of_request("upstream_closed_early", "do=close"),
    of_request("upstream_reset", "do=reset"),
    of_request("read_timeout_no_reply", "do=hold"),
    of_request("upstream_answered", "status=503"),
];

const fn of_server(cause: &'static str, server: Server) -> Second {
    Second {
        cause,
        folder: FOLDER,
        query: "",
        server,
    }
}

/// Of the server that answers everything else well.
const fn of_request(cause: &'static str, query: &'static str) -> Second {
    Second {
        cause,
        folder: WELL,
        query,
        server: Server::Nobody,
    }
}

impl Second {
    /// One that the pair's own is not, that a proxy that tries so much again can have, and that is over
    /// soon where it waits for long.
    pub(super) fn draw(draw: &mut Draw, cause: &str, again: Again, patience: Duration) -> Second {
        let fits = |second: &&Second| {
            let spared = second.server == Server::NobodyAndOther && again == Again::Never;
            let endless = second.cause.starts_with("read_timeout") && patience > SOON;
            second.cause != cause && !spared && !endless
        };
        let fit: Vec<&Second> = ALL.iter().filter(fits).collect();
        *draw.one_of(&fit)
    }
}

pub(super) struct Beside {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Beside {
    /// Until it is told to end. The second fault fails about `wanted` requests at most.
    pub(super) fn start(
        ns: Arc<NetNs>,
        to: SocketAddr,
        ledger: Arc<Ledger>,
        draw: Draw,
        second: Second,
        wanted: usize,
    ) -> Beside {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut traffic = Traffic {
            to,
            ledger,
            draw,
            second,
            wanted,
        };
        let thread = std::thread::spawn(move || ns.traffic(async || traffic.run(&stopped).await));
        Beside {
            stop,
            thread: Some(thread),
        }
    }

    /// Waits until all of its requests are over.
    pub(super) fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended")?;
        let ended = thread.join();
        ended.map_err(|_| anyhow!("what goes on beside the fault panicked"))?
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Traffic {
    to: SocketAddr,
    ledger: Arc<Ledger>,
    draw: Draw,
    second: Second,
    wanted: usize,
}

impl Traffic {
    async fn run(&mut self, stop: &AtomicBool) -> Result<()> {
        let mut under_way = JoinSet::new();
        let mut seconds = 0;
        while !stop.load(Ordering::Relaxed) {
            let gap = self.draw.moment(Duration::from_millis(40));
            tokio::time::sleep(gap).await;
            let requests = match self.draw.percent(25) {
                true if seconds < self.wanted => {
                    let crowd = self.draw.crowd.min(3);
                    seconds += crowd;
                    self.failing(crowd)
                }
                _ if self.draw.percent(20) => {
                    let to = self.to;
                    let asks = self.draw.coin();
                    under_way.spawn_local(async move { check(to, asks).await });
                    continue;
                }
                _ if self.draw.percent(20) => {
                    let path = self.ledger.path(WELL);
                    (0..4).map(|_| self.healthy(path.clone())).collect()
                }
                _ => vec![self.healthy(self.ledger.path(WELL))],
            };
            for request in requests {
                let (to, ledger) = (self.to, Arc::clone(&self.ledger));
                under_way.spawn_local(async move {
                    client::once(to, &ledger, request).await;
                });
            }
        }
        under_way.join_all().await;
        Ok(())
    }

    /// Of all these, three in ten give up.
    fn healthy(&mut self, path: String) -> Request {
        let took = self.draw.between(0, 30);
        let request = Request::get(path).query(&format!("ms={}", took.as_millis()));
        match self.draw.percent(30) {
            true => Request {
                resets: self.draw.coin(),
                ..request.giving_up_after(self.draw.moment(took))
            },
            false => request,
        }
    }

    /// Requests that meet the second fault; for one path, and beside one that is well, where that is
    /// drawn.
    fn failing(&mut self, crowd: usize) -> Vec<Request> {
        let Second {
            cause,
            folder,
            query,
            ..
        } = self.second;
        let alike = self.draw.alike.then(|| self.ledger.path(folder));
        let own = |path: &Option<String>| path.clone().unwrap_or_else(|| self.ledger.path(folder));
        let mut requests: Vec<Request> = (0..crowd)
            .map(|_| Request::get(own(&alike)).query(query))
            .collect();
        let truth = Expect::verdict(CELL, ANY, cause);
        for request in &requests {
            self.ledger.expect(&request.target(), truth.clone());
        }
        if let (Some(path), WELL) = (alike, folder) {
            requests.push(self.healthy(path));
        }
        requests
    }
}

/// Connects, asks or not, and resets.
async fn check(to: SocketAddr, asks: bool) {
    use tokio::io::AsyncWriteExt;
    // A proxy that is just then too busy for it has not passed: nobody is told.
    let Ok(mut stream) = TcpStream::connect(to).await else {
        return;
    };
    let _ = stream.set_zero_linger();
    if asks {
        let head = b"GET /well/healthz?ms=20 HTTP/1.1\r\nHost: lab\r\n\r\n";
        let _ = stream.write_all(head).await;
    }
}

//! The client: HTTP/1.1 over connections that scenarios open, keep and drop as they need, every
//! request written into the ledger.

pub mod curl;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::ledger::{Ledger, Sent};
use crate::wait::monotonic_ns;

/// Longer than any proxy timer in the lab: a client that waits this long has lost its response.
const PATIENCE: Duration = Duration::from_secs(90);

/// A request to make.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    /// Unique, without query.
    pub path: String,
    pub query: String,
    /// Bytes of body.
    pub body: usize,
    /// Sends its body when it is asked to, by `100 Continue`.
    pub expects: bool,
    /// The client closes its connection after this time.
    pub gives_up: Option<Duration>,
    /// By a reset.
    pub resets: bool,
}

impl Request {
    pub fn get(path: String) -> Request {
        Request {
            method: "GET",
            path,
            query: String::new(),
            body: 0,
            expects: false,
            gives_up: None,
            resets: false,
        }
    }

    pub fn post(path: String) -> Request {
        Request {
            method: "POST",
            body: 16,
            ..Request::get(path)
        }
    }

    pub fn expecting_continue(mut self) -> Request {
        self.expects = true;
        self
    }

    pub fn query(mut self, query: &str) -> Request {
        self.query = query.to_owned();
        self
    }

    pub fn giving_up_after(mut self, time: Duration) -> Request {
        self.gives_up = Some(time);
        self
    }

    pub fn target(&self) -> String {
        if self.query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, self.query)
        }
    }
}

/// What requests are written to and responses read from.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A kept-alive connection to a proxy.
pub struct Conn {
    to: SocketAddr,
    from: Option<SocketAddr>,
    /// Requests answered on it.
    served: u32,
    stream: Box<dyn Stream>,
    ledger: Arc<Ledger>,
    read: Vec<u8>,
}

impl Conn {
    pub async fn open(to: SocketAddr, ledger: &Arc<Ledger>) -> Result<Conn> {
        Conn::open_for(to, ledger, false).await
    }

    /// The same; where it `resets`, its close is one.
    async fn open_for(to: SocketAddr, ledger: &Arc<Ledger>, resets: bool) -> Result<Conn> {
        let stream = TcpStream::connect(to)
            .await
            .with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        if resets {
            stream.set_zero_linger()?;
        }
        let from = stream.local_addr().ok();
        let conn = Conn::over(to, Box::new(stream), ledger);
        Ok(Conn { from, ..conn })
    }

    fn over(to: SocketAddr, stream: Box<dyn Stream>, ledger: &Arc<Ledger>) -> Conn {
        Conn {
            to,
            from: None,
            served: 0,
            stream,
            ledger: ledger.clone(),
            read: Vec::new(),
        }
    }

    /// Sends a request and waits for its response; the connection is unusable when there is none.
    pub async fn send(&mut self, request: &Request) -> Sent {
        let began = monotonic_ns();
        let outcome = self.attempt(request).await;
        self.record(request, began, outcome)
    }

    /// The same as browsers and proxies do it: a kept-alive connection that the other side closed
    /// before any response is replaced, and the request sent again.
    pub async fn send_or_replace(&mut self, request: &Request) -> Result<Sent> {
        let began = monotonic_ns();
        let mut outcome = self.attempt(request).await;
        let stale = outcome.is_err() && self.served > 0 && self.read.is_empty();
        if stale && request.gives_up.is_none() {
            *self = Conn::open(self.to, &self.ledger).await?;
            outcome = self.attempt(request).await;
        }
        let broken = outcome.is_err();
        let sent = self.record(request, began, outcome);
        if broken {
            *self = Conn::open(self.to, &self.ledger).await?;
        }
        Ok(sent)
    }

    async fn attempt(&mut self, request: &Request) -> Result<u16> {
        let limit = request.gives_up.unwrap_or(PATIENCE);
        let outcome = match timeout(limit, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("gave up after {limit:?}")),
        };
        self.served += u32::from(outcome.is_ok());
        outcome
    }

    fn record(&self, request: &Request, began: u64, outcome: Result<u16>) -> Sent {
        let sent = Sent {
            method: request.method,
            path: request.path.clone(),
            query: request.query.clone(),
            client: self.from,
            status: outcome.as_ref().ok().copied(),
            error: outcome.err().map(|error| format!("{error:#}")),
            began,
            ended: monotonic_ns(),
        };
        self.ledger.record(sent.clone());
        sent
    }

    async fn exchange(&mut self, request: &Request) -> Result<u16> {
        let mut bytes = format!(
            "{} {} HTTP/1.1\r\nHost: lab.example\r\n",
            request.method,
            request.target()
        );
        if request.body > 0 {
            bytes += &format!("Content-Length: {}\r\n", request.body);
        }
        if request.expects {
            bytes += "Expect: 100-continue\r\n";
        }
        bytes += "\r\n";
        let mut bytes = bytes.into_bytes();
        if request.expects {
            self.stream.write_all(&bytes).await?;
            bytes.clear();
            match self.response().await? {
                100 => {}
                status => return Ok(status),
            }
        }
        bytes.resize(bytes.len() + request.body, b'x');
        match self.stream.write_all(&bytes).await {
            // Who answers before it has all of the request, and closes, may have been understood.
            Err(error) => self.response().await.map_err(|_| error.into()),
            Ok(()) => self.response().await,
        }
    }

    async fn response(&mut self) -> Result<u16> {
        let end = loop {
            if let Some(at) = find(&self.read, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await? {
                bail!("closed without a response");
            }
        };
        let head = String::from_utf8_lossy(&self.read[..end]).to_ascii_lowercase();
        self.read.drain(..end);
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("no status in {head:?}"))?;
        if status == 100 {
            return Ok(status);
        }
        let field = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        if let Some(length) = field("content-length") {
            let length: usize = length.parse()?;
            while self.read.len() < length {
                if !self.more().await? {
                    bail!("body cut short");
                }
            }
            self.read.drain(..length);
        } else if field("transfer-encoding").is_some() {
            let end = loop {
                if let Some(at) = find(&self.read, b"0\r\n\r\n") {
                    break at + 5;
                }
                if !self.more().await? {
                    bail!("body cut short");
                }
            };
            self.read.drain(..end);
        } else {
            while self.more().await? {}
            self.read.clear();
        }
        Ok(status)
    }

    async fn more(&mut self) -> Result<bool> {
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// One request on a connection of its own.
pub async fn once(to: SocketAddr, ledger: &Arc<Ledger>, request: Request) -> Sent {
    match Conn::open_for(to, ledger, request.resets).await {
        Ok(mut conn) => conn.send(&request).await,
        Err(error) => {
            let now = monotonic_ns();
            let sent = Sent {
                method: request.method,
                path: request.path,
                query: request.query,
                error: Some(format!("{error:#}")),
                began: now,
                ended: now,
                ..Sent::default()
            };
            ledger.record(sent.clone());
            sent
        }
    }
}

/// A request and when to send it, counted from the start of the burst.
pub type Timed = (Duration, Request);

/// Sends each request at its time on a connection of its own; returns them in the order of ending.
pub async fn burst(to: SocketAddr, ledger: &Arc<Ledger>, requests: Vec<Timed>) -> Vec<Sent> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (at, request) in requests {
        let ledger = ledger.clone();
        tasks.spawn_local(async move {
            sleep_until(start + at).await;
            once(to, &ledger, request).await
        });
    }
    tasks.join_all().await
}

/// Opens `count` connections, none of which has carried a request.
pub async fn open(to: SocketAddr, ledger: &Arc<Ledger>, count: usize) -> Result<Vec<Conn>> {
    let mut conns = Vec::with_capacity(count);
    for _ in 0..count {
        conns.push(Conn::open(to, ledger).await?);
    }
    Ok(conns)
}

/// Sends one request on each connection, all at once, and gives the connections back.
pub async fn each(conns: Vec<Conn>, requests: Vec<Request>) -> (Vec<Conn>, Vec<Sent>) {
    let mut tasks = JoinSet::new();
    for (mut conn, request) in conns.into_iter().zip(requests) {
        tasks.spawn_local(async move {
            let sent = conn.send(&request).await;
            (conn, sent)
        });
    }
    tasks.join_all().await.into_iter().unzip()
}

/// Sends `per_second` requests a second over `conns` kept-alive connections until `stop` says so;
/// a connection that broke is opened again.
pub async fn steady(
    to: SocketAddr,
    ledger: Arc<Ledger>,
    conns: usize,
    per_second: f64,
    make: impl Fn() -> Request + Clone + 'static,
    stop: impl Fn() -> bool + Clone + 'static,
) -> Result<()> {
    let gap = Duration::from_secs_f64(conns as f64 / per_second);
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for number in 0..conns {
        let (ledger, make, stop) = (ledger.clone(), make.clone(), stop.clone());
        tasks.spawn_local(async move {
            let mut conn = Conn::open(to, &ledger).await?;
            let mut next = Instant::now() + gap.mul_f64(number as f64 / conns as f64);
            while !stop() {
                sleep_until(next).await;
                next = (next + gap).max(Instant::now());
                conn.send_or_replace(&make()).await?;
            }
            Ok(())
        });
    }
    tasks.join_all().await.into_iter().collect()
}

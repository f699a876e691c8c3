//! Many failed responses at a steady rate, and whether each of them got its label.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::agent::Agent;
use crate::exposition;
use crate::http::{self, Connection};
use crate::process::until;

const CLIENTS: u32 = 4;

/// What came of a flood.
pub(crate) struct Flood {
    /// Failed responses that the client got.
    pub(crate) failed: f64,
    pub(crate) seconds: f64,
    /// Those that the agent counts with the right cause.
    pub(crate) labelled: f64,
    /// The 99th percentile from response to verdict is at most this.
    pub(crate) delay_p99: Option<f64>,
}

/// Sends `rate` requests a second for `time`, over kept-alive connections, all of which fail, and
/// waits for the agent to count them as `cause`.
pub(crate) fn flood(
    agent: &Agent,
    to: SocketAddr,
    path: &'static str,
    cause: &str,
    rate: u32,
    time: Duration,
) -> Result<Flood> {
    let before = agent.metrics();
    let labelled = |text: &str| {
        exposition::sum(text, "why502_failed_responses_total", &[("cause", cause)])
            - exposition::sum(
                &before,
                "why502_failed_responses_total",
                &[("cause", cause)],
            )
    };
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| thread::spawn(move || client(to, path, rate / CLIENTS, time)))
        .collect();
    let failed: u32 = clients
        .into_iter()
        .filter_map(|client| client.join().ok())
        .sum();
    let seconds = start.elapsed().as_secs_f64();
    let failed = f64::from(failed);
    // Too few in the end is a result, not an error of the measurement.
    let _ = until("the verdicts", Duration::from_secs(5), || {
        labelled(&agent.metrics()) >= failed
    });
    let after = agent.metrics();
    let delays = exposition::increase(
        &exposition::buckets(&before, "why502_verdict_delay_seconds"),
        &exposition::buckets(&after, "why502_verdict_delay_seconds"),
    );
    Ok(Flood {
        failed,
        seconds,
        labelled: labelled(&after),
        delay_p99: exposition::at_most(&delays, 0.99),
    })
}

/// How many failed responses one client got.
fn client(to: SocketAddr, path: &str, rate: u32, time: Duration) -> u32 {
    let Ok(mut connection) = Connection::open(to) else {
        return 0;
    };
    let start = Instant::now();
    let wanted = rate * u32::try_from(time.as_secs()).unwrap_or(1);
    let mut failed = 0;
    for number in 0..wanted {
        let due = start + time * number / wanted;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if connection.send("GET", path).is_err() {
            break;
        }
        if connection.receive().failed() {
            failed += 1;
        }
    }
    failed
}

/// An upstream that reads each request and closes without an answer: its verdicts wait for the
/// end of a process that does not come.
pub(crate) fn closing_upstream() -> Result<SocketAddr> {
    let listener = TcpListener::bind(http::free_address()?)?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
        }
    });
    Ok(address)
}

//! nginx's pool of kept-alive upstream connections: filled, watched until the upstream closes it,
//! struck at that moment, and the truth about each strike from the packets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::front::{Front, plain};
use crate::client::{self, Request, Timed};
use crate::expect::{Check, Expect};
use crate::ledger::Sent;
use crate::netns::NetNs;
use crate::pcap::Seen;
use crate::process;
use crate::relay::Relay;
use crate::run::Run;
use crate::software::AppLog;
use crate::wait::{self, monotonic_ns};

/// One way; the round trip is twice that.
pub(super) const DELAY: Duration = Duration::from_millis(10);

/// The proxy's namespace and the upstream's, 20 ms apart.
pub(super) struct Wire {
    pub near: NetNs,
    pub far: NetNs,
    pub relay: Relay,
}

impl Wire {
    pub(super) fn new() -> Result<Wire> {
        let (near, far) = (NetNs::new()?, NetNs::new()?);
        let relay = Relay::join(&near, &far, DELAY)?;
        Ok(Wire { near, far, relay })
    }
}

/// States as `/proc/net/tcp` writes them.
const ESTABLISHED: &str = "01";
const CLOSE_WAIT: &str = "08";

/// Connections of the namespace to this remote port, in one state.
fn connections(ns: &NetNs, port: u16, state: &str) -> Result<usize> {
    let table = ns.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/tcp")?))?;
    let suffix = format!(":{port:04X}");
    let count = table.lines().filter(|line| {
        let mut words = line.split_whitespace().skip(2);
        words.next().is_some_and(|remote| remote.ends_with(&suffix)) && words.next() == Some(state)
    });
    Ok(count.count())
}

/// Waits until the number of such connections is as wanted.
fn wait_connections(
    ns: &NetNs,
    port: u16,
    state: &str,
    wanted: impl Fn(usize) -> bool,
) -> Result<()> {
    let mut failure = None;
    let what = format!("connections to port {port} in state {state}");
    wait::until(&what, Duration::from_secs(10), || {
        match connections(ns, port, state) {
            Ok(count) => wanted(count),
            Err(error) => {
                failure = Some(error);
                true
            }
        }
    })?;
    failure.map_or(Ok(()), Err)
}

/// Waits until no connection is left that a request could be sent on.
pub(super) fn wait_empty(ns: &NetNs, port: u16) -> Result<()> {
    wait_connections(ns, port, ESTABLISHED, |left| left == 0)
}

/// Makes nginx open `count` upstream connections at once and pool them: each request is held long
/// enough (`query`) for all to be under way together. Returns when the answers came.
pub(super) fn fill(
    run: &Run,
    ns: &NetNs,
    folder: &str,
    count: usize,
    query: &str,
) -> Result<Instant> {
    let requests = (0..count)
        .map(|_| (Duration::ZERO, Request::get(run.path(folder)).query(query)))
        .collect();
    let sent = Front::Plain.burst(run, ns, requests)?;
    if let Some(sent) = sent.iter().find(|sent| sent.status != Some(200)) {
        bail!("filling the pool failed: {sent:?}");
    }
    // The middle one: a busy machine delivers the last ones late.
    let mut ends: Vec<u64> = sent.iter().map(|sent| sent.ended).collect();
    ends.sort_unstable();
    let since = monotonic_ns().saturating_sub(ends[ends.len() / 2]);
    Ok(Instant::now() - Duration::from_nanos(since))
}

/// How long after the answers the upstream's FINs reach the proxy.
pub(super) fn measure_idle_close(
    run: &Run,
    ns: &NetNs,
    port: u16,
    folder: &str,
    count: usize,
    query: &str,
) -> Result<Duration> {
    let filled = fill(run, ns, folder, count, query)?;
    // Half of them: a table read while it changes may miss a line.
    wait_connections(ns, port, ESTABLISHED, |left| left <= count / 2)?;
    Ok(filled.elapsed())
}

/// Fills the pool and sends `count` requests around the moment at which FINs are on their way.
pub(super) struct Strike<'a> {
    pub front: Front,
    pub ns: &'a NetNs,
    pub folder: &'a str,
    /// From `measure_idle_close`.
    pub idle_close: Duration,
    /// From the front.
    pub lead: Duration,
    /// Rounds in a row that met nothing.
    pub missed: u32,
}

impl Strike<'_> {
    pub(super) fn round(
        &self,
        run: &Run,
        count: usize,
        make: impl Fn(String) -> Request,
    ) -> Result<Vec<Sent>> {
        let filled = fill(run, self.ns, self.folder, count, "ms=60")?;
        // A FIN is on the wire for DELAY before it arrives, and the request meets it anywhere in
        // the round trip; half are aimed at it, the rest a little early and late.
        let first = self.idle_close - DELAY * 3 - self.lead;
        // What was measured may not hold for a crowd: after a miss the aim is earlier, then later.
        let aside = DELAY * 2 * self.missed.div_ceil(2);
        let first = match self.missed % 2 {
            1 => first.saturating_sub(aside),
            _ => first + aside,
        };
        let bundle = self.front.bundle();
        let elapsed = filled.elapsed();
        let requests: Vec<Timed> = (0..count)
            .map(|number| {
                let spread = DELAY * 4 * (number / bundle * bundle) as u32 / count as u32;
                let at = (first + spread).saturating_sub(elapsed);
                (at, make(run.path(self.folder)))
            })
            .collect();
        self.front.burst(run, self.ns, requests)
    }
}

impl Strike<'_> {
    /// Rounds of POSTs until enough have failed that the upstream's log says it has never read: what else it
    /// does is to close idle connections, so each is as `expect` says. `before` comes before each round.
    /// Returns how many.
    pub(super) fn until_unread(
        &mut self,
        run: &mut Run,
        count: usize,
        log: &AppLog,
        expect: &Expect,
        before: impl Fn() -> Result<()>,
    ) -> Result<usize> {
        let mut met = 0;
        for _ in 0..run.either(12, 24) {
            before()?;
            let sent = self.round(run, count, Request::post)?;
            let reads = log.reads();
            let mut hits = 0;
            for sent in sent.iter().filter(|sent| sent.failed()) {
                if reads.contains_key(&sent.path) {
                    run.problem(format!("{} failed and was read", sent.path));
                }
                run.ledger.expect(&sent.path, expect.clone());
                hits += 1;
            }
            match hits {
                0 if met == 0 => self.missed += 1,
                hits => met += hits,
            }
            if met >= run.wanted() {
                break;
            }
        }
        run.at_least(expect.cell, run.wanted());
        Ok(met)
    }
}

/// A request met the close of the idle connection that it was sent on, in whichever way.
pub(super) fn raced(cell: &'static str) -> Expect {
    Expect::verdict(cell, &[502], "keepalive_race")
        .variant("fin_in_flight")
        .or("keepalive_race", Some("fin_already_received"))
        .or("keepalive_race", Some("closed_unread"))
}

/// A pool of `count` connections to what answers in `folder`, filled with this query.
#[derive(Clone, Copy)]
pub(super) struct Pool<'a> {
    pub folder: &'a str,
    pub query: &'a str,
    pub count: usize,
}

/// Fills the pool, stops the worker, lets requests arrive and then the upstream close (`close`
/// makes it, or waits for it), and lets the worker go on: it meets its requests first.
pub(super) fn strike_stopped(
    run: &Run,
    front: Front,
    ns: &NetNs,
    worker: u32,
    pool: Pool<'_>,
    close: impl FnOnce() -> Result<()> + Send,
) -> Result<Struck> {
    let Pool {
        folder,
        query,
        count,
    } = pool;
    let filling = (0..count)
        .map(|_| (Duration::ZERO, Request::get(run.path(folder)).query(query)))
        .collect();
    let requests: Vec<Request> = (0..count)
        .map(|_| Request::post(run.path(folder)))
        .collect();
    ns.traffic(async || {
        let conns = front.open(run, count).await?;
        let filled = client::burst(plain(), &run.ledger, filling).await;
        if let Some(sent) = filled.iter().find(|sent| sent.status != Some(200)) {
            bail!("filling the pool failed: {sent:?}");
        }
        process::kill(worker, libc::SIGSTOP);
        let stopped = Continued(worker);
        wait::until_async("the stop of the worker", Duration::from_secs(5), || {
            process::state(worker) == Some('T')
        })
        .await?;
        let sending = tokio::task::spawn_local(client::each(conns, requests));
        // Once the task is polled its bytes are in the sockets: nobody else is on this thread.
        tokio::task::yield_now().await;
        tokio::task::spawn_blocking(|| ()).await?;
        close()?;
        let resumed = monotonic_ns();
        drop(stopped);
        let sent = sending.await?.1;
        Ok(Struck { sent, resumed })
    })
}

/// What came of requests that met a worker which had been stopped.
pub(super) struct Struck {
    pub sent: Vec<Sent>,
    /// When the worker went on, on the monotonic clock.
    pub resumed: u64,
}

/// A stopped process goes on, whatever happens.
struct Continued(u32);

impl Drop for Continued {
    fn drop(&mut self) {
        process::kill(self.0, libc::SIGCONT);
    }
}

/// Waits until the upstream's FINs for all pooled connections are at the proxy.
pub(super) fn wait_close_wait(ns: &NetNs, port: u16, count: usize) -> Result<()> {
    wait_connections(ns, port, CLOSE_WAIT, |arrived| arrived >= count)
}

/// States the truth of every request from the packets. `unread` is the log of an upstream that
/// must have read none of those that failed. Returns how many requests raced.
pub(super) fn state_truth(
    run: &Run,
    seen: &[Seen],
    unread: Option<&AppLog>,
    adapt: impl Fn(Expect) -> Expect,
) -> Result<usize> {
    let reads = unread.map(AppLog::reads).unwrap_or_default();
    let mut by_path: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for seen in seen {
        by_path.entry(&seen.path).or_default().push(seen);
    }
    let mut count = 0;
    for sent in run.ledger.sent() {
        let Some(attempts) = by_path.get(sent.path.as_str()) else {
            continue;
        };
        let raced: Vec<&&Seen> = attempts.iter().filter(|seen| seen.raced()).collect();
        let Some(last) = raced.last() else {
            continue;
        };
        count += 1;
        let (cell, near_cell, variant) = names(&last.judgement);
        let expect = if sent.failed() {
            ensure!(
                !reads.contains_key(&sent.path),
                "{}: the packets show {}, but the application has read it",
                sent.path,
                last.judgement
            );
            let idle = last.idle.unwrap_or(0.0) * 1e6;
            let near = Check::Near("/attempts/last/idle_us", idle, 0.05);
            let expect = Expect::verdict(cell, &[502], "keepalive_race").with(near);
            if variant.starts_with("fin_") {
                // Both kernels are this one: it knows why it sent the reset.
                let told = "reset sent to what came after".to_owned();
                expect.with(Check::SaysAnywhere(told))
            } else {
                expect
            }
        } else {
            Expect::near_miss(near_cell, &[200], "keepalive_race").up_to(raced.len())
        };
        run.ledger
            .expect(&sent.path, adapt(expect.variant(variant)));
    }
    Ok(count)
}

/// Cell of the failures, cell of the near misses, variant, for a judgement of the script.
fn names(judgement: &str) -> (&'static str, &'static str, &'static str) {
    match judgement {
        "fin_in_flight" => ("fin_in_flight", "fin_in_flight_retried", "fin_in_flight"),
        "fin_already_received" => (
            "fin_already_received",
            "fin_already_received_retried",
            "fin_already_received",
        ),
        "half_close" => ("half_close", "half_close_retried", "half_close"),
        _ => ("closed_unread", "closed_unread_retried", "closed_unread"),
    }
}

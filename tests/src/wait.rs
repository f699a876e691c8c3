//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(2);

/// Blocks until `ready` holds.
pub fn until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + limit;
    while !ready() {
        if Instant::now() > end {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// The same inside traffic, without holding up other requests.
pub async fn until_async(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> bool,
) -> Result<()> {
    let end = Instant::now() + limit;
    while !ready() {
        if Instant::now() > end {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// `CLOCK_MONOTONIC`, the clock that Python's `monotonic_ns` and Node's `hrtime` read too.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// A monotonic time on the clock of packet captures.
pub fn epoch_seconds(monotonic: u64) -> f64 {
    let ahead = clock_ns(libc::CLOCK_REALTIME) - monotonic_ns();
    (monotonic + ahead) as f64 / 1e9
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(clock, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

//! For the daemon: a source is started again and again until it works. Meanwhile `/readyz` says why
//! there is none; the process stays, for whoever restarts it would find the same host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cli::{detail, warning};
use crate::sinks::metrics::Metrics;

/// How often the wish to end is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Pauses between tries, each twice the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    first: Duration,
    longest: Duration,
}

impl Pauses {
    /// Seconds at first, for what comes up with the host; a try costs a tenth of a second of CPU.
    pub(super) const USUAL: Pauses = Pauses {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(60),
    };
}

/// What `start` gives as soon as it gives something; `None` when the end was asked for before.
pub(super) fn start<T>(
    mut start: impl FnMut() -> Result<T>,
    pauses: Pauses,
    metrics: &Metrics,
    stop: &AtomicBool,
) -> Option<T> {
    let mut pause = pauses.first;
    let mut told = false;
    while !stop.load(Ordering::Relaxed) {
        let why = match start() {
            Ok(started) => {
                metrics.waits_for_source(None);
                return Some(started);
            }
            Err(error) => format!("{error:#}"),
        };
        match std::mem::replace(&mut told, true) {
            false => warning!("nothing is watched yet, it will be tried again: {why}"),
            true => detail!("still nothing is watched: {why}"),
        }
        metrics.waits_for_source(Some(why));
        wait(pause, stop);
        pause = (2 * pause).min(pauses.longest);
    }
    None
}

/// After a source that had worked has ended: one that ends at once is not started all the time.
pub(super) fn rest(stop: &AtomicBool) {
    wait(Pauses::USUAL.first, stop);
}

fn wait(pause: Duration, stop: &AtomicBool) {
    let over = Instant::now() + pause;
    while Instant::now() < over && !stop.load(Ordering::Relaxed) {
        thread::sleep(LOOK.min(pause));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    const SOON: Pauses = Pauses {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(2),
    };

    #[test]
    fn it_is_tried_until_it_works_and_not_ready_meanwhile() {
        let metrics = Metrics::new();
        let mut tries = 0;
        let try_it = || {
            tries += 1;
            match tries {
                1 => assert_eq!(metrics.ready(), Err("no source delivers".to_owned())),
                n => assert_eq!(metrics.ready(), Err(format!("no kernel, try {}", n - 1))),
            }
            match tries {
                5 => Ok("started"),
                n => bail!("no kernel, try {n}"),
            }
        };
        let stop = AtomicBool::new(false);
        assert_eq!(start(try_it, SOON, &metrics, &stop), Some("started"));
        // It delivers when it says so itself.
        assert_eq!(metrics.ready(), Err("no source delivers".to_owned()));
        metrics.source_up("kernel", true);
        assert_eq!(metrics.ready(), Ok(()));
    }

    #[test]
    fn the_wish_to_end_is_heard_between_tries() {
        let (metrics, stop) = (Metrics::new(), AtomicBool::new(false));
        let try_it = || -> Result<()> {
            stop.store(true, Ordering::Relaxed);
            bail!("no")
        };
        assert_eq!(start(try_it, Pauses::USUAL, &metrics, &stop), None);
    }
}

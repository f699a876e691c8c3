//! How many handshakes a listener has under way, where it dropped a connect's SYNs with room in its queue.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::signal::{Address, Attempt, End};
use crate::sources::process;

/// A table of all sockets is read no more often than this for one listener, and for no more listeners.
const FRESH: Duration = Duration::from_secs(1);
const LISTENERS: usize = 8;

/// By the listener's identity: when, and how many.
#[derive(Debug, Default)]
pub(super) struct HalfOpen(HashMap<u64, (Instant, Option<u32>)>);

/// Whether it says why this attempt got no answer.
pub(super) fn matters(attempt: &Attempt) -> bool {
    let unanswered = matches!(
        attempt.end,
        End::ConnectGivenUp | End::ConnectFailed { errno: 110 }
    );
    let queue = attempt.queue.as_ref();
    unanswered && queue.is_some_and(|q| q.drops > 0 && !q.shared && q.length <= q.limit)
}

impl HalfOpen {
    pub(super) fn count(&mut self, cookie: u64, pid: u32, listener: &Address) -> Option<u32> {
        let now = Instant::now();
        self.0.retain(|_, (at, _)| now < *at + FRESH);
        if let Some((_, count)) = self.0.get(&cookie) {
            return *count;
        }
        if self.0.len() >= LISTENERS {
            return None;
        }
        let listener = listener.0.parse().ok();
        let count = listener.and_then(|listener| process::half_open(pid, listener));
        self.0.insert(cookie, (now, count));
        count
    }
}

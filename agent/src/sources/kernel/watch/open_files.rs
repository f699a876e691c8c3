//! What a proxy has open that failed a request without an attempt: it may have had no descriptor for one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::signal::{Descriptors, Response};
use crate::sources::process;

/// Thousands of descriptors take a while to be counted: of one process, and of so many, no more often.
const FRESH: Duration = Duration::from_millis(50);
const PROCESSES: usize = 16;

/// By process: when, and what.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(HashMap<u32, (Instant, Option<Descriptors>)>);

impl OpenFiles {
    pub(super) fn of(&mut self, response: &Response) -> Option<Descriptors> {
        if !failed_without_attempt(response) {
            return None;
        }
        let now = Instant::now();
        self.0.retain(|_, (at, _)| now < *at + FRESH);
        if let Some((_, found)) = self.0.get(&response.proxy) {
            return *found;
        }
        if self.0.len() >= PROCESSES {
            return None;
        }
        let found = process::descriptors(response.proxy);
        self.0.insert(response.proxy, (now, found));
        found
    }
}

pub(super) fn failed_without_attempt(response: &Response) -> bool {
    let failed = response.status.is_some_and(|status| status >= 500);
    failed && response.last_attempt.is_none() && response.adjacent.is_none()
}

//! What lines of Apache's error log say of the threads that wrote them, whatever request they name: bounded
//! memory. Pure.

use std::collections::VecDeque;

use crate::signal::{LogLine, Logged, Nanos, Response, Said, Software};

const KEPT: usize = 1024;
/// A thread answers as soon as it has written its line; two clocks of one host differ by less.
const SLACK: Nanos = 100_000_000;

#[derive(Debug, Default)]
pub(super) struct ByThread(VecDeque<Line>);

#[derive(Debug)]
struct Line {
    at: Nanos,
    within: Nanos,
    pid: u32,
    thread: u64,
    /// Of what it did by itself; `None`: something else, or not understood.
    said: Option<Said>,
}

impl Line {
    fn is_near(&self, at: Nanos) -> bool {
        let until = self.at.saturating_add(self.within).saturating_add(SLACK);
        (self.at.saturating_sub(SLACK)..=until).contains(&at)
    }
}

impl ByThread {
    /// How many were forgotten.
    pub(super) fn told(&mut self, at: Nanos, line: &Logged) -> u64 {
        let of_apache = line.proxy == Some(Software::Apache) && line.line == LogLine::Error;
        let (true, Some(pid), Some(thread)) = (of_apache, line.pid, line.connection) else {
            return 0;
        };
        let lost = u64::from(self.0.len() >= KEPT);
        if lost > 0 {
            self.0.pop_front();
        }
        self.0.push_back(Line {
            at,
            within: line.within,
            pid,
            thread,
            said: line.said.filter(|_| line.tries.is_empty()),
        });
        lost
    }

    /// What was said of the thread that answered, when it did.
    pub(super) fn of(&self, at: Nanos, response: &Response) -> Option<(Nanos, Said)> {
        let own =
            |line: &&Line| line.pid == response.proxy && line.thread == u64::from(response.thread);
        let mut lines = self.0.iter().rev().filter(own);
        lines.find_map(|line| Some((line.at, line.said.filter(|_| line.is_near(at))?)))
    }

    /// Processes and threads of which anything was said then.
    pub(super) fn threads(&self, at: Nanos) -> impl Iterator<Item = (u32, u64)> {
        let near = self.0.iter().filter(move |line| line.is_near(at));
        near.map(|line| (line.pid, line.thread))
    }
}

//! What of a machine's time each of its commands took, by this host's clock: the machine's own leaps.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::console;

/// So many are named.
const LONGEST: usize = 5;

pub(super) struct Pace {
    began: Instant,
    /// The console's length when it was last looked at.
    read: u64,
    /// By line of process 1, the time from the line before.
    spent: Vec<(Duration, String)>,
    told: Duration,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace {
            began: Instant::now(),
            read: 0,
            spent: Vec::new(),
            told: Duration::ZERO,
        }
    }

    pub(super) fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes note of the lines that are new.
    pub(super) fn look(&mut self, file: &Path) {
        let length = fs::metadata(file).map_or(0, |file| file.len());
        if length == self.read {
            return;
        }
        self.read = length;
        let text = fs::read(file).unwrap_or_default();
        self.note(&String::from_utf8_lossy(&text), self.took());
    }

    fn note(&mut self, console: &str, now: Duration) {
        // The last line may not be whole yet.
        let (whole, _) = console.rsplit_once('\n').unwrap_or_default();
        let lines = whole.lines().filter_map(console::of_init);
        let new: Vec<_> = lines.skip(self.spent.len()).map(str::to_owned).collect();
        for line in new {
            self.spent.push((now.saturating_sub(self.told), line));
            self.told = now;
        }
    }

    /// What took longest: commands, or what process 1 did before, up to the line that it told then.
    pub(super) fn longest(&self) -> String {
        let mut spent: Vec<_> = self.spent.iter().collect();
        spent.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        let mut text = String::new();
        for (time, line) in spent.into_iter().take(LONGEST) {
            let comma = if text.is_empty() { "" } else { ", " };
            let command = line
                .split_once(' ')
                .filter(|(status, _)| status.parse::<i32>().is_ok());
            let what = command.map_or(line.as_str(), |(_, command)| console::short(command));
            let _ = write!(text, "{comma}{} s {what}", time.as_secs());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_the_time_since_the_one_before() {
        let mut pace = Pace::new();
        let mut console = "noise\nvm: Linux 6.1\nvm: 0 lab".to_owned();
        pace.note(&console, Duration::from_secs(4));
        console += " --row 2 > a\n";
        pace.note(&console, Duration::from_secs(5));
        console += "vm: 1 lab --row 7 > b\nvm: done\n";
        pace.note(&console, Duration::from_secs(15));
        let longest = "10 s lab --row 7, 4 s Linux 6.1, 1 s lab --row 2, 0 s done";
        assert_eq!(pace.longest(), longest);
    }
}

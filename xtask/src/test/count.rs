//! How many checks passed, failed and were skipped, summed over everything that counts.

use std::fmt;
use std::ops::AddAssign;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Count {
    pub(crate) const PASSED: Count = Count {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub(crate) const SKIPPED: Count = Count {
        passed: 0,
        failed: 0,
        skipped: 1,
    };
    pub(crate) const FAILED: Count = Count {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    /// Reads the line that sums up a test program: cargo's `test result: ok. 3 passed; 0 failed;
    /// 1 ignored; …` or the lab's `3 passed, 0 failed, 1 skipped`.
    pub(crate) fn from_line(line: &str) -> Option<Count> {
        let line = line.trim();
        let cargo = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "));
        let list = cargo.map_or(line, |(_, list)| list);
        let mut count = Count::default();
        let mut named = 0;
        for part in list.split([';', ',']) {
            let (number, word) = part.trim().split_once(' ')?;
            match (number.parse::<u64>(), word) {
                (Ok(number), "passed") => count.passed = number,
                (Ok(number), "failed") => count.failed = number,
                (Ok(number), "skipped" | "ignored") => count.skipped = number,
                // `0 measured`, `3 filtered out`, `finished in 0.02s`.
                _ if cargo.is_some() => continue,
                _ => return None,
            }
            named += 1;
        }
        (named >= 2).then_some(count)
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_summary_are_read() {
        for (line, passed, failed, skipped) in [
            (
                "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; \
                 finished in 0.02s",
                12,
                0,
                1,
            ),
            (
                "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
                1,
                2,
                0,
            ),
            ("18 passed, 1 failed, 2 skipped", 18, 1, 2),
            ("18 passed, 0 failed", 18, 0, 0),
        ] {
            assert_eq!(
                Count::from_line(line),
                Some(Count {
                    passed,
                    failed,
                    skipped
                }),
                "{line}"
            );
        }
    }

    #[test]
    fn other_lines_are_no_summary() {
        for line in [
            "",
            "running 3 tests",
            "test a ... ok",
            "3 passed",
            "row 2: 3 passed, all of them",
        ] {
            assert_eq!(Count::from_line(line), None, "{line}");
        }
    }
}

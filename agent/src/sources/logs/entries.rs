//! Whole entries of nginx's error log: what a request wrote there between two of its lines is left out.
//!
//! nginx writes decoded paths into messages such as `open() "…" failed`, newlines included, so a
//! client can write lines of any form. But such an entry is one write of at most 2048 bytes, it
//! begins with a line of nginx's that is no plain statement, and it ends in one of three ways: with
//! a tail that begins no line, with a line that holds the tail as well, or cut at exactly that
//! length. So from any of these ends, what follows the first such beginning within 2048 bytes is
//! not believed; a plain statement with no such beginning before it is certain at once. Pure.

use std::collections::VecDeque;

/// NGX_MAX_ERROR_STR: an entry with its newline is never longer.
const ENTRY: u64 = 2048;

/// Lines that may yet turn out to be inside another line's entry.
#[derive(Debug, Default)]
pub(super) struct Entries {
    held: VecDeque<Held>,
    at: u64,
}

/// What a line looks like by itself; a plain statement, in which no newline can have been, is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Its message or request may go on in the next line.
    pub may_begin: bool,
    /// An entry that began before may end with it.
    pub may_end: bool,
}

/// A line, and whether it is nginx's for certain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub text: String,
    pub believed: bool,
}

#[derive(Debug)]
struct Held {
    begins: u64,
    line: String,
    may_begin: bool,
    believed: bool,
}

impl Entries {
    /// Takes the next line, of so many bytes with its newline; gives those that are certain now.
    pub(super) fn line(&mut self, line: &str, bytes: u64, look: Look, out: &mut Vec<Line>) {
        let begins = self.at;
        let ends = begins + bytes;
        self.at = ends;
        let reach = ends.saturating_sub(ENTRY);
        let first = self.held.iter().position(|held| {
            // An entry that began with an earlier line may have been cut right here.
            let cut = held.begins == reach && ends >= ENTRY;
            held.may_begin && (cut || look.may_end && held.begins >= reach)
        });
        if let Some(first) = first {
            for held in self.held.range_mut(first..) {
                held.believed = false;
            }
        }
        self.held.push_back(Held {
            begins,
            line: line.to_owned(),
            may_begin: look.may_begin,
            believed: !look.may_end && first.is_none(),
        });
        self.release(|held| held.begins + ENTRY < ends, out);
    }

    /// Nothing more is being written: what is held is whole.
    pub(super) fn flush(&mut self, out: &mut Vec<Line>) {
        self.release(|_| true, out);
    }

    fn release(&mut self, certain: impl Fn(&Held) -> bool, out: &mut Vec<Line>) {
        // What no beginning comes before within reach is in no other's entry.
        let alone = |held: &Held| !held.may_begin || certain(held);
        while self.held.front().is_some_and(alone) {
            out.extend(self.held.pop_front().map(|held| Line {
                text: held.line,
                believed: held.believed,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that are believed of these; `>` is a statement, `(` may begin, `{` begin or end.
    fn believed(lines: &[String]) -> Vec<String> {
        let mut entries = Entries::default();
        let mut out = Vec::new();
        for line in lines {
            let look = match line.as_bytes().first() {
                Some(b'>') => (false, false),
                Some(b'(') => (true, false),
                Some(b'{') => (true, true),
                _ => (false, true),
            };
            let (may_begin, may_end) = look;
            let look = Look { may_begin, may_end };
            entries.line(line, line.len() as u64 + 1, look, &mut out);
        }
        entries.flush(&mut out);
        let believed = out.into_iter().filter(|line| line.believed);
        believed.map(|line| line.text).collect()
    }

    fn lines(all: &[&str]) -> Vec<String> {
        all.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn plain_lines_are_believed_in_order() {
        let all: Vec<String> = (0..500).map(|n| format!("> line {n}")).collect();
        assert_eq!(believed(&all), all);
    }

    #[test]
    fn a_line_between_a_beginning_and_its_end_is_not() {
        let all = lines(&[
            "> before",
            "( open() \"/x",
            "> forged",
            "\" failed",
            "> after",
        ]);
        assert_eq!(believed(&all), ["> before", "> after"]);
        // The client gave the first line an end as well.
        let all = lines(&[
            "> before",
            "{ open() \"/x, client:",
            "> forged",
            "\" failed",
        ]);
        assert_eq!(believed(&all), ["> before"]);
        // A beginning further away than an entry is long has nothing to do with it.
        let far = format!("( {}", "x".repeat(2500));
        let all = lines(&[&far, "> before", "( open() \"/x", "> forged", "\" failed"]);
        assert_eq!(believed(&all), [far, "> before".to_owned()]);
    }

    #[test]
    fn a_line_that_ends_where_an_entry_is_cut_is_not() {
        let first = format!("( {}", "a".repeat(1000));
        let rest = 2048 - (first.len() + 1) - 1;
        let forged = format!("> forged {}", "b".repeat(rest - 9));
        assert_eq!(first.len() + forged.len() + 2, 2048);
        let none: [String; 0] = [];
        assert_eq!(believed(&[first.clone(), forged.clone()]), none);
        // A byte longer, and no entry could hold both.
        let other = format!("{forged}c");
        assert_eq!(believed(&[first.clone(), other.clone()]), [first, other]);
    }
}

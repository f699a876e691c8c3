//! What process 1 and the kernel told on a machine's console, and what a whole run would have told besides.

/// What goes wrong without a status: of process 1, of a program, of the kernel.
const WRONG: [&str; 5] = [
    "vm: failed",
    "panicked at",
    "Kernel panic",
    "Oops",
    "kernel BUG at",
];

#[derive(Debug, Default)]
pub(super) struct Told {
    /// Each command with its exit status.
    commands: Vec<(i32, String)>,
    done: bool,
    /// Lines about what went wrong.
    wrong: Vec<String>,
    /// Whoever said it.
    last: String,
}

impl Told {
    pub(super) fn read(console: &str) -> Told {
        let mut told = Told::default();
        for line in console.lines() {
            if !line.trim().is_empty() {
                line.trim().clone_into(&mut told.last);
            }
            if WRONG.iter().any(|wrong| line.contains(wrong)) {
                told.wrong.push(line.trim().to_owned());
            }
            let Some(line) = of_init(line) else {
                continue;
            };
            told.done |= line == "done";
            if let Some((status, command)) = line.split_once(' ')
                && let Ok(status) = status.parse()
            {
                told.commands.push((status, command.to_owned()));
            }
        }
        told
    }

    /// What is missing of a run of these commands, and what went wrong.
    pub(super) fn lacks(&self, wanted: &[String]) -> Vec<String> {
        let wrong = self.wrong.iter();
        let mut lacks: Vec<_> = wrong
            .map(|line| format!("on its console: {line}"))
            .collect();
        let ended = |command: &&String| self.commands.iter().any(|(_, one)| one == *command);
        let missing = wanted.iter().filter(|command| !ended(command));
        let missing: Vec<_> = missing.map(|command| short(command)).collect();
        if !missing.is_empty() {
            lacks.push(format!(
                "{} of {} commands have no status: {}",
                missing.len(),
                wanted.len(),
                missing.join("; ")
            ));
        }
        if !self.done {
            let last = match self.last.as_str() {
                "" => "nothing",
                last => last,
            };
            lacks.push(format!(
                "it did not come to its end: the last on its console is {last}"
            ));
        }
        lacks
    }

    /// Commands that ended with another status than 0.
    pub(super) fn failed(&self) -> impl Iterator<Item = String> {
        let failed = self.commands.iter().filter(|(status, _)| *status != 0);
        failed.map(|(status, command)| format!("status {status}: {command}"))
    }
}

/// A line of process 1: the kernel's own may stand ahead of it.
pub(super) fn of_init(line: &str) -> Option<&str> {
    Some(line.trim_end().split_once("vm: ")?.1)
}

/// A command without where its output goes.
pub(super) fn short(command: &str) -> &str {
    command.split(" >").next().unwrap_or(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "[ 1.0] noise\r\nvm: Linux 6.1\r\nvm: 0 true\r\n[ 2.0] vm: 3 lab --row 2 > a\r\nvm: done\r\n";

    fn lacks(console: &str) -> Vec<String> {
        let wanted = ["true".to_owned(), "lab --row 2 > a".to_owned()];
        Told::read(console).lacks(&wanted)
    }

    #[test]
    fn a_whole_run_lacks_nothing_and_tells_what_failed() {
        assert_eq!(lacks(WHOLE), [""; 0]);
        let failed: Vec<_> = Told::read(WHOLE).failed().collect();
        assert_eq!(failed, ["status 3: lab --row 2 > a"]);
    }

    #[test]
    fn a_command_without_an_end_is_named() {
        let cut = "vm: Linux 6.1\nvm: 0 true\nvm: done\n";
        assert_eq!(lacks(cut), ["1 of 2 commands have no status: lab --row 2"]);
        // Process 1 gave up half-way, and was older than its word for that.
        let cut = "vm: 0 true\nvm: failed: start /bin/sh: out of memory\nvm: done\n";
        let lacks = lacks(cut);
        assert_eq!(lacks.len(), 2, "{lacks:?}");
        assert!(lacks[0].contains("out of memory"), "{lacks:?}");
        assert!(lacks[1].contains("lab --row 2"), "{lacks:?}");
    }

    #[test]
    fn a_console_that_stops_is_no_whole_one() {
        // Whichever line is the last, and wherever it breaks off.
        let end = WHOLE.trim_end().len();
        for cut in 0..end {
            assert!(!lacks(&WHOLE[..cut]).is_empty(), "{}", &WHOLE[..cut]);
        }
    }

    #[test]
    fn of_a_machine_that_did_not_start_it_is_told_what_it_said() {
        let lacks = lacks("qemu: no such device\n");
        assert!(lacks[0].starts_with("2 of 2 commands"), "{lacks:?}");
        assert!(lacks[1].ends_with("qemu: no such device"), "{lacks:?}");
    }

    #[test]
    fn a_panic_counts_also_where_all_commands_ended() {
        for wrong in [
            "[ 9.1] Kernel panic - not syncing: Attempted to kill init!",
            "[ 9.1] Internal error: Oops: 0000000096000005 [#1] SMP",
            "thread 'main' panicked at src/bin/vm-init.rs:60:9:",
        ] {
            let lacks = lacks(&format!("{wrong}\r\n{WHOLE}"));
            assert_eq!(lacks, [format!("on its console: {wrong}")]);
        }
    }
}

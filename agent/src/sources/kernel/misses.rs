//! Runs of a program that the kernel left out: it does not begin a program on a processor on which
//! the same one was interrupted. What such a run would have told is lost.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::FileExt as _;

use aya::Ebpf;
use aya::programs::Program;

/// What the kernel says of each loaded program (`recursion_misses`, Linux 5.12).
pub struct Misses(Vec<(String, File)>);

impl Misses {
    /// Opened once: a privilege that is dropped later may be needed for it.
    pub fn of(ebpf: &Ebpf) -> Misses {
        let open = |program: &Program| {
            let number = program.fd().ok()?.as_fd().as_raw_fd();
            File::open(format!("/proc/self/fdinfo/{number}")).ok()
        };
        // An iterator runs only when it is read, and where OpenSSL's is left out a status is not known.
        let events = ebpf
            .programs()
            .filter(|(_, program)| !matches!(program, Program::Iter(_) | Program::UProbe(_)));
        let named = |(name, program): (&str, &Program)| Some((name.to_owned(), open(program)?));
        Misses(events.filter_map(named).collect())
    }

    /// How many there were of each program since they were loaded, in one order always.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, file)| {
            let mut text = [0; 1024];
            let size = file.read_at(&mut text, 0).unwrap_or(0);
            (
                name.as_str(),
                misses(&String::from_utf8_lossy(&text[..size])),
            )
        })
    }
}

fn misses(fdinfo: &str) -> u64 {
    let mut lines = fdinfo.lines();
    let count = lines.find_map(|line| line.strip_prefix("recursion_misses:"));
    count.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_tells_misses_where_the_kernel_counts_them() {
        let text = "pos:\t0\nprog_type:\t26\nrun_time_ns:\t7\nrun_cnt:\t3\nrecursion_misses:\t12\nverified_insns:\t90\n";
        assert_eq!(misses(text), 12);
        assert_eq!(misses("pos:\t0\nprog_type:\t26\n"), 0);
    }
}

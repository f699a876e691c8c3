//! The usual `process_*` metrics of this program itself, from `/proc/self`.

use std::fs;

use prometheus::proto::MetricFamily;

use super::families::{counter, gauge};

/// What can be read; a value that cannot is left out.
pub(super) fn gather() -> Vec<MetricFamily> {
    let mut families = Vec::new();
    if let Some(stat) = fs::read_to_string("/proc/self/stat")
        .ok()
        .as_deref()
        .and_then(Stat::parse)
    {
        families.push(counter(
            "process_cpu_seconds_total",
            "User and system CPU time",
            stat.cpu_ticks as f64 / per_second(),
        ));
        families.push(gauge(
            "process_virtual_memory_bytes",
            "Virtual memory",
            &[],
            stat.virtual_bytes as f64,
        ));
        families.push(gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            &[],
            stat.resident_pages as f64 * page_size(),
        ));
        families.push(gauge(
            "process_threads",
            "Threads",
            &[],
            stat.threads as f64,
        ));
        if let Some(boot) = boot_time() {
            families.push(gauge(
                "process_start_time_seconds",
                "Start, in seconds since 1970",
                &[],
                boot + stat.start_ticks as f64 / per_second(),
            ));
        }
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        families.push(gauge(
            "process_open_fds",
            "Open file descriptors",
            &[],
            entries.count() as f64,
        ));
    }
    if let Some(limit) = max_fds() {
        families.push(gauge(
            "process_max_fds",
            "Limit of open file descriptors",
            &[],
            limit,
        ));
    }
    families
}

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// Fields are counted after the name, which may hold spaces and parentheses.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc(5) counts from 1 and with the two fields before.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn per_second() -> f64 {
    // SAFETY: sysconf takes no pointers.
    (unsafe { libc::sysconf(libc::_SC_CLK_TCK) }) as f64
}

fn page_size() -> f64 {
    // SAFETY: sysconf takes no pointers.
    (unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194304 9 0 0 0 150 50 0 0 20 0 3 0 777 8192 5 x";
        let expected = Stat {
            cpu_ticks: 200,
            threads: 3,
            start_ticks: 777,
            virtual_bytes: 8192,
            resident_pages: 5,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("42 (cut"), None);
        assert_eq!(Stat::parse("42 (cut) S 1"), None);
    }
}

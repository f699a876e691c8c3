//! What each probe costs: the kernel counts the runs of every BPF program and their time.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::shell;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Keeps the kernel counting while it lives. Counting costs each run some nanoseconds itself, so
/// throughput is measured without.
pub(crate) struct Counting {
    before: String,
}

impl Counting {
    pub(crate) fn start() -> Result<Counting> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
        Ok(Counting { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, self.before.trim());
    }
}

/// One program of the agent, and how much it has run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Probe {
    id: u64,
    pub(crate) name: String,
    pub(crate) runs: f64,
    pub(crate) ns: f64,
}

impl Probe {
    pub(crate) fn ns_per_run(&self) -> f64 {
        if self.runs > 0.0 {
            self.ns / self.runs
        } else {
            0.0
        }
    }

    pub(crate) fn json(&self, requests: f64) -> Value {
        json!({
            "probe": self.name,
            "ns_per_run": self.ns_per_run(),
            "runs_per_request": self.runs / requests,
            "ns_per_request": self.ns / requests,
        })
    }
}

/// The programs that this process holds, by its own file descriptors: another agent's do not
/// count.
pub(crate) fn of(pid: u32) -> Result<Vec<Probe>> {
    let held = descriptors(pid, "prog_id")?;
    let text = shell::ask(shell::command("bpftool").args(["prog", "show", "--json"]))
        .context("bpftool shows no programs")?;
    let all: Value = serde_json::from_str(&text).context("read bpftool's output")?;
    Ok(all
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|program| {
            let id = program["id"].as_u64().filter(|id| held.contains(id))?;
            Some(Probe {
                id,
                name: program["name"].as_str().unwrap_or("?").to_owned(),
                runs: program["run_cnt"].as_f64().unwrap_or(0.0),
                ns: program["run_time_ns"].as_f64().unwrap_or(0.0),
            })
        })
        .collect())
}

/// What ran between two readings, the dearest first.
pub(crate) fn between(before: &[Probe], after: &[Probe]) -> Vec<Probe> {
    let mut all: Vec<Probe> = after
        .iter()
        .map(|now| {
            let then = before.iter().find(|then| then.id == now.id);
            Probe {
                runs: now.runs - then.map_or(0.0, |then| then.runs),
                ns: now.ns - then.map_or(0.0, |then| then.ns),
                ..now.clone()
            }
        })
        .collect();
    all.sort_by(|a, b| b.ns.total_cmp(&a.ns));
    all
}

/// The memory that the kernel says the maps of this process take.
pub(crate) fn map_bytes(pid: u32) -> Result<f64> {
    let held = descriptors(pid, "map_id")?;
    let text = shell::ask(shell::command("bpftool").args(["map", "show", "--json"]))
        .context("bpftool shows no maps")?;
    let all: Value = serde_json::from_str(&text).context("read bpftool's output")?;
    Ok(all
        .as_array()
        .into_iter()
        .flatten()
        .filter(|map| map["id"].as_u64().is_some_and(|id| held.contains(&id)))
        .filter_map(|map| map["bytes_memlock"].as_f64())
        .sum())
}

fn descriptors(pid: u32, field: &str) -> Result<BTreeSet<u64>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines() {
            if let Some(value) = line.strip_prefix(field)
                && let Ok(id) = value.trim_start_matches(':').trim().parse()
            {
                ids.insert(id);
            }
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(id: u64, runs: f64, ns: f64) -> Probe {
        Probe {
            id,
            name: format!("p{id}"),
            runs,
            ns,
        }
    }

    #[test]
    fn only_what_ran_meanwhile_counts() {
        let between = between(
            &[probe(1, 10.0, 100.0)],
            &[probe(1, 30.0, 500.0), probe(2, 5.0, 900.0)],
        );
        assert_eq!(between, [probe(2, 5.0, 900.0), probe(1, 20.0, 400.0)]);
        assert!((between[1].ns_per_run() - 20.0).abs() < 1e-9);
    }
}

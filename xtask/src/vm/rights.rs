//! What the agent sees with which capabilities, and which it keeps: the machines' commands, and what they left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::image::{AS_NOBODY, LEAST};
use super::result;

/// Every capability that some fact needs; the last implies others.
const ALL: [&str; 6] = [
    "bpf",
    "perfmon",
    "dac_read_search",
    "sys_ptrace",
    "net_raw",
    "sys_admin",
];

/// Their numbers, to read `/proc` by.
const NUMBERS: [(u32, &str); 6] = [
    (2, "CAP_DAC_READ_SEARCH"),
    (13, "CAP_NET_RAW"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Facts that are not seen by a user who owns nothing and has these capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rights {
    pub(super) capabilities: BTreeSet<String>,
    pub(super) blind: BTreeSet<String>,
}

/// All, and all but the one that implies others; each of both without any one; the least.
fn sets() -> Vec<Vec<&'static str>> {
    let plain = &ALL[..5];
    let mut sets = vec![ALL.to_vec(), plain.to_vec()];
    for whole in [plain, &ALL] {
        for without in plain {
            sets.push(whole.iter().copied().filter(|one| one != without).collect());
        }
    }
    sets.push(vec!["bpf", "perfmon"]);
    sets
}

/// The agent's checks with each set, and what it keeps when it runs as root.
pub(super) fn commands() -> Vec<String> {
    let checks = sets().into_iter().enumerate().map(|(number, set)| {
        let set = set.join(",");
        // What cannot be seen is its status too.
        format!(
            "{AS_NOBODY} {set} check --json > rights-{number}.json 2> rights-{number}.err; true"
        )
    });
    let kept = "why502 run --no-history --listen 127.0.0.1:9502 > /dev/null 2> run.err & agent=$!; \
                until grep -q ^ready run.err; do sleep 0.1; done; \
                grep -h ^CapPrm: /proc/$agent/task/*/status > kept; kill $agent; wait $agent";
    checks.chain([kept.to_owned()]).collect()
}

/// A lab in which the agent is another user with the least capabilities, on a root that nobody can write.
pub(super) fn least_lab(lab: &str, out: &str) -> String {
    format!(
        "umask 0; unshare --mount sh -c 'mount -o remount,bind,ro / && {lab} --why502 /usr/bin/{LEAST} \
         --out /run/{out}' > {out}.txt 2>&1; status=$?; cp -r /run/{out} . ; exit $status"
    )
}

pub(super) fn read(results: &Path) -> Result<Vec<Rights>> {
    let read = |(number, set): (usize, Vec<&str>)| {
        let check = result::check(&results.join(format!("rights-{number}.json")))?;
        let names = set
            .iter()
            .map(|name| format!("CAP_{}", name.to_uppercase()));
        Ok(Rights {
            capabilities: names.collect(),
            blind: result::blind(&check)
                .into_iter()
                .map(str::to_owned)
                .collect(),
        })
    };
    sets().into_iter().enumerate().map(read).collect()
}

/// What all threads together still had.
pub(super) fn kept(results: &Path) -> Result<BTreeSet<String>> {
    let path = results.join("kept");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    named(&text)
}

fn named(text: &str) -> Result<BTreeSet<String>> {
    let mut kept = 0;
    for line in text.lines() {
        let bits = line.trim_start_matches("CapPrm:").trim();
        kept |= u64::from_str_radix(bits, 16).with_context(|| format!("parse {line}"))?;
    }
    let name = |bit: u32| {
        let known = NUMBERS.iter().find(|(number, _)| *number == bit);
        known.map_or_else(
            || format!("capability {bit}"),
            |(_, name)| (*name).to_owned(),
        )
    };
    Ok((0..64)
        .filter(|bit| kept >> bit & 1 == 1)
        .map(name)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_keep_is_read_by_name() {
        let text = "CapPrm:\t0000008000080004\nCapPrm:\t0000000000000001\n";
        let kept: Vec<_> = named(text).unwrap().into_iter().collect();
        assert_eq!(
            kept,
            [
                "CAP_BPF",
                "CAP_DAC_READ_SEARCH",
                "CAP_SYS_PTRACE",
                "capability 0"
            ]
        );
    }
}

//! Recordings of what Debian's kernels offer (`agent/tests/kernels`, made by `cargo xtask vm --record`):
//! what would be tried first is what loaded there, and taking one thing away changes what it should.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use why502::sources::kernel::hooks::{self, Kind, LADDERS};
use why502::sources::kernel::offer::Offer;
use why502::sources::kernel::plan::{HARM, Step, plan};

#[derive(Deserialize)]
struct Recording {
    offer: Offer,
    check: Vec<Checked>,
}

/// A line of `why502 check` on that kernel.
#[derive(Deserialize)]
struct Checked {
    fact: String,
    visible: bool,
    hook: String,
    reason: Option<String>,
}

fn recordings() -> Vec<(String, Recording)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    files.sort();
    assert!(files.len() > 1, "no recordings in {}", folder.display());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_str(&text).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// Facts for which the plans differ.
fn changed(before: &[Step], after: &[Step]) -> Vec<&'static str> {
    let pairs = before.iter().zip(after);
    let different = pairs.filter(|(a, b)| a.offered != b.offered);
    different.map(|(step, _)| step.ladder.fact).collect()
}

#[test]
fn what_is_tried_first_is_what_loaded() {
    for (kernel, recording) in recordings() {
        for step in plan(&recording.offer) {
            let fact = step.ladder.fact;
            let checked = recording.check.iter().find(|line| line.fact == fact);
            let checked = checked.unwrap_or_else(|| panic!("{kernel}: check is silent on {fact}"));
            match step.offered.first() {
                Some(rung) => {
                    assert!(checked.visible, "{kernel}: {fact}: {:?}", checked.reason);
                    assert_eq!(hooks::name(rung), checked.hook, "{kernel}: {fact}");
                }
                None => assert!(!checked.visible, "{kernel}: {fact}"),
            }
            // What was not tried is told, with the reason, if it would be cheaper.
            let place = |rung| step.ladder.rungs.iter().position(|one| *one == rung);
            let used = step.offered.first().copied().and_then(place);
            for (rung, why) in &step.refused {
                if used.is_some_and(|used| place(*rung) > Some(used)) {
                    continue;
                }
                let told = checked.reason.as_deref().unwrap_or_default();
                assert!(
                    told.contains(why),
                    "{kernel}: {fact}: {} {told}",
                    hooks::name(rung)
                );
            }
        }
    }
}

#[test]
fn a_hook_less_changes_its_facts_and_no_other() {
    for (kernel, recording) in recordings() {
        let whole = plan(&recording.offer);
        // What only tells that a kernel is repaired is no hook.
        let repairs = |name: &str| HARM.iter().any(|harm| harm.repaired_by == name);
        for name in recording.offer.btf.iter().filter(|name| !repairs(name)) {
            let mut less = recording.offer.clone();
            less.btf.remove(name);
            let wanting = LADDERS.iter().filter(|ladder| {
                let mut hooks = ladder.rungs.iter().copied().flatten();
                hooks.any(|hook| hook.in_btf().as_ref() == Some(name))
            });
            let offered = |fact: &str| {
                let step = whole.iter().find(|step| step.ladder.fact == fact);
                step.is_some_and(|step| !step.offered.is_empty())
            };
            let wanting = wanting
                .map(|ladder| ladder.fact)
                .filter(|fact| offered(fact));
            let wanting: Vec<_> = wanting.collect();
            assert_eq!(
                changed(&whole, &plan(&less)),
                wanting,
                "{kernel} without {name}"
            );
        }
    }
}

#[test]
fn without_tracefs_only_its_tracepoints_are_gone() {
    for (kernel, recording) in recordings() {
        let mut less = recording.offer.clone();
        less.no_tracefs = Some("not mounted".to_owned());
        let through = LADDERS.iter().filter(|ladder| {
            let mut hooks = ladder.rungs.iter().copied().flatten();
            hooks.any(|hook| matches!(hook.kind, Kind::Tracepoint { .. }))
        });
        let through: Vec<_> = through.map(|ladder| ladder.fact).collect();
        assert_eq!(
            changed(&plan(&recording.offer), &plan(&less)),
            through,
            "{kernel}"
        );
    }
}

/// A hook that is known to do harm is not tried, whatever the kernel offers; others are.
#[test]
fn what_can_crash_a_kernel_is_not_tried_on_it() {
    let mut harmed = 0;
    for (kernel, recording) in recordings() {
        let mut less = recording.offer.clone();
        for harm in HARM {
            less.btf.remove(harm.repaired_by);
        }
        let facts = changed(&plan(&recording.offer), &plan(&less));
        if less.version() < (5, 12) {
            harmed += 1;
            let through = LADDERS.iter().filter(|ladder| {
                let mut hooks = ladder.rungs.iter().copied().flatten();
                hooks.any(|hook| HARM.iter().any(|harm| harm.kinds.contains(&hook.kind)))
            });
            let through: Vec<_> = through.map(|ladder| ladder.fact).collect();
            assert_eq!(facts, through, "{kernel}");
        } else {
            assert!(facts.is_empty(), "{kernel}");
        }
    }
    assert!(harmed > 0);
}

/// Older kernels have a lower rung; newer ones never use it.
#[test]
fn reads_and_writes_go_by_the_cheapest_hook_there_is() {
    for (kernel, recording) in recordings() {
        let new = recording.offer.btf.contains("btf_trace_sock_send_length");
        for step in plan(&recording.offer) {
            if ["reads", "writes"].contains(&step.ladder.fact) {
                let first = step.offered[0][0].kind;
                let wanted = if new {
                    Kind::BtfTracepoint
                } else {
                    Kind::FunctionExit
                };
                assert_eq!(first, wanted, "{kernel}: {}", step.ladder.fact);
            }
        }
    }
}

//! Recordings of what Debian's kernels offer (`agent/tests/kernels`, made by `cargo xtask vm --record`):
//! what would be tried first is what loaded there, and taking one thing away changes what it should.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use why502::check::{Line, expected};
use why502::privileges;
use why502::sources::kernel::hooks::{self, Kind, LADDERS};
use why502::sources::kernel::offer::Offer;
use why502::sources::kernel::plan::{HARM, Step, plan};

#[derive(Deserialize)]
struct Recording {
    offer: Offer,
    check: Vec<Checked>,
    rights: Vec<Rights>,
    kept: BTreeSet<String>,
    /// By what was kept from the agent, the lines that it said otherwise.
    #[serde(default)]
    without: BTreeMap<String, Vec<Checked>>,
}

/// What a user who owns nothing does not see with these capabilities.
#[derive(Deserialize)]
struct Rights {
    capabilities: BTreeSet<String>,
    blind: BTreeSet<String>,
}

/// A line of `why502 check` on that kernel.
#[derive(Debug, Deserialize)]
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
            let wanting = whole.iter().filter(|step| {
                let mut hooks = step.offered.iter().copied().flatten();
                hooks.any(|hook| hook.in_btf().as_ref() == Some(name))
            });
            let wanting = wanting.map(|step| step.ladder.fact);
            let wanting: Vec<_> = wanting.collect();
            assert_eq!(
                changed(&whole, &plan(&less)),
                wanting,
                "{kernel} without {name}"
            );
        }
    }
}

/// Without rights, too, and where nothing that a fact could be seen by is there.
#[test]
fn no_hook_of_another_kind_of_machine_is_named() {
    for (kernel, recording) in recordings() {
        let mut powerless = recording.offer.clone();
        powerless.capabilities.clear();
        let mut bare = recording.offer.clone();
        bare.btf.clear();
        bare.tracepoints.clear();
        for offer in [recording.offer, powerless, bare] {
            let foreign = hooks::all().filter(|hook| {
                let of = hook.machine;
                of.is_some_and(|machine| machine != offer.machine)
            });
            let foreign: BTreeSet<_> = foreign.map(|hook| hook.name).collect();
            assert!(!foreign.is_empty());
            for line in expected(&offer) {
                let named = foreign.iter().find(|name| line.hook.contains(*name));
                assert_eq!(named, None, "{kernel}: {}: {}", line.fact, line.hook);
            }
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
                let first = step.offered[0][0];
                let wanted = if new {
                    Kind::BtfTracepoint
                } else if kernel.ends_with("x86_64") {
                    Kind::FunctionExit
                } else {
                    assert_eq!(first.name, hooks::UNTYPED, "{kernel}");
                    Kind::BtfTracepoint
                };
                assert_eq!(first.kind, wanted, "{kernel}: {}", step.ladder.fact);
            }
        }
    }
}

/// What `check` says follows from what the kernel offers and which capabilities there are.
#[test]
fn check_says_what_follows_from_what_is_offered() {
    for (kernel, recording) in recordings() {
        let lines = expected(&recording.offer);
        assert_eq!(lines.len(), recording.check.len(), "{kernel}");
        for (line, said) in lines.iter().zip(&recording.check) {
            assert_eq!(line.fact, said.fact, "{kernel}");
            assert_eq!(line.visible, said.visible, "{kernel}: {}", line.fact);
            assert_eq!(line.hook, said.hook, "{kernel}: {}", line.fact);
            assert_eq!(line.reason, said.reason, "{kernel}: {}", line.fact);
        }
    }
}

/// What `check` says where tracefs is neither mounted nor can be.
const NO_TRACEFS: &str = "tracefs is not mounted at /sys/kernel/tracing and cannot be mounted for this process \
                          (Operation not permitted (os error 1)); mount it, or run with CAP_SYS_ADMIN";

/// The same of BTF.
const NO_BTF: &str = "read /sys/kernel/btf/vmlinux: the kernel needs CONFIG_DEBUG_INFO_BTF=y (5.10 and later of \
                      most distributions): No such file or directory (os error 2)";

/// On the kernels themselves a name in BTF was kept from the agent, each in turn, BTF as a whole, and tracefs
/// with what could mount it: `check` said there what follows from that.
#[test]
fn what_was_taken_away_there_changed_what_follows_from_it() {
    for (kernel, recording) in recordings() {
        let whole = expected(&recording.offer);
        for (what, said) in &recording.without {
            let mut less = recording.offer.clone();
            if what == "tracefs" {
                less.no_tracefs = Some(NO_TRACEFS.to_owned());
                less.capabilities.remove("CAP_SYS_ADMIN");
            } else if what == "BTF" {
                less.no_btf = Some(NO_BTF.to_owned());
            } else {
                assert!(less.btf.remove(what), "{kernel} has no {what}");
            }
            let after = expected(&less);
            let pairs = whole.iter().zip(&after);
            let differ = pairs.filter(|(before, after)| before != after);
            let differ: Vec<_> = differ
                .map(|(_, line)| (line.fact, line.visible, &*line.hook, line.reason.as_deref()))
                .collect();
            let said: Vec<_> = said
                .iter()
                .map(|line| {
                    (
                        &*line.fact,
                        line.visible,
                        &*line.hook,
                        line.reason.as_deref(),
                    )
                })
                .collect();
            assert_eq!(differ, said, "{kernel} without {what}");
        }
    }
}

fn blind(lines: &[Line]) -> BTreeSet<String> {
    let blind = lines.iter().filter(|line| !line.visible);
    blind.map(|line| line.fact.to_owned()).collect()
}

/// The offer to another user.
fn with(offer: &Offer, capabilities: &BTreeSet<String>) -> Offer {
    let mut less = offer.clone();
    less.capabilities = capabilities.clone();
    if !privileges::has(capabilities, privileges::FILES) {
        less.no_tracefs = Some("CAP_DAC_READ_SEARCH is needed".to_owned());
    }
    less
}

#[test]
fn fewer_capabilities_take_away_what_they_took_away_there() {
    for (kernel, recording) in recordings() {
        assert!(recording.rights.len() > 6, "{kernel}");
        for rights in &recording.rights {
            let lines = expected(&with(&recording.offer, &rights.capabilities));
            assert_eq!(
                blind(&lines),
                rights.blind,
                "{kernel} with {:?}",
                rights.capabilities
            );
        }
    }
}

#[test]
fn what_is_kept_is_what_check_says_is_kept() {
    for (kernel, recording) in recordings() {
        let version = recording.offer.version();
        let sources = [
            privileges::of_kernel_source(version, false),
            privileges::of_log_source(),
        ];
        let kept: BTreeSet<_> = sources.concat().iter().map(ToString::to_string).collect();
        assert_eq!(recording.kept, kept, "{kernel}");
        let named: BTreeSet<_> = expected(&recording.offer)
            .into_iter()
            .filter(|line| !["packets", "namespaces"].contains(&line.fact))
            .flat_map(|line| line.needs.to_keep)
            .collect();
        assert_eq!(recording.kept, named, "{kernel}");
    }
}

/// What `check` says anew when this is not there.
fn told(out: &mut String, what: &str, before: &[Line], after: &[Line]) {
    let _ = writeln!(out, "without {what}:");
    let mut same = true;
    for (before, after) in before.iter().zip(after) {
        let said = |line: &Line| (line.visible, line.hook.clone(), line.reason.clone());
        if said(before) == said(after) {
            continue;
        }
        same = false;
        let reason = after.reason.as_deref().unwrap_or_default();
        let _ = match after.visible {
            true => writeln!(out, "  {} by {} ({reason})", after.fact, after.hook),
            false => writeln!(out, "  {} BLIND ({reason})", after.fact),
        };
    }
    if same {
        out.push_str("  nothing\n");
    }
}

/// Any one thing taken away changes exactly this.
#[test]
fn what_is_taken_away_is_told() {
    for (kernel, recording) in recordings() {
        let mut out = String::new();
        // Of all capabilities one implies others: taken away first.
        let all = &recording.rights[0].capabilities;
        let whole = with(&recording.offer, all);
        let mut plain = all.clone();
        for name in ["CAP_SYS_ADMIN"].iter().chain(privileges_but_admin()) {
            let before = with(
                &recording.offer,
                if *name == "CAP_SYS_ADMIN" {
                    all
                } else {
                    &plain
                },
            );
            let mut fewer = before.capabilities.clone();
            assert!(fewer.remove(*name), "{name}");
            let after = with(&recording.offer, &fewer);
            told(&mut out, name, &expected(&before), &expected(&after));
            plain.remove("CAP_SYS_ADMIN");
        }
        let mut less = whole.clone();
        less.no_tracefs = Some("it is not mounted".to_owned());
        told(&mut out, "tracefs", &expected(&whole), &expected(&less));
        let mut less = whole.clone();
        less.no_btf = Some("it is not there".to_owned());
        told(&mut out, "BTF", &expected(&whole), &expected(&less));
        for name in &whole.btf {
            let mut less = whole.clone();
            less.btf.remove(name);
            told(&mut out, name, &expected(&whole), &expected(&less));
        }
        insta::assert_snapshot!(format!("without_{kernel}"), out);
    }
}

fn privileges_but_admin() -> &'static [&'static str] {
    &[
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_DAC_READ_SEARCH",
        "CAP_SYS_PTRACE",
        "CAP_NET_RAW",
    ]
}

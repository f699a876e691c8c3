//! What a machine is to do: the agent's checks, scenarios of the lab, and how long it may take.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};

use super::image::LEAST;
use super::kernels::Kernel;
use super::poorer;
use super::rights;
use super::scenarios::{self, LEAST as LEAST_LAB};

/// A machine without acceleration is twenty times slower than this one, which may have other things to do.
const LIMIT: Duration = Duration::from_secs(3600);
/// The same for one that starts the agent 1,000 times.
const CHURN_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Scenarios of the lab.
struct Scenarios {
    rows: &'static str,
    /// Part of their names.
    name: &'static str,
    /// The agent has the least privileges with which the core facts are seen.
    least: bool,
    /// As many as the lab's full run has of everything.
    full: bool,
    /// So much at once that a machine without acceleration loses signals, which are counted.
    flood: bool,
}

const fn scenarios(rows: &'static str, name: &'static str) -> Scenarios {
    Scenarios {
        rows,
        name,
        least: false,
        full: false,
        flood: false,
    }
}

const CHURN_CONNECTIONS: Scenarios = Scenarios {
    flood: true,
    ..scenarios("19", "churn-connections")
};

const QUICK: &[Scenarios] = &[
    scenarios("1", "unix-backlog-128"),
    scenarios("2", "other-variants"),
    scenarios("4", "on-reused"),
    scenarios("7", ""),
    scenarios("31", "loads"),
];
/// On every kernel: what has to be proven on each, what others see of it, and that no start leaves anything.
const EVERY: &[Scenarios] = &[
    scenarios("1", "unix-backlog-128"),
    scenarios("2", "fin-in-flight"),
    scenarios("4", "on-reused"),
    scenarios("7,25", ""),
    scenarios("31", "loads"),
    Scenarios {
        least: true,
        ..scenarios("4", "older-in-three-namespaces")
    },
    BRIEF_CHURN,
];
/// On the newest kernel besides: the whole list has to fit into half an hour.
const NEWEST: &[Scenarios] = &[scenarios("3,5,8,11", "")];
/// Where all are run, besides both.
const WHOLE: &[Scenarios] = &[
    scenarios("1", "unix-backlog-1024"),
    scenarios("1", "tcp-backlog"),
    scenarios("2", "other-variants"),
    scenarios("4", "older"),
    scenarios("6,26", ""),
    Scenarios {
        least: true,
        ..scenarios("2,7", "")
    },
    Scenarios {
        least: true,
        ..scenarios("4", "death")
    },
    CHURN_CONNECTIONS,
];
/// What any recording needs.
const COSTS: &[Scenarios] = &[scenarios("27", "")];
const BRIEF_CHURN: Scenarios = scenarios("19", "churn-agents");
const CHURN: &[Scenarios] = &[
    CHURN_CONNECTIONS,
    Scenarios {
        full: true,
        ..BRIEF_CHURN
    },
];

/// On other kernels than the oldest and the newest the agent is not started 1,000 times: who names one of
/// them besides is told so.
pub(super) fn only_ends(named: &[String], ends: &[Kernel]) -> Result<()> {
    let series: BTreeSet<_> = ends.iter().map(|kernel| kernel.series.as_str()).collect();
    if let Some(other) = named.iter().find(|name| !series.contains(name.as_str())) {
        let ends: Vec<_> = series.into_iter().collect();
        let ends = ends.join(" or ");
        bail!(
            "--churn is for the oldest kernel and the newest: name {ends} instead of {other}, or none"
        );
    }
    Ok(())
}

/// What one machine is to do.
pub(super) struct Work {
    pub(super) commands: Vec<String>,
    /// The folders that its labs leave; beside each, the list of its scenarios.
    pub(super) labs: Vec<String>,
}

/// What the machines are to do, of all that they can.
#[derive(Clone, Copy, Default)]
pub(super) struct Task<'a> {
    pub(super) quick: bool,
    pub(super) full: bool,
    pub(super) record: bool,
    /// The oldest kernel and the newest, of each kind of machine.
    pub(super) ends: &'a [Kernel],
    /// On both the agent is started 1,000 times.
    pub(super) churn: bool,
}

impl Task<'_> {
    pub(super) fn is_end(self, kernel: &Kernel) -> bool {
        self.ends.iter().any(|one| one.id() == kernel.id())
    }

    fn is_newest(self, kernel: &Kernel) -> bool {
        let mut same = self.ends.iter().filter(|one| one.arch == kernel.arch);
        same.next_back().is_some_and(|one| one.id() == kernel.id())
    }

    fn churns(self, kernel: &Kernel) -> bool {
        self.churn && self.is_end(kernel)
    }

    /// How long the kernel's machine may take.
    pub(super) fn limit(self, kernel: &Kernel) -> Duration {
        match self.churns(kernel) {
            true => CHURN_LIMIT,
            false => LIMIT,
        }
    }

    /// The lab's part of what the kernel's machine is to run.
    fn labs(self, kernel: &Kernel) -> Vec<&'static [Scenarios]> {
        let mut labs = match self.quick {
            true => vec![QUICK],
            false => vec![EVERY],
        };
        if self.full || !self.quick && self.is_newest(kernel) {
            labs.push(NEWEST);
        }
        if self.full {
            labs.push(WHOLE);
        }
        if self.record {
            labs.push(COSTS);
        }
        if self.churns(kernel) {
            labs.push(CHURN);
        }
        labs
    }

    /// What the kernel's machine is to run.
    pub(super) fn work(self, kernel: &Kernel) -> Work {
        let mut names = Vec::new();
        let mut commands = vec![
            "why502 check --json > check.json 2> check.err".to_owned(),
            format!("{LEAST} check --json > least.json 2> least.err"),
        ];
        if self.record {
            commands.push("kernel_offer > offer.json".to_owned());
            commands.extend(rights::commands());
            commands.extend(poorer::commands());
        }
        let labs = self.labs(kernel);
        for (number, scenarios) in labs.into_iter().flatten().enumerate() {
            let mut which = format!("--row {}", scenarios.rows);
            if !scenarios.name.is_empty() {
                which += &format!(" --name {}", scenarios.name);
            }
            let mut lab = format!("lab --no-prometheus {which}");
            if scenarios.full {
                lab += " --full";
            }
            if !kernel.proves() {
                lab += " --unproven";
            }
            if kernel.lossy || scenarios.flood {
                lab += " --lossy";
            }
            let name = match scenarios.least {
                true => format!("{LEAST_LAB}{number}"),
                false => format!("lab-{number}"),
            };
            commands.push(format!("lab --list {which} > {}", scenarios::list(&name)));
            commands.push(match scenarios.least {
                true => rights::least_lab(&lab, &name),
                false => {
                    format!("{lab} --why502 /usr/bin/why502 --out {name} > {name}.txt 2>&1")
                }
            });
            names.push(name);
        }
        Work {
            commands,
            labs: names,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::arch::Arch;
    use super::super::kernels;
    use super::*;

    #[test]
    fn agents_are_started_a_thousand_times_at_the_ends_alone() {
        let kernels = kernels::chosen(&[], Some(Arch::X86_64)).unwrap();
        let ends = kernels::ends(Arch::X86_64).unwrap();
        let task = Task {
            ends: &ends,
            churn: true,
            ..Task::default()
        };
        let often = |kernel: &Kernel| {
            let commands = task.work(kernel).commands;
            let mut churn = commands.iter().filter(|line| line.contains("churn-agents"));
            churn.any(|line| line.contains("--full"))
        };
        let often: Vec<_> = kernels.iter().filter(|kernel| often(kernel)).collect();
        let often: Vec<_> = often.iter().map(|kernel| kernel.id()).collect();
        assert_eq!(often, [ends[0].id(), ends[1].id()]);
        let named = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            only_ends(&names, &ends).map_err(|error| error.to_string())
        };
        assert_eq!(named(&[]), Ok(()));
        assert_eq!(named(&[&ends[1].series, &ends[0].series]), Ok(()));
        let refused = named(&[&ends[0].series, &kernels[1].series]).unwrap_err();
        for words in [&kernels[1].series, &ends[0].series, &ends[1].series] {
            assert!(refused.contains(words), "{refused}");
        }
        // The others start it too, as often as in a run without.
        let every = |kernel: &Kernel| {
            task.work(kernel)
                .commands
                .iter()
                .any(|line| line.contains("churn"))
        };
        assert!(kernels.iter().all(every));
    }

    #[test]
    fn what_every_kernel_has_to_prove_is_run_on_every_kernel() {
        let kernels = kernels::chosen(&[], Some(Arch::X86_64)).unwrap();
        let ends = kernels::ends(Arch::X86_64).unwrap();
        let task = Task {
            ends: &ends,
            ..Task::default()
        };
        let lines = |task: Task<'_>, kernel| task.work(kernel).commands.join("\n");
        for kernel in &kernels {
            let ran = lines(task, kernel);
            // The race, the Unix accept queue, deaths, read timeouts, the oracle, the churn.
            for row in [
                "--row 2 --name fin-in-flight",
                "--row 1 --name unix-backlog-128",
                "--row 4 --name on-reused",
                "--row 7,25 ",
                "--row 19 --name churn-agents",
            ] {
                assert!(ran.contains(row), "{}: {row}: {ran}", kernel.series);
            }
            assert!(ran.contains("why502-least --out"), "{ran}");
            let all = ran.contains("--row 3,5,8,11");
            assert_eq!(all, task.is_newest(kernel), "{}", kernel.series);
            let full = Task { full: true, ..task };
            let whole = lines(full, kernel);
            for row in ["--row 3,5,8,11", "--row 6,26"] {
                assert!(whole.contains(row), "{whole}");
            }
            let record = Task {
                record: true,
                ..task
            };
            let recorded = lines(record, kernel);
            for row in ["--row 27", "kernel_offer"] {
                assert!(recorded.contains(row), "{recorded}");
            }
            for lab in record.work(kernel).labs {
                for written in [format!("> {lab}.list"), format!("> {lab}.txt")] {
                    assert!(recorded.contains(&written), "{written}: {recorded}");
                }
            }
        }
    }
}

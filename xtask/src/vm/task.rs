//! What a machine is to do: the agent's checks, scenarios of the lab, and how long it may take.

use std::time::Duration;

use super::image::LEAST;
use super::kernels::Kernel;
use super::rights;

/// A machine without acceleration is twenty times slower than this one.
const LIMIT: Duration = Duration::from_secs(1200);
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
}

const fn scenarios(rows: &'static str, name: &'static str) -> Scenarios {
    Scenarios {
        rows,
        name,
        least: false,
        full: false,
    }
}

const QUICK: &[Scenarios] = &[
    scenarios("1", "unix-backlog-128"),
    scenarios("2", "other-variants"),
    scenarios("4,7", ""),
];
const ALL: &[Scenarios] = &[
    scenarios("1,2,3,4,5,6,7,8,11,25", ""),
    Scenarios {
        least: true,
        ..scenarios("2,4,7", "")
    },
];
const BRIEF_CHURN: &[Scenarios] = &[scenarios("19", "churn")];
const CHURN: &[Scenarios] = &[
    scenarios("19", "churn-connections"),
    Scenarios {
        full: true,
        ..scenarios("19", "churn-agents")
    },
];

/// What the machines are to do, of all that they can.
#[derive(Clone, Copy, Default)]
pub(super) struct Task<'a> {
    pub(super) quick: bool,
    pub(super) record: bool,
    /// The kernels on which the agent is started 1,000 times.
    pub(super) churn: &'a [Kernel],
}

impl Task<'_> {
    fn churns(self, kernel: &Kernel) -> bool {
        self.churn.iter().any(|one| one.id() == kernel.id())
    }

    /// How long the kernel's machine may take.
    pub(super) fn limit(self, kernel: &Kernel) -> Duration {
        match self.churns(kernel) {
            true => CHURN_LIMIT,
            false => LIMIT,
        }
    }

    /// What the kernel's machine is to run.
    pub(super) fn commands(self, kernel: &Kernel) -> Vec<String> {
        let mut commands = vec![
            "why502 check --json > check.json 2> check.err".to_owned(),
            format!("{LEAST} check --json > least.json 2> least.err"),
        ];
        if self.record {
            commands.push("kernel_offer > offer.json".to_owned());
            commands.extend(rights::commands());
        }
        let labs: &[&[Scenarios]] = match self {
            Task { quick: true, .. } => &[QUICK],
            _ if self.churns(kernel) => &[ALL, CHURN],
            _ => &[ALL, BRIEF_CHURN],
        };
        for (number, scenarios) in labs.iter().copied().flatten().enumerate() {
            let mut lab = format!("lab --no-prometheus --row {}", scenarios.rows);
            if !scenarios.name.is_empty() {
                lab += &format!(" --name {}", scenarios.name);
            }
            if scenarios.full {
                lab += " --full";
            }
            if !kernel.proves() {
                lab += " --unproven";
            }
            if kernel.lossy {
                lab += " --lossy";
            }
            commands.push(match scenarios.least {
                true => rights::least_lab(&lab, &format!("least-{number}")),
                false => {
                    format!(
                        "{lab} --why502 /usr/bin/why502 --out lab-{number} > lab-{number}.txt 2>&1"
                    )
                }
            });
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::super::arch::Arch;
    use super::super::kernels;
    use super::*;

    #[test]
    fn agents_are_started_a_thousand_times_at_the_ends_alone() {
        let kernels = kernels::chosen(&[], Arch::X86_64).unwrap();
        let ends = kernels::ends(Arch::X86_64).unwrap();
        let task = Task {
            churn: &ends,
            ..Task::default()
        };
        let often = |kernel: &Kernel| {
            let commands = task.commands(kernel);
            let mut churn = commands.iter().filter(|line| line.contains("churn-agents"));
            churn.any(|line| line.contains("--full"))
        };
        let often: Vec<_> = kernels.iter().filter(|kernel| often(kernel)).collect();
        let often: Vec<_> = often.iter().map(|kernel| kernel.id()).collect();
        assert_eq!(often, [ends[0].id(), ends[1].id()]);
        // The others start it too, as often as in a run without.
        let every = |kernel: &Kernel| {
            task.commands(kernel)
                .iter()
                .any(|line| line.contains("churn"))
        };
        assert!(kernels.iter().all(every));
    }
}

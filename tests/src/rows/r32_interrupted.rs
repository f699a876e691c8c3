//! Row 32: the lab itself, interrupted in the middle of a fault in every way: nothing that it started or made
//! is there any more.

mod held;
mod remains;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::NGINX;
use crate::process::{self, Proc};
use crate::run::{Need, Run, START, Scenario};
use crate::{container, keeper, wait};
pub use held::{Held, hold};
use remains::{Host, Remains};

/// For everything to be gone.
const GONE: Duration = Duration::from_secs(20);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 32,
        name: "interrupted",
        needs: &[
            NGINX,
            Need::Tun,
            Need::Controller("cpu"),
            Need::Program("iptables"),
            Need::Program("setsid"),
        ],
        run,
    }]
}

/// Who is interrupted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// Whom a person has started.
    Front,
    /// The keeper behind it.
    Keeper,
    /// The lab itself, behind both.
    Lab,
    /// All three at once: the next lab clears what is left.
    All,
}

struct Way {
    name: &'static str,
    signal: i32,
    whom: Whom,
    /// With an agent and a container, if there are any to be had.
    with_all: bool,
}

const fn way(name: &'static str, signal: i32, whom: Whom, with_all: bool) -> Way {
    Way {
        name,
        signal,
        whom,
        with_all,
    }
}

const WAYS: [Way; 7] = [
    way("SIGINT", libc::SIGINT, Whom::Front, true),
    way("SIGTERM", libc::SIGTERM, Whom::Front, false),
    way("SIGHUP", libc::SIGHUP, Whom::Front, false),
    way("SIGKILL", libc::SIGKILL, Whom::Front, true),
    way("SIGKILL of the keeper", libc::SIGKILL, Whom::Keeper, false),
    way("SIGKILL of the lab", libc::SIGKILL, Whom::Lab, false),
    way("SIGKILL of all", libc::SIGKILL, Whom::All, true),
];

fn run(run: &mut Run) -> Result<()> {
    let before = Host::now()?;
    let lacking = container::unusable();
    if let Some(why) = &lacking {
        run.note(format!("without a container: {why}"));
    }
    let mut under_way = Vec::new();
    for (number, way) in WAYS.iter().enumerate() {
        under_way.push(Lab::start(run, way, number, lacking.is_none())?);
    }
    for lab in &mut under_way {
        lab.wait_held()?;
    }
    // What the last one leaves, any other lab that ends would clear.
    let (last, first): (Vec<Lab>, Vec<Lab>) =
        (under_way.into_iter()).partition(|lab| lab.way.whom == Whom::All);
    for labs in [first, last] {
        for lab in &labs {
            lab.interrupt().with_context(|| lab.way.name)?;
        }
        for lab in labs {
            let name = lab.way.name;
            for left in lab.left().context(name)? {
                run.problem(format!("after {name}: {left}"));
            }
        }
    }
    for left in Host::now()?.differ(&before) {
        run.problem(left);
    }
    Ok(())
}

/// One of the labs that are interrupted.
struct Lab {
    way: &'static Way,
    log: PathBuf,
    front: Proc,
    contained: bool,
    watched: bool,
    remains: Remains,
}

impl Lab {
    fn start(run: &Run, way: &'static Way, number: usize, containers: bool) -> Result<Lab> {
        let mut lab = Command::new(std::env::current_exe()?);
        lab.arg("--out").arg(run.out.join(number.to_string()));
        let watched = way.with_all && run.options.why502.is_some();
        if let Some(why502) = run.options.why502.as_deref().filter(|_| watched) {
            lab.arg("--why502").arg(why502);
        }
        let contained = way.with_all && containers;
        lab.arg("held");
        lab.args(watched.then_some("--watched"));
        lab.args(contained.then_some("--contained"));
        let log = run.folder.join(format!("held-{number}.log"));
        Ok(Lab {
            way,
            front: Proc::spawn(way.name, lab, &log)?,
            log,
            contained,
            watched,
            remains: Remains::default(),
        })
    }

    /// Waits until a request has met the fault, and looks at what there is then.
    fn wait_held(&mut self) -> Result<()> {
        let said = |log: &Path| -> Option<(u32, PathBuf)> {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let line = text.lines().find_map(|line| {
                let rest = line.strip_prefix(held::SAID)?;
                rest.strip_prefix(' ')?.split_once(' ')
            });
            let (pid, folder) = line?;
            Some((pid.parse().ok()?, folder.into()))
        };
        self.front
            .wait_ready("a fault", START, || said(&self.log).is_some())?;
        let (lab, folder) = said(&self.log).context("no fault")?;
        self.remains = Remains::of(self.front.pid(), lab, &folder)?;
        // What is not there now would not be missed.
        let mut wanted = vec!["nginx", "sleep", "lab"];
        wanted.extend(self.watched.then_some("why502"));
        wanted.extend(self.contained.then_some("conmon"));
        self.remains.hold(&wanted)
    }

    fn interrupt(&self) -> Result<()> {
        let front = self.front.pid();
        let lab = self.remains.lab;
        let keeper = keeper::parent(lab).context("the lab has no parent")?;
        let whom = match self.way.whom {
            Whom::Front => vec![front],
            Whom::Keeper => vec![keeper],
            Whom::Lab => vec![lab],
            Whom::All => vec![keeper, lab, front],
        };
        if self.way.whom == Whom::All {
            // None may do anything when it is told of another's end.
            whom.iter()
                .for_each(|pid| process::kill(*pid, libc::SIGSTOP));
            wait::until("a stop", START, || {
                whom.iter().all(|pid| process::state(*pid) == Some('T'))
            })?;
        }
        whom.iter()
            .for_each(|pid| process::kill(*pid, self.way.signal));
        // Those that are killed hold the folder until the last of their threads is gone.
        let is_gone = |pid: &u32| {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
            let ended = matches!(process::state(*pid), None | Some('Z'));
            ended && tasks.map_or(true, |tasks| tasks.count() <= 1)
        };
        let wanted = self.way.whom == Whom::All;
        wait::until("the end of all three", GONE, || {
            !wanted || whom.iter().all(is_gone)
        })
    }

    /// What there is still of it.
    fn left(mut self) -> Result<Vec<String>> {
        let status = self.front.wait_exit(GONE)?;
        let wanted = match self.way.whom {
            Whom::Front if self.way.signal != libc::SIGKILL => Some(128 + self.way.signal),
            Whom::Lab | Whom::Keeper => Some(128 + libc::SIGKILL),
            Whom::Front | Whom::All => None,
        };
        ensure!(status.code() == wanted, "{status}, not {wanted:?}");
        if self.way.whom == Whom::All {
            if self.remains.left()?.is_empty() {
                bail!("nothing was left for the next lab: this is no test of it");
            }
            keeper::former();
        }
        let mut left = Vec::new();
        let _ = wait::until("the end of all that it made", GONE, || {
            left = self
                .remains
                .left()
                .unwrap_or_else(|error| vec![format!("{error:#}")]);
            left.is_empty()
        });
        Ok(left)
    }
}

//! `worker_oom_killed`, `worker_timeout_killed`, `upstream_shutdown`, `worker_killed`, `worker_crashed`:
//! the process that held the request died.
//!
//! Needs: who held the connection, and its exit around the close: within 250 ms, or later where it
//! must come. gunicorn's timeout closes 0.2 ms after the arbiter's SIGABRT and exits 38 ms later with
//! status 1 and no signal; one that is told to quit exits some 340 ms after its close. So the exit
//! alone tells little: the signals sent before decide, in this order: the kernel's OOM
//! mark; its supervisor's ABRT or KILL, if nobody had told that one to stop; a fault of its own;
//! QUIT, TERM, INT or HUP to it or its parent within the graceful time; another's KILL; else it
//! ended by itself. That nobody sent a signal is only known where signals are seen at all.

use crate::cause::{Cause, Variant};
use crate::signal::{Nanos, ProcessExit, SignalSent, Software};
use crate::track::host::{Host, MILLISECOND, Past, SECOND};

use super::finding::Finding;
use super::known::{Known, Read};
use super::text;

const EXIT_WITHIN: Nanos = 250 * MILLISECOND;
/// A killed process has to get a CPU to die: on a crowded host that takes longer.
const DYING: Nanos = 2 * SECOND;
/// Servers that obey an order to stop tidy up between closing their connections and their exit.
const LEAVING: Nanos = SECOND;
/// An exit closes what is open; a program that goes may have done so itself just before: gunicorn 38 ms.
const TIDYING: Nanos = 50 * MILLISECOND;
const GRACEFUL: Nanos = 35 * SECOND;
/// Services may be given longer (uWSGI's `worker-reload-mercy` is 60 s): whose end falls into this
/// time may have been told to stop, or ran into a limit.
const MERCIFUL: Nanos = 170 * SECOND;
/// A supervisor's KILL or ABRT takes effect at once, or as soon as the kernel lets go of the process.
const KILL_WITHIN: Nanos = 5 * SECOND;

const HUP: u8 = 1;
const INT: u8 = 2;
const QUIT: u8 = 3;
const ABRT: u8 = 6;
const KILL: u8 = 9;
const USR2: u8 = 12;
const ALRM: u8 = 14;
const TERM: u8 = 15;

const NO_SENDER: &str = "signal_sent: signals between processes are not seen here";
const NO_EXIT: &str = "process_exited: the process's exit was not seen";

pub(super) fn asks_to_stop(signal: u8) -> bool {
    [HUP, INT, QUIT, TERM].contains(&signal)
}

fn ends_at_once(signal: u8) -> bool {
    matches!(signal, ABRT | KILL)
}

/// Whether it stops when it is told to.
fn obeys(host: &Host, pid: u32) -> bool {
    matches!(
        host.process(pid).map(|p| p.software),
        Some(Software::Gunicorn | Software::Uwsgi | Software::Nginx)
    )
}

/// Signals that a process's own fault raises.
fn fault(signal: u8) -> bool {
    matches!(signal, 4 | 5 | 6 | 7 | 8 | 11 | 31)
}

pub(super) fn diagnose(known: &Known<'_>) -> Option<Finding> {
    if let Some(pid) = known.holder() {
        let closer = || {
            known
                .peer_close()
                .map(|c| c.pid)
                .filter(|closer| *closer != pid)
        };
        return of(known, pid).or_else(|| of(known, closer()?));
    }
    only_child_that_died(known)
}

/// Why this process died around the close, if it did not just end: one that has served its share of
/// requests exits with status 0.
pub(super) fn of_its_own(known: &Known<'_>, pid: u32) -> Option<Cause> {
    let death = Death::new(known, pid);
    let clean = death
        .exit
        .is_some_and(|e| (e.fact.signal, e.fact.status) == (0, 0));
    let finding = death.cause(known)?;
    (!clean || finding.cause != Cause::WorkerCrashed).then_some(finding.cause)
}

/// How this process died around the close, if it did.
pub(super) fn of(known: &Known<'_>, pid: u32) -> Option<Finding> {
    let death = Death::new(known, pid);
    let finding = death.cause(known)?;
    let finding = match death.exit {
        Some(exit) => finding.fact(
            exit,
            "process_exited",
            describe_exit(known.host(), &exit.fact),
        ),
        None => finding,
    };
    // Whoever told it to stop may have done so long before.
    let lost = known
        .host()
        .sent_lost_since(death.closed.saturating_sub(GRACEFUL));
    let finding = if lost > 0 {
        finding.at_most_likely(format!("signals: {lost} were lost in the time before"))
    } else {
        finding
    };
    let own_death = finding.cause == Cause::WorkerCrashed;
    Some(if own_death && known.read() != Read::Yes {
        finding.at_most_likely("upstream_read: that this process had read the request")
    } else {
        finding
    })
}

/// Who held the request is not seen, but exactly one process of this upstream died then.
fn only_child_that_died(known: &Known<'_>) -> Option<Finding> {
    let listener = known.host().listener(known.attempt())?.fact.pid;
    let at = known.closed_at();
    let mut exits = known
        .host()
        .exits_between(at.saturating_sub(EXIT_WITHIN), at + EXIT_WITHIN)
        .filter(|e| e.fact.pid == listener || e.fact.parent == listener);
    let (Some(one), None) = (exits.next(), exits.next()) else {
        return None;
    };
    let finding = of(known, one.fact.pid)?;
    Some(finding.at_most_likely("upstream_read: which process had read the request is not seen"))
}

struct Death<'a> {
    pid: u32,
    closed: Nanos,
    exit: Option<&'a Past<ProcessExit>>,
    /// It was sent a signal that ends it, or was told to stop a moment ago and obeys: its exit must come
    /// within this time.
    doomed: Option<Nanos>,
    /// To the process, up to its close.
    signals: Vec<&'a Past<SignalSent>>,
    /// To its parent, as far as they concern this process.
    to_parent: Vec<&'a Past<SignalSent>>,
    /// Long before, it or its parent was told to stop or to begin anew.
    told_long_before: bool,
    until: Nanos,
}

impl<'a> Death<'a> {
    fn new(known: &Known<'a>, pid: u32) -> Self {
        let host = known.host();
        let closed = known.closed_at();
        // What was sent after the close did not make it.
        let sent_until = closed + MILLISECOND;
        let from = closed.saturating_sub(GRACEFUL);
        let signals = host.signals_to(pid, from, sent_until);
        let killed = signals
            .iter()
            .any(|s| ends_at_once(s.fact.signal) && s.at + KILL_WITHIN >= closed);
        // A worker started after the reload is not the one that the reload replaced.
        let started = host.process(pid).map_or(0, |p| p.started);
        let parent = host.parent_of(pid);
        let to_parent = parent.map_or_else(Vec::new, |parent| {
            host.signals_to(parent, from.max(started), sent_until)
        });
        // One that was told long ago finishes what it has, and may close this for another reason.
        let mut told = signals.iter().chain(&to_parent);
        let told = told.any(|s| asks_to_stop(s.fact.signal) && s.at + LEAVING >= closed);
        let doomed = match (killed, told && obeys(host, pid)) {
            (true, _) => Some(DYING),
            (_, true) => Some(LEAVING),
            _ => None,
        };
        let exit = host.exit_near(pid, closed, doomed.unwrap_or(EXIT_WITHIN));
        let until = exit.map_or(closed, |e| e.at.max(closed));
        let mut long_before = [Some(pid), parent].into_iter().flatten().flat_map(|pid| {
            let since = closed.saturating_sub(MERCIFUL).max(started);
            host.signals_to(pid, since, from)
        });
        let told_long_before =
            long_before.any(|s| asks_to_stop(s.fact.signal) || s.fact.signal == USR2);
        Self {
            pid,
            closed,
            exit,
            doomed,
            signals,
            to_parent,
            told_long_before,
            until,
        }
    }

    fn cause(&self, known: &Known<'_>) -> Option<Finding> {
        let host = known.host();
        self.oom_killed(host)
            .or_else(|| self.timeout_killed(host))
            .or_else(|| self.faulted())
            .or_else(|| self.shut_down(host))
            .or_else(|| self.killed(host))
            .or_else(|| self.ended(host))
    }

    /// Proven once the exit is there too.
    fn with_exit(&self, cause: Cause) -> Finding {
        Finding {
            awaits_exit: self.doomed.filter(|_| self.exit.is_none()),
            ..Finding::proven_if(self.exit.is_some(), cause, NO_EXIT)
        }
    }

    fn oom_killed(&self, host: &Host) -> Option<Finding> {
        let mark = host.oom_kill_of(
            self.pid,
            self.closed.saturating_sub(KILL_WITHIN),
            self.until,
        )?;
        if self.exit.is_some_and(|e| e.fact.signal != KILL) {
            return None;
        }
        let text = format!("the kernel killed process {} for memory", self.pid);
        Some(
            self.with_exit(Cause::WorkerOomKilled)
                .fact(mark, "oom_killed", text),
        )
    }

    fn timeout_killed(&self, host: &Host) -> Option<Finding> {
        let software = |pid| host.process(pid).map(|p| p.software);
        let own = software(self.pid);
        let recent = || self.recent().filter(|s| !s.fact.by_kernel);
        let parent = |s: &&&Past<SignalSent>| s.fact.from == s.fact.to_parent && s.fact.from != 0;
        // php-fpm's reload.
        let stops =
            |signal| asks_to_stop(signal) || (signal == USR2 && own == Some(Software::PhpFpm));
        let told_before = |at| {
            self.to_parent
                .iter()
                .any(|s| stops(s.fact.signal) && s.at <= at)
        };
        let asked_before = |at| {
            self.signals
                .iter()
                .any(|s| asks_to_stop(s.fact.signal) && s.at < at)
        };
        let by_parent = recent().filter(parent).find(|s| match s.fact.signal {
            ABRT => !told_before(s.at),
            KILL => !told_before(s.at) && !asked_before(s.at),
            TERM => own == Some(Software::PhpFpm) && !told_before(s.at) && !asked_before(s.at),
            _ => false,
        });
        if let Some(sent) = by_parent {
            let supervisor = software(sent.fact.from);
            let finding = match (own, supervisor) {
                (Some(own), Some(supervisor)) if own == supervisor && own.supervises() => {
                    self.with_exit(Cause::WorkerTimeoutKilled)
                }
                (Some(Software::Other), Some(supervisor)) if supervisor.supervises() => {
                    Finding::likely(
                        Cause::WorkerTimeoutKilled,
                        "worker: whether it is one of its supervisor's workers",
                    )
                }
                // A shell, a test or an operator that started it: it killed its child, no timer did.
                (Some(_), Some(_)) => return None,
                (Some(own), None) if !own.supervises() => return None,
                _ => Finding::likely(
                    Cause::WorkerTimeoutKilled,
                    "supervisor: what software the sender is",
                ),
            };
            let finding = finding.fact(sent, "signal_sent", describe_signal(&sent.fact));
            return Some(if self.told_long_before {
                finding.at_most_likely(
                    "stop_order: whether the order to stop or reload before it was still at work",
                )
            } else {
                finding
            });
        }
        // uWSGI without a master process sets itself an alarm.
        let alarm = self
            .recent()
            .find(|s| s.fact.signal == ALRM && s.fact.by_kernel)?;
        (own == Some(Software::Uwsgi)).then(|| {
            let text = format!("the harakiri alarm of process {} rang", self.pid);
            self.with_exit(Cause::WorkerTimeoutKilled)
                .fact(alarm, "signal_sent", text)
        })
    }

    fn faulted(&self) -> Option<Finding> {
        let exit = self.exit?;
        let sent = self.recent().find(|s| {
            s.fact.signal == exit.fact.signal
                && s.fact.signal != KILL
                && !asks_to_stop(s.fact.signal)
                && (s.fact.by_kernel || s.fact.from == self.pid)
        })?;
        Some(
            Finding::proven(Cause::WorkerCrashed)
                .variant(Variant::Signal)
                .fact(sent, "signal_sent", describe_signal(&sent.fact)),
        )
    }

    fn shut_down(&self, host: &Host) -> Option<Finding> {
        let stop = |s: &&&Past<SignalSent>| asks_to_stop(s.fact.signal);
        let to_parent = self.to_parent.iter().find(stop);
        let to_itself = self.signals.iter().find(stop);
        let told = to_parent.or(to_itself)?;
        // A fault during a graceful stop is still a fault.
        if self
            .exit
            .is_some_and(|e| fault(e.fact.signal) && e.fact.signal != told.fact.signal)
        {
            return None;
        }
        let mut finding = self.with_exit(Cause::UpstreamShutdown);
        let died_of_it = self.exit.is_some_and(|e| e.fact.signal == told.fact.signal);
        // Its own exit status other than 0, long after it was told, may be its own fault.
        let stopped = self
            .exit
            .is_none_or(|e| e.fact.signal != 0 || e.fact.status == 0);
        let at_once = self.closed.saturating_sub(told.at) < SECOND;
        if !died_of_it && !(obeys(host, self.pid) && (stopped || at_once)) {
            finding = finding.at_most_likely(
                "signal_handled: whether the process ended for the signal or by itself",
            );
        }
        if to_itself.is_none() && host.process(self.pid).is_none() {
            finding = finding
                .at_most_likely("process_seen: when this worker was started, before or after it");
        }
        Some(finding.fact(told, "signal_sent", describe_signal(&told.fact)))
    }

    fn killed(&self, host: &Host) -> Option<Finding> {
        let sent = self.recent().find(|s| match self.exit {
            Some(exit) => s.fact.signal == exit.fact.signal && exit.fact.signal != 0,
            None => s.fact.signal == KILL,
        });
        let exited_by_kill = self.exit.is_some_and(|e| e.fact.signal == KILL);
        let Some(sent) = sent else {
            return exited_by_kill
                .then(|| Finding::likely(Cause::WorkerKilled, NO_SENDER).settled());
        };
        if sent.fact.by_kernel {
            // Without the mark: the OOM killer's doing, or a dying namespace's.
            let missing = if host.sees("oom_killed") {
                "oom_killed: no mark was seen for this process"
            } else {
                "oom_killed: the OOM killer's marks are not seen here"
            };
            return (sent.fact.signal == KILL)
                .then(|| Finding::likely(Cause::WorkerOomKilled, missing));
        }
        (sent.fact.from != self.pid).then(|| {
            self.with_exit(Cause::WorkerKilled).fact(
                sent,
                "signal_sent",
                describe_signal(&sent.fact),
            )
        })
    }

    /// Nothing but the exit is known.
    fn ended(&self, host: &Host) -> Option<Finding> {
        let exit = self.exit?;
        let finding = if exit.fact.signal != 0 {
            // Where signals are seen, this one's absence is odd: it does not prove a fault.
            let missing = if host.sees("signal_sent") {
                "signal_sent: who sent the signal was not seen"
            } else {
                NO_SENDER
            };
            Finding::likely(Cause::WorkerCrashed, missing).variant(Variant::Signal)
        } else {
            let finding =
                Finding::proven_if(host.sees("signal_sent"), Cause::WorkerCrashed, NO_SENDER)
                    .variant(Variant::Exit);
            match exit.at > self.closed + TIDYING {
                true => finding.at_most_likely(
                    "upstream_closed: whether it closed this because it was to exit",
                ),
                false => finding,
            }
        };
        Some(finding.settled())
    }

    fn recent(&self) -> impl DoubleEndedIterator<Item = &&'a Past<SignalSent>> {
        let from = self.closed.saturating_sub(KILL_WITHIN);
        self.signals.iter().filter(move |s| s.at >= from)
    }
}

pub(super) fn describe_signal(sent: &SignalSent) -> String {
    let signal = text::signal(sent.signal);
    if sent.by_kernel {
        return format!("{signal} to process {}, made by the kernel", sent.to);
    }
    if sent.from == sent.to {
        return format!("{signal} by process {} to itself", sent.to);
    }
    let parent = if sent.from == sent.to_parent {
        ", its parent"
    } else {
        ""
    };
    let name = text::clean(&sent.from_name);
    format!(
        "{signal} to process {} from {name} (process {}{parent})",
        sent.to, sent.from
    )
}

fn describe_exit(host: &Host, exit: &ProcessExit) -> String {
    let name = host
        .process(exit.pid)
        .map_or_else(String::new, |p| format!("{} ", text::clean(&p.name)));
    match exit.signal {
        0 => format!(
            "{name}process {} exited with status {}",
            exit.pid, exit.status
        ),
        signal => format!(
            "{name}process {} ended by {}",
            exit.pid,
            text::signal(signal)
        ),
    }
}

//! What a process was doing while the proxy waited: from thread samples to the variant.

use crate::cause::Variant;
use crate::signal::{Nanos, ProcessSample, ThreadAtEnd};
use crate::track::host::{MILLISECOND, Past};

use super::known::Known;

/// Threads are sampled at the attempt's end too; that sample comes this much later at most.
const SAMPLED_AT_THE_END: Nanos = 50 * MILLISECOND;
/// How late it may be where the kernel half did not see the thread itself at the end.
const PROMPT: Nanos = 5 * MILLISECOND;

/// The samples that show what the thread did between reading the request and the attempt's end.
pub(super) fn samples<'a>(known: &Known<'a>) -> Vec<&'a Past<ProcessSample>> {
    let from = known.reader().map_or(known.attempt().began, |r| r.at);
    let end = known.tried.at;
    let fits = |s: &&Past<ProcessSample>| s.at >= from && (s.at <= end || still(known, s));
    known
        .host()
        .samples(known.attempt().flow)
        .filter(fits)
        .collect()
}

/// Whether a sample taken after the attempt's end shows the thread as it was at the end: in the same
/// state and, unless it runs, without having run since.
fn still(known: &Known<'_>, sample: &Past<ProcessSample>) -> bool {
    let late = sample.at.saturating_sub(known.tried.at);
    let thread = &sample.fact.thread;
    match at_end(known) {
        None => late <= PROMPT,
        Some(end) => {
            late <= SAMPLED_AT_THE_END
                && end.state == thread.state
                && (end.state == 'R' || end.cpu_ns == thread.cpu_ns)
        }
    }
}

fn at_end(known: &Known<'_>) -> Option<ThreadAtEnd> {
    known.reader().and_then(|reader| reader.at_end)
}

/// The variant that most of the waiting time shows, the last sample deciding a tie.
pub(super) fn variant(known: &Known<'_>) -> Option<Variant> {
    if at_end(known).is_some_and(|end| matches!(end.state, 'T' | 't')) {
        return Some(Variant::Stopped);
    }
    of_samples(&samples(known))
}

fn of_samples(samples: &[&Past<ProcessSample>]) -> Option<Variant> {
    let last = samples.last()?;
    // These two stop everything else, whatever the thread was in.
    if last.fact.frozen {
        return Some(Variant::Frozen);
    }
    if matches!(last.fact.thread.state, 'T' | 't') {
        return Some(Variant::Stopped);
    }
    if throttled(samples) {
        return Some(Variant::CpuThrottled);
    }
    let before = |i: usize| samples.get(i.checked_sub(1)?).copied();
    let each: Vec<Option<Variant>> = samples
        .iter()
        .enumerate()
        // The first cannot tell running from waiting for a CPU: the next one tells of both.
        .filter(|(i, s)| *i > 0 || s.fact.thread.state != 'R')
        .map(|(i, sample)| doing(before(i), sample))
        .map(|variant| variant.filter(|one| is_sure(*one, samples)))
        .collect();
    let count = |variant: Option<Variant>| each.iter().filter(|v| **v == variant).count();
    each.iter()
        .copied()
        .max_by_key(|variant| count(*variant))
        .flatten()
}

/// Whether no control group that cannot be read can have made it look so: a throttled thread waits as if
/// for a CPU, a frozen one in whatever it was.
fn is_sure(variant: Variant, samples: &[&Past<ProcessSample>]) -> bool {
    let any = |unseen: fn(&ProcessSample) -> bool| samples.iter().any(|s| unseen(&s.fact));
    match variant {
        Variant::Runnable => !any(|s| s.throttling_unseen),
        Variant::Running | Variant::Stopped => true,
        _ => !any(|s| s.freezing_unseen),
    }
}

/// What one sample shows; a running thread needs the sample before to tell running from waiting for a CPU.
fn doing(before: Option<&Past<ProcessSample>>, sample: &Past<ProcessSample>) -> Option<Variant> {
    let thread = &sample.fact.thread;
    match thread.state {
        'R' => {
            let earlier = before?;
            let before = &earlier.fact.thread;
            let cpu = thread.cpu_ns.saturating_sub(before.cpu_ns);
            let wait = thread.wait_ns.saturating_sub(before.wait_ns);
            let between = sample.at.saturating_sub(earlier.at);
            if matches!(before.state, 'S' | 'I') && cpu.saturating_add(wait) < between / 2 {
                // Awake at this moment only: an event loop told of another request that was given up.
                return sleeping_in(&earlier.fact);
            }
            // Neither ran nor waited: the kernel does not tell, or not yet.
            if cpu == 0 && wait == 0 {
                return None;
            }
            Some(if wait > cpu {
                Variant::Runnable
            } else {
                Variant::Running
            })
        }
        'D' => Some(Variant::BlockedIo),
        'T' | 't' => Some(Variant::Stopped),
        'S' | 'I' => sleeping_in(&sample.fact),
        _ => None,
    }
}

fn sleeping_in(sample: &ProcessSample) -> Option<Variant> {
    if sample.thread.socket_peer.is_some() {
        return Some(Variant::WaitingOnSocket);
    }
    match sample.thread.syscall.as_deref()? {
        call if call.ends_with("(socket)") => Some(Variant::WaitingOnSocket),
        call if call.ends_with("(nothing)") => Some(Variant::Sleeping),
        "recvfrom" | "recvmsg" | "recvmmsg" | "sendto" | "sendmsg" | "connect" => {
            Some(Variant::WaitingOnSocket)
        }
        "futex" | "futex_waitv" | "flock" | "fcntl" | "semop" | "semtimedop" => {
            Some(Variant::WaitingOnLock)
        }
        "clock_nanosleep" | "nanosleep" | "pause" => Some(Variant::Sleeping),
        // An event loop without work, a pipe, a child: the list has no word for it.
        _ => None,
    }
}

/// The cgroup's quota held its threads for a good part of the time, and the thread wanted to run.
fn throttled(samples: &[&Past<ProcessSample>]) -> bool {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return false;
    };
    let throttled: u64 = samples
        .iter()
        .filter_map(|s| s.fact.throttled_us)
        .sum::<u64>()
        .saturating_mul(1000);
    let wanted_to_run = samples
        .iter()
        .filter(|s| s.fact.thread.state == 'R')
        .count()
        * 2;
    let span = last.at.saturating_sub(first.at).max(100 * MILLISECOND);
    wanted_to_run >= samples.len() && throttled * 4 >= span
}

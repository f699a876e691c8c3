//! The capabilities that this program has use for: which it was given, and giving them up, thread by
//! thread, when what needed them is done.

use std::collections::BTreeSet;

use caps::{CapSet, Capability, CapsHashSet};

/// Of a thread's capabilities, as `check` and recordings name them: `CAP_BPF`.
pub type Held = BTreeSet<String>;

/// Loads and attaches probes.
pub const PROBES: &[Capability] = &[Capability::CAP_BPF, Capability::CAP_PERFMON];
/// Who other users' processes are, what they wait for and which files they have open.
pub const PROCESSES: &[Capability] = &[Capability::CAP_SYS_PTRACE];
/// Other users' logs and configurations, and tracefs.
pub const FILES: &[Capability] = &[Capability::CAP_DAC_READ_SEARCH];
/// Puts uprobes into libraries that proxies have loaded, wherever these came from (`map_files`).
pub const UPROBES: &[Capability] = &[Capability::CAP_SYS_ADMIN];
/// Captures packets.
pub const PACKETS: &[Capability] = &[Capability::CAP_NET_RAW];
/// Enters other processes' network namespaces.
pub const NAMESPACES: &[Capability] = &[Capability::CAP_SYS_ADMIN];

/// Before it, every bpf() call needs CAP_BPF, however harmless, where unprivileged BPF is disabled.
const CALLS_NEED_NO_RIGHT: (u32, u32) = (5, 19);

/// What this thread may do.
pub fn held() -> Held {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    held.iter().map(Capability::to_string).collect()
}

/// Whether these rights are among those held, or implied by them.
pub fn has(held: &Held, wanted: &[Capability]) -> bool {
    lacking(held, wanted).is_empty()
}

/// Those that are neither held nor implied.
pub fn lacking(held: &Held, wanted: &[Capability]) -> Vec<Capability> {
    let has = |one: &Capability| held.contains(&one.to_string());
    let implied = |one: &Capability| match one {
        Capability::CAP_BPF | Capability::CAP_PERFMON => has(&Capability::CAP_SYS_ADMIN),
        Capability::CAP_DAC_READ_SEARCH => has(&Capability::CAP_DAC_OVERRIDE),
        _ => false,
    };
    let lacking = wanted.iter().filter(|one| !has(one) && !implied(one));
    lacking.copied().collect()
}

/// What the kernel source needs when its probes are attached: the rest is for what it finds in `/proc`
/// of processes that come later, and for their libraries where these are probed.
pub fn of_kernel_source(version: (u32, u32), uprobes: bool) -> Vec<Capability> {
    let mut keep = [PROCESSES, FILES].concat();
    if uprobes {
        keep.extend(UPROBES);
    }
    if version < CALLS_NEED_NO_RIGHT {
        keep.push(Capability::CAP_BPF);
    }
    keep
}

/// What captures need that begin later, in namespaces of proxies that start later.
pub fn of_packet_source() -> Vec<Capability> {
    [PACKETS, NAMESPACES, PROCESSES].concat()
}

/// What following logs needs: they are rotated, and found when proxies start.
pub fn of_log_source() -> Vec<Capability> {
    [PROCESSES, FILES].concat()
}

/// Takes all but these from the calling thread, for good, and from threads that it will start.
///
/// What cannot be given up stays: nothing depends on it.
pub fn keep(wanted: &[Capability]) {
    let has = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let mut kept: CapsHashSet = wanted
        .iter()
        .copied()
        .filter(|one| has.contains(one))
        .collect();
    // Containers are given the one that implies the other.
    for (implied, by) in [
        (Capability::CAP_BPF, Capability::CAP_SYS_ADMIN),
        (
            Capability::CAP_DAC_READ_SEARCH,
            Capability::CAP_DAC_OVERRIDE,
        ),
    ] {
        if wanted.contains(&implied) && !has.contains(&implied) && has.contains(&by) {
            kept.insert(by);
        }
    }
    // The permitted ones last: the effective ones must be among them.
    for set in [CapSet::Effective, CapSet::Permitted] {
        let _ = caps::set(None, set, &kept);
    }
    let _ = caps::clear(None, CapSet::Inheritable);
    // SAFETY: takes flags alone. Nothing is started that could regain what was given up.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Held {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_another_right_implies_is_not_lacking() {
        assert!(has(&names(&["CAP_BPF", "CAP_PERFMON"]), PROBES));
        assert!(has(&names(&["CAP_SYS_ADMIN"]), PROBES));
        assert!(has(&names(&["CAP_DAC_OVERRIDE"]), FILES));
        let less = names(&["CAP_BPF", "CAP_DAC_OVERRIDE"]);
        assert_eq!(lacking(&less, PROBES), [Capability::CAP_PERFMON]);
        assert_eq!(lacking(&less, PROCESSES), PROCESSES);
    }

    #[test]
    fn a_thread_gives_up_all_but_what_it_keeps_and_others_nothing() {
        let before = held();
        let after = std::thread::spawn(|| {
            keep(&[Capability::CAP_NET_RAW]);
            held()
        });
        let mut wanted = names(&["CAP_NET_RAW"]);
        wanted.retain(|name| before.contains(name));
        assert_eq!(after.join().unwrap(), wanted);
        assert_eq!(held(), before);
    }

    #[test]
    fn old_kernels_want_their_right_to_call_kept() {
        assert!(of_kernel_source((5, 18), false).contains(&Capability::CAP_BPF));
        assert!(!of_kernel_source((5, 19), false).contains(&Capability::CAP_BPF));
        for version in [(5, 10), (7, 3)] {
            assert!(!of_kernel_source(version, true).contains(&Capability::CAP_PERFMON));
            for right in UPROBES {
                assert!(!of_kernel_source(version, false).contains(right));
                assert!(of_kernel_source(version, true).contains(right));
            }
        }
    }
}

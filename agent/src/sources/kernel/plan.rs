//! Which hooks to try for each fact, in which order, and why not the others. Pure.

use super::hooks::{self, Hook, Kind, LADDERS, Ladder, Rung};
use super::offer::Offer;

/// Kernels that a hook is known to bring down: it is not tried there, others are.
pub struct Harm {
    pub kinds: &'static [Kind],
    /// Kernels before this one,
    pub before: (u32, u32),
    /// unless they have the function that came with the repair.
    pub repaired_by: &'static str,
    pub why: &'static str,
}

pub const HARM: &[Harm] = &[Harm {
    kinds: &[Kind::FunctionEntry, Kind::FunctionExit],
    before: (5, 12),
    repaired_by: "__bpf_tramp_image_put_rcu",
    why: "attaching and detaching fentry and fexit programs can crash this kernel (repaired in Linux 5.12 and \
          later 5.10s by commit e21d2b92354b)",
}];

/// What to try for one fact.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    pub ladder: &'static Ladder,
    /// Rungs to try, in this order.
    pub offered: Vec<&'static Rung>,
    /// Rungs that this host does not offer, each with the reason.
    pub refused: Vec<(&'static Rung, String)>,
}

/// One step for each fact.
pub fn plan(offer: &Offer) -> Vec<Step> {
    LADDERS.iter().map(|ladder| step(ladder, offer)).collect()
}

fn step(ladder: &'static Ladder, offer: &Offer) -> Step {
    let mut step = Step {
        ladder,
        offered: Vec::new(),
        refused: Vec::new(),
    };
    for rung in ladder.rungs_on(&offer.machine) {
        match rung.iter().find_map(|hook| lacking(hook, offer)) {
            Some(why) => step.refused.push((rung, why)),
            None => step.offered.push(rung),
        }
    }
    step
}

/// Whether sends or receives are seen without types, so that their programs can have no cookie made.
pub fn untyped<'a>(mut seen: impl Iterator<Item = (&'static Ladder, &'a Rung)>) -> bool {
    seen.any(|(ladder, rung)| {
        ["reads", "writes"].contains(&ladder.fact)
            && rung.iter().any(|hook| hook.name == hooks::UNTYPED)
    })
}

/// What is expected of `untyped`, where all loads that is offered.
pub fn expects_untyped(steps: &[Step]) -> bool {
    untyped(
        steps
            .iter()
            .filter_map(|step| Some((step.ladder, *step.offered.first()?))),
    )
}

/// From which kernel on arm64 has trampolines, which fentry and fexit go by.
const ARM64_TRAMPOLINES: (u32, u32) = (6, 4);

/// Why this host cannot have the hook; `None` if it is worth trying.
fn lacking(hook: &Hook, offer: &Offer) -> Option<String> {
    let Hook { name, since, .. } = hook;
    for harm in HARM.iter().filter(|harm| harm.kinds.contains(&hook.kind)) {
        if offer.version() < harm.before && !offer.btf.contains(harm.repaired_by) {
            return Some(harm.why.to_owned());
        }
    }
    let no_reason = *name == "kfree_skb" && offer.kfree_skb_arguments < 3;
    match hook.kind {
        Kind::FunctionEntry | Kind::FunctionExit
            if offer.machine == "aarch64" && offer.version() < ARM64_TRAMPOLINES =>
        {
            let (major, minor) = ARM64_TRAMPOLINES;
            Some(format!(
                "arm64 has fentry and fexit from Linux {major}.{minor} on"
            ))
        }
        Kind::Tracepoint { category, field } => match &offer.no_tracefs {
            Some(why) => Some(why.clone()),
            None => (!offer.tracepoints.contains(&format!("{category}/{name}")))
                .then(|| format!("this kernel has no tracepoint {category}:{name} with `{field}`")),
        },
        _ => match hook.in_btf() {
            Some(wanted) if !offer.btf.contains(&wanted) => Some(format!(
                "this kernel's BTF has no {wanted} (Linux {since} and later have it)"
            )),
            _ => no_reason.then(|| {
                format!("this kernel tells no reason why a packet is dropped (Linux {since} does)")
            }),
        },
    }
}

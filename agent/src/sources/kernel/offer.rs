//! What a host offers to probes, as far as the choice of hooks depends on it: read once, then plain data.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::btf::Btf;
use super::hooks::{self, Kind};
use super::plan::HARM;
use super::tracefs;
use crate::privileges::{self, Held};

/// Recordings of it (`agent/tests/kernels`) show what is chosen on kernels that are not at hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// As `uname -r` and `uname -m` give them.
    pub release: String,
    pub machine: String,
    /// Of the names in BTF that hooks want, those that are there.
    pub btf: BTreeSet<String>,
    /// Of the tracepoints that hooks want through tracefs (`category/name`), those that are there and have
    /// what is read of them.
    pub tracepoints: BTreeSet<String>,
    /// Why BTF cannot be read: then no hook is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_btf: Option<String>,
    /// Why tracefs cannot be read.
    pub no_tracefs: Option<String>,
    /// How many arguments the typed tracepoint `kfree_skb` hands over: the third is the reason.
    pub kfree_skb_arguments: usize,
    /// Structure members, and abilities, that this kernel lacks.
    pub missing: BTreeSet<String>,
    /// The reader's.
    pub capabilities: Held,
}

/// Of the running kernel, as `uname -r` gives it.
pub fn release() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    text.unwrap_or_default().trim().to_owned()
}

/// `(5, 10)` of `5.10.0-46-cloud-amd64`.
pub fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || {
        numbers
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    (next(), next())
}

impl Offer {
    pub fn version(&self) -> (u32, u32) {
        version(&self.release)
    }

    /// The running host's.
    pub fn of_host(btf: &Btf, missing: &[&'static str]) -> Offer {
        let no_tracefs = tracefs::available().err();
        let mut offer = Offer {
            release: release(),
            machine: std::env::consts::ARCH.to_owned(),
            btf: BTreeSet::new(),
            no_btf: None,
            tracepoints: BTreeSet::new(),
            kfree_skb_arguments: btf.arguments("btf_trace_kfree_skb").unwrap_or(0),
            missing: missing.iter().map(|&name| name.to_owned()).collect(),
            no_tracefs,
            capabilities: privileges::held(),
        };
        for harm in HARM.iter().filter(|harm| btf.names(harm.repaired_by)) {
            offer.btf.insert(harm.repaired_by.to_owned());
        }
        for hook in hooks::all() {
            if let Some(name) = hook.in_btf()
                && btf.names(&name)
            {
                offer.btf.insert(name);
            }
            if let Kind::Tracepoint { category, field } = hook.kind {
                let name = format!("{category}/{}", hook.name);
                if offer.no_tracefs.is_none() && tracefs::offset(&name, field).is_some() {
                    offer.tracepoints.insert(name);
                }
            }
        }
        offer
    }
}

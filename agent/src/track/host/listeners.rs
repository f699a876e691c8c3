//! Listening sockets by address, with those that went.

use std::collections::HashMap;

use super::Past;
use crate::signal::{Address, Listener, Nanos};

const CAP: usize = 1024;

/// A listener as last heard of.
#[derive(Debug)]
struct Known {
    last: Past<Listener>,
    /// When its queue was last told to have been over its limit.
    full_at: Option<Nanos>,
}

#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// By address, then one per network namespace.
    by_address: HashMap<Address, Vec<Known>>,
    len: usize,
}

impl Listeners {
    pub(super) fn seen(&mut self, listener: Past<Listener>) -> u64 {
        let netns = listener.fact.netns;
        let fact = &listener.fact;
        let full = fact.length.max(fact.peak) > fact.limit;
        let full_at = full.then_some(listener.at);
        let known = self.by_address.get_mut(&fact.address);
        if let Some(known) =
            known.and_then(|all| all.iter_mut().find(|k| k.last.fact.netns == netns))
        {
            known.full_at = known.full_at.max(full_at);
            if known.last.at <= listener.at {
                known.last = listener;
            }
            return 0;
        }
        let mut lost = 0;
        if self.len >= CAP {
            lost = self.forget_one();
        }
        self.len += 1;
        let address = listener.fact.address.clone();
        self.by_address.entry(address).or_default().push(Known {
            last: listener,
            full_at,
        });
        lost
    }

    /// The TCP listener that takes calls to this address in this network namespace: the one for
    /// exactly this address, else one for all. One that is gone only where none is left.
    pub(super) fn tcp(&self, address: &Address, netns: u32) -> Option<&Past<Listener>> {
        self.known(address, netns).map(|known| &known.last)
    }

    /// When that listener's queue was last over its limit.
    pub(super) fn full_at(&self, address: &Address, netns: u32) -> Option<Nanos> {
        self.known(address, netns)?.full_at
    }

    fn known(&self, address: &Address, netns: u32) -> Option<&Known> {
        let at = |address: &Address| {
            let mut all = self.by_address.get(address)?.iter();
            all.find(|known| known.last.fact.netns == netns)
        };
        let found: Vec<&Known> = address.listened_at().iter().filter_map(at).collect();
        let living = found.iter().find(|known| !known.last.fact.gone);
        let last_gone = || found.iter().max_by_key(|known| known.last.at);
        living.or_else(last_gone).copied()
    }

    pub(super) fn any(&self) -> bool {
        self.len > 0
    }

    /// The listener at exactly this address; `None` where several namespaces have one, as nothing
    /// tells them apart.
    pub(super) fn only(&self, address: &Address) -> Option<&Past<Listener>> {
        let all = self.by_address.get(address)?;
        let mut living = all.iter().filter(|k| !k.last.fact.gone);
        let one = match (living.next(), living.next(), all.as_slice()) {
            (Some(one), None, _) => one,
            (None, None, [gone]) => gone,
            _ => return None,
        };
        Some(&one.last)
    }

    /// Makes room: one that no longer listens, else the one not heard of for the longest time.
    fn forget_one(&mut self) -> u64 {
        let oldest = self
            .by_address
            .values()
            .flatten()
            .map(|known| &known.last)
            .min_by_key(|l| (!l.fact.gone, l.at))
            .map(|l| (l.fact.address.clone(), l.fact.netns, l.fact.gone));
        let Some((address, netns, gone)) = oldest else {
            return 0;
        };
        if let Some(all) = self.by_address.get_mut(&address) {
            all.retain(|k| k.last.fact.netns != netns);
            if all.is_empty() {
                self.by_address.remove(&address);
            }
        }
        self.len -= 1;
        u64::from(!gone)
    }
}

//! How long clients wait before they give up, to tell a timeout in front from random aborts.

use std::collections::{HashMap, VecDeque};

use super::MILLISECOND;
use super::processes::Label;
use crate::signal::{Address, Nanos};

const CLIENTS: usize = 1024;
const WAITS: usize = 16;
/// So many equal waits name a timeout, if they are also most of what this client did.
const ENOUGH: usize = 3;

#[derive(Debug, Default)]
struct Waits {
    last: Nanos,
    waits: VecDeque<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Patience {
    /// By proxy and the client's host. Those not heard of for longest give way: a tier in front is
    /// heard of again and again.
    clients: HashMap<(Label, String), Waits>,
}

impl Patience {
    pub(super) fn gave_up(&mut self, at: Nanos, proxy: &Label, client: &Address, waited: u64) {
        let key = (proxy.clone(), host(client).to_owned());
        if !self.clients.contains_key(&key) && self.clients.len() >= CLIENTS {
            let oldest = self.clients.iter().min_by_key(|(_, client)| client.last);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.clients.remove(&oldest);
            }
        }
        let client = self.clients.entry(key).or_default();
        client.last = client.last.max(at);
        if client.waits.len() >= WAITS {
            client.waits.pop_front();
        }
        client.waits.push_back(waited);
    }

    /// The wait that most of this client's abandoned requests have in common, within 1 % or 20 ms.
    pub(super) fn constant(&self, proxy: &Label, client: &Address) -> Option<u64> {
        let client = self
            .clients
            .get(&(proxy.clone(), host(client).to_owned()))?;
        let waits = &client.waits;
        let near = |of: u64| {
            let slack = (of / 100).max(20 * MILLISECOND);
            waits.iter().filter(|w| w.abs_diff(of) <= slack).count()
        };
        let (count, wait) = waits.iter().map(|w| (near(*w), *w)).max()?;
        // Below 100 ms every abort looks alike.
        let telling = count >= ENOUGH && count * 4 >= waits.len() * 3;
        (telling && wait >= 100 * MILLISECOND).then_some(wait)
    }
}

fn host(address: &Address) -> &str {
    address
        .0
        .rsplit_once(':')
        .map_or(address.0.as_str(), |(host, _)| host)
}

//! Whom the metrics mean by an upstream: its workload, where that is known, else its address.

use std::collections::HashMap;

use crate::signal::Address;
use crate::sinks::metrics::Who;
use crate::track::{host::Host, render};
use crate::verdict::Verdict;

/// Addresses of which it is remembered whose they are.
const ADDRESSES: usize = 4096;

/// Workloads by an address, and the network namespace of a proxy that calls it: behind an address
/// that is translated nothing but a verdict says who is there.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    by_address: HashMap<(u32, Address), Who>,
}

impl Workloads {
    pub(super) fn learn(&mut self, verdict: &Verdict, host: &Host) {
        let (Some(address), Some(proxy)) = (&verdict.upstream.address, verdict.proxy.pid) else {
            return;
        };
        if verdict.upstream.namespace.is_none() {
            return;
        }
        if self.by_address.len() >= ADDRESSES {
            self.by_address.clear();
        }
        let key = (netns(proxy, host), address.clone());
        let who = Who::upstream(&address.0, &verdict.upstream);
        self.by_address.insert(key, who);
    }

    pub(super) fn who(&self, proxy: u32, address: &Address, host: &Host) -> Who {
        let learned = self.by_address.get(&(netns(proxy, host), address.clone()));
        let listens = || {
            let listener = host.listener_of(proxy, address);
            let process = listener.and_then(|listener| host.process(listener.fact.pid));
            Who::upstream(&address.0, &render::home(process))
        };
        learned.cloned().unwrap_or_else(listens)
    }
}

fn netns(proxy: u32, host: &Host) -> u32 {
    host.process(proxy).map_or(0, |process| process.netns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{Fact, Home, Listener, Process, Signal, Software, Source};
    use crate::sinks::sample;
    use crate::track::Tracker;
    use crate::verdict::Party;

    fn process(pid: u32, netns: u32, workload: &str) -> Fact {
        Fact::ProcessSeen(Process {
            pid,
            parent: 1,
            name: "x".to_owned(),
            software: Software::Other,
            settings: Vec::new(),
            started: 0,
            netns,
            sagemaker: false,
            home: Home {
                namespace: Some("shop".to_owned()),
                workload: Some(workload.to_owned()),
                ..Home::default()
            },
        })
    }

    fn listener(pid: u32, netns: u32, address: &str) -> Fact {
        Fact::ListenerSeen(Listener {
            address: Address(address.to_owned()),
            netns,
            pid,
            length: 0,
            limit: 128,
            peak: 0,
            somaxconn: None,
            since: None,
            gone: false,
        })
    }

    #[test]
    fn an_upstream_is_its_workload_wherever_it_is_counted() {
        let mut tracker = Tracker::default();
        let local = "127.0.0.1:9000";
        for fact in [
            process(1, 10, "gateway"),
            process(2, 20, "gateway"),
            process(11, 10, "orders"),
            process(12, 20, "payments"),
            listener(11, 10, local),
            listener(12, 20, local),
        ] {
            let signal = Signal {
                at: 1,
                source: Source::Kernel,
                fact,
            };
            let _ = tracker.observe(&signal);
        }
        let mut workloads = Workloads::default();
        let who = |workloads: &Workloads, proxy, address: &str| {
            workloads.who(proxy, &Address(address.to_owned()), &tracker.host)
        };
        let shop = |address: &str, workload: Option<&str>| {
            let home = Party {
                namespace: Some("shop".to_owned()),
                workload: workload.map(str::to_owned),
                ..Party::default()
            };
            Who::upstream(address, &home)
        };
        // The same address beside two proxies is two upstreams.
        assert_eq!(who(&workloads, 1, local), shop(local, Some("orders")));
        assert_eq!(who(&workloads, 2, local), shop(local, Some("payments")));
        // A service's address is nobody's until a verdict has said whose.
        let service = "10.96.0.7:80";
        assert_eq!(who(&workloads, 1, service), Who::named(service));
        let mut verdict = sample::verdict();
        verdict.proxy.pid = Some(1);
        verdict.upstream.address = Some(Address(service.to_owned()));
        verdict.upstream.namespace = Some("shop".to_owned());
        workloads.learn(&verdict, &tracker.host);
        assert_eq!(who(&workloads, 1, service), shop(service, None));
        verdict.upstream.workload = Some("orders".to_owned());
        workloads.learn(&verdict, &tracker.host);
        assert_eq!(who(&workloads, 1, service), shop(service, Some("orders")));
        assert_eq!(who(&workloads, 2, service), Who::named(service));
    }
}

//! Which upstreams proxies have had answers of, on connections that are still open, where one fails a request
//! without an attempt: what is asked all the same is not out of rotation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_ebpf::{Flow, role};

use super::open_files::failed_without_attempt;
use super::{Ebpf, SAMPLED_FLOWS, State, decode};
use crate::signal::{Address, InTouch, Nanos, Response};

/// Looking through all connections takes a while: no more often.
const FRESH: Duration = Duration::from_millis(50);
/// Processes and upstreams that are told of.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Connections(Option<(Instant, Vec<InTouch>)>);

impl Connections {
    pub(super) fn of(
        &mut self,
        response: &Response,
        flows: &State<Flow>,
        ebpf: &mut Ebpf,
    ) -> Vec<InTouch> {
        if !failed_without_attempt(response) {
            return Vec::new();
        }
        let now = Instant::now();
        if let Some((at, found)) = &self.0
            && now < *at + FRESH
        {
            return found.clone();
        }
        let mut last = Last::default();
        flows.each(ebpf, SAMPLED_FLOWS, |_, flow| last.add(&flow));
        let found = last.told();
        self.0 = Some((now, found.clone()));
        found
    }
}

/// When a process last had an answer of an upstream.
#[derive(Debug, Default)]
struct Last(BTreeMap<(u32, Address), Nanos>);

impl Last {
    fn add(&mut self, flow: &Flow) {
        if flow.role != role::UPSTREAM || flow.last_receive_ns == 0 {
            return;
        }
        let key = (flow.tgid, decode::remote(&flow.ends));
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            return;
        }
        let heard = self.0.entry(key).or_default();
        *heard = flow.last_receive_ns.max(*heard);
    }

    fn told(self) -> Vec<InTouch> {
        let each = self.0.into_iter();
        each.map(|((proxy, upstream), heard)| InTouch {
            proxy,
            upstream,
            heard,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn flow(tgid: u32, port: u16, heard: Nanos) -> Flow {
        let mut flow = Flow::new_zeroed();
        (flow.role, flow.tgid, flow.last_receive_ns) = (role::UPSTREAM, tgid, heard);
        (flow.ends.family, flow.ends.remote_port) = (2, port);
        flow.ends.remote[..4].copy_from_slice(&[10, 0, 0, 2]);
        flow
    }

    #[test]
    fn the_last_answer_of_each_upstream_to_each_process() {
        let mut last = Last::default();
        for (tgid, port, heard) in [(7, 80, 5), (7, 80, 3), (8, 80, 4), (7, 81, 2), (7, 82, 0)] {
            last.add(&flow(tgid, port, heard));
        }
        let mut client = flow(7, 83, 9);
        client.role = role::DOWNSTREAM;
        last.add(&client);
        let one = |proxy, port, heard| InTouch {
            proxy,
            upstream: Address(format!("10.0.0.2:{port}")),
            heard,
        };
        assert_eq!(last.told(), [one(7, 80, 5), one(7, 81, 2), one(8, 80, 4)]);
    }

    #[test]
    fn of_many_upstreams_those_that_came_first_are_told() {
        let mut last = Last::default();
        for port in 1..1000 {
            last.add(&flow(7, port, 1));
        }
        last.add(&flow(7, 1, 6));
        let told = last.told();
        assert_eq!((told.len(), told[0].heard), (MOST, 6));
    }
}

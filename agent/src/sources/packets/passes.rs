//! Who passes requests on to whom. Pure.
//!
//! A request that comes to one server while another has an equal one may have come from there, or from
//! somebody who asks both, as checks do. So a proxy is made by different requests only, whose answers
//! came back as they should; one alone tells of itself. Where it left from the address that it came to,
//! for another host, there are no two ways to read it.

use std::net::{IpAddr, SocketAddr};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Different requests that went on within one host make who did so a proxy.
const AGREE: usize = 2;
/// Of each kind remembered.
const KEPT: usize = 8;
/// Servers remembered of one proxy, and proxies of one server.
const SERVERS: usize = 64;
/// Proxies remembered.
const CAP: usize = 16_384;

/// What went on from one server to another.
struct Passed {
    server: SocketAddr,
    /// Contents that were at the one when they came to the other, the latest last.
    begun: SmallVec<[u64; KEPT]>,
    /// Different ones whose answers came back that way.
    returned: SmallVec<[u64; KEPT]>,
    /// They came from the server's own address.
    beside: bool,
}

#[derive(Default)]
pub(super) struct Passes {
    by_proxy: FxHashMap<SocketAddr, Vec<Passed>>,
    /// By the address that asks: for which proxy, and whom.
    askers: FxHashMap<IpAddr, Vec<(SocketAddr, SocketAddr)>>,
    /// Who asks a server from the server's own address.
    beside: FxHashMap<SocketAddr, Vec<SocketAddr>>,
}

impl Passes {
    /// A request came to `server` while `proxy` had an equal one.
    pub(super) fn begin(&mut self, proxy: SocketAddr, server: SocketAddr, content: u64) {
        if let Some(passed) = self.entry(proxy, server)
            && !passed.begun.contains(&content)
        {
            if passed.begun.len() == KEPT {
                passed.begun.remove(0);
            }
            passed.begun.push(content);
        }
    }

    /// And its answer came back before that of the other. `client`: where it came from.
    pub(super) fn returned(
        &mut self,
        proxy: SocketAddr,
        client: IpAddr,
        server: SocketAddr,
        content: u64,
    ) {
        let Some(passed) = self.entry(proxy, server) else {
            return;
        };
        if passed.returned.len() < KEPT && !passed.returned.contains(&content) {
            passed.returned.push(content);
        }
        passed.beside |= client == server.ip();
        note(&mut self.askers, client, (proxy, server));
        if client == server.ip() {
            note(&mut self.beside, server, proxy);
        }
    }

    fn entry(&mut self, proxy: SocketAddr, server: SocketAddr) -> Option<&mut Passed> {
        if self.by_proxy.len() >= CAP && !self.by_proxy.contains_key(&proxy) {
            return None;
        }
        let servers = self.by_proxy.entry(proxy).or_default();
        let known = servers.iter().position(|passed| passed.server == server);
        let place = match known {
            Some(place) => place,
            None if servers.len() >= SERVERS => return None,
            None => {
                servers.push(Passed {
                    server,
                    begun: SmallVec::new(),
                    returned: SmallVec::new(),
                    beside: false,
                });
                servers.len() - 1
            }
        };
        servers.get_mut(place)
    }

    fn get(&self, proxy: SocketAddr, server: SocketAddr) -> Option<&Passed> {
        let servers = self.by_proxy.get(&proxy)?;
        servers.iter().find(|passed| passed.server == server)
    }

    fn count(&self, proxy: SocketAddr, server: SocketAddr) -> usize {
        self.get(proxy, server).map_or(0, |p| p.returned.len())
    }

    /// As many requests as it takes agree that they go from the one to the other, and fewer say the contrary.
    pub(super) fn agree(&self, proxy: SocketAddr, server: SocketAddr) -> bool {
        let Some(passed) = self.get(proxy, server) else {
            return false;
        };
        let (count, needed) = (passed.returned.len(), if passed.beside { AGREE } else { 1 });
        count >= needed && count > self.count(server, proxy)
    }

    /// Requests of this content go from the one to the other, as far as seen.
    pub(super) fn goes_on(&self, proxy: SocketAddr, server: SocketAddr, content: u64) -> bool {
        let this = || {
            let passed = self.get(proxy, server);
            passed.is_some_and(|p| p.begun.contains(&content) || p.returned.contains(&content))
        };
        !self.agree(server, proxy) && (this() || self.agree(proxy, server))
    }

    pub(super) fn is_proxy(&self, server: SocketAddr) -> bool {
        let servers = self.by_proxy.get(&server);
        servers.is_some_and(|all| all.iter().any(|passed| self.agree(server, passed.server)))
    }

    /// Another server of the same address is a proxy.
    pub(super) fn has_proxy_beside(&self, server: SocketAddr) -> bool {
        let beside = |one: &SocketAddr| one.ip() == server.ip() && *one != server;
        self.by_proxy
            .keys()
            .any(|one| beside(one) && self.is_proxy(*one))
    }

    /// A proxy asks from this address.
    pub(super) fn asks_from(&self, client: IpAddr) -> bool {
        let asked = self.askers.get(&client);
        asked.is_some_and(|asked| {
            asked
                .iter()
                .any(|(proxy, server)| self.agree(*proxy, *server))
        })
    }

    /// Somebody who has the server's own address passes requests on to it.
    pub(super) fn is_behind_its_own(&self, server: SocketAddr) -> bool {
        let before = |proxy: &SocketAddr| self.count(*proxy, server) > self.count(server, *proxy);
        self.beside
            .get(&server)
            .is_some_and(|all| all.iter().any(before))
    }
}

fn note<K: std::hash::Hash + Eq, V: PartialEq>(all: &mut FxHashMap<K, Vec<V>>, of: K, what: V) {
    if all.len() >= CAP && !all.contains_key(&of) {
        return;
    }
    let known = all.entry(of).or_default();
    if known.len() < SERVERS && !known.contains(&what) {
        known.push(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn pass(passes: &mut Passes, from: SocketAddr, to: SocketAddr, content: u64) {
        passes.begin(from, to, content);
        passes.returned(from, from.ip(), to, content);
    }

    #[test]
    fn one_content_tells_no_direction_of_others() {
        let (proxy, server) = (at(80), at(9000));
        let mut passes = Passes::default();
        // Somebody checks both, and the server first.
        pass(&mut passes, server, proxy, 1);
        assert!(passes.goes_on(server, proxy, 1));
        assert!(!passes.goes_on(server, proxy, 2));
        for content in [2, 3] {
            pass(&mut passes, proxy, server, content);
        }
        assert!(passes.goes_on(proxy, server, 4));
        assert!(!passes.goes_on(server, proxy, 1));
    }

    /// However often: only different requests make a proxy.
    #[test]
    fn a_check_of_several_servers_makes_none_a_proxy() {
        let (proxy, one, other) = (at(80), at(9000), at(9001));
        let mut passes = Passes::default();
        for _ in 0..100 {
            pass(&mut passes, one, other, 1);
        }
        assert!(!passes.is_proxy(one) && !passes.asks_from(one.ip()));
        for content in [2, 3] {
            assert!(!passes.is_proxy(proxy));
            pass(&mut passes, proxy, one, content);
        }
        assert!(passes.is_proxy(proxy) && passes.asks_from(proxy.ip()));
        assert!(!passes.is_proxy(one) && !passes.is_proxy(other));
        assert!(passes.is_behind_its_own(one) && !passes.is_behind_its_own(proxy));
    }

    #[test]
    fn what_is_said_both_ways_alike_makes_no_proxy() {
        let (a, b) = (at(80), at(9000));
        let mut passes = Passes::default();
        for content in 1..=9 {
            pass(&mut passes, a, b, content);
            pass(&mut passes, b, a, 100 + content);
        }
        assert!(!passes.is_proxy(a) && !passes.is_proxy(b));
        assert!(!passes.is_behind_its_own(a) && !passes.is_behind_its_own(b));
    }

    /// For another host there is no other way to read it.
    #[test]
    fn one_request_that_left_for_another_host_makes_a_proxy() {
        let (proxy, far) = (at(80), SocketAddr::from(([10, 0, 0, 2], 9000)));
        let mut passes = Passes::default();
        pass(&mut passes, proxy, far, 1);
        assert!(passes.is_proxy(proxy) && passes.asks_from(proxy.ip()));
        assert!(!passes.is_behind_its_own(far));
    }

    #[test]
    fn what_was_begun_alone_makes_no_proxy() {
        let (a, b) = (at(80), at(9000));
        let mut passes = Passes::default();
        for content in 1..=9 {
            passes.begin(a, b, content);
        }
        assert!(!passes.is_proxy(a) && passes.goes_on(a, b, 9) && !passes.goes_on(a, b, 1));
    }

    #[test]
    fn the_same_again_takes_no_others_place() {
        let (a, b) = (at(80), at(9000));
        let mut passes = Passes::default();
        pass(&mut passes, a, b, 1);
        passes.begin(a, b, 2);
        for _ in 0..20 {
            passes.begin(a, b, 3);
        }
        assert!(passes.goes_on(a, b, 2));
        // And an answer is remembered for longer than what only began.
        for content in 4..20 {
            passes.begin(a, b, content);
        }
        assert!(!passes.goes_on(a, b, 2) && passes.goes_on(a, b, 1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut passes = Passes::default();
        let end = |i: u32| SocketAddr::from((i.to_be_bytes(), 80));
        for i in 0..2 * CAP as u32 {
            pass(&mut passes, end(i), at(9000), 1);
        }
        assert_eq!((passes.by_proxy.len(), passes.askers.len()), (CAP, CAP));
        let mut passes = Passes::default();
        for content in 0..2 * SERVERS as u16 {
            for proxy in [at(80), at(81)] {
                pass(&mut passes, proxy, at(1000 + content), 1);
                pass(&mut passes, proxy, at(1000), content.into());
            }
        }
        assert_eq!(passes.by_proxy[&at(80)].len(), SERVERS);
        assert_eq!(passes.askers[&at(80).ip()].len(), SERVERS);
        assert_eq!(passes.count(at(80), at(1000)), KEPT);
    }
}

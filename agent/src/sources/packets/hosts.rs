//! Which addresses serve and which ask: who can be a proxy, and which ends are one under two addresses.

use std::net::{IpAddr, SocketAddr};

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::signal::{Address, Nanos};

use super::LOOKED_THROUGH;
use super::passes::Passes;

/// Addresses remembered.
const CAP: usize = 16_384;
/// Different ports or servers that tell a client of one from a client of several.
const SEVERAL: usize = 4;
/// Connections whose beginnings are compared, to find those seen twice.
const HANDSHAKES: usize = 4096;
/// Different requests that went on from another address make it the same host's.
const COINCIDENCES: usize = 3;
/// And so many where one of the two addresses is surely this host's.
const COINCIDENCES_LOCAL: usize = 2;
/// Larger than any process id can be (`PID_MAX_LIMIT`).
const FIRST_NUMBER: u32 = 1 << 22;
/// Upstreams whose names are kept.
const NAMES: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Host {
    /// Ports it serves on.
    serves: SmallVec<[u16; SEVERAL]>,
    /// Servers it talks to. A client of one needs no allocation: there may be a hundred thousand.
    asks: SmallVec<[SocketAddr; 1]>,
    /// It has sent a request in the clear.
    requests: bool,
    /// A connection to it carries TLS or HTTP/2: the newest, how many there were, and to which ports.
    pub encrypted: Option<u32>,
    pub encrypted_count: u32,
    encrypted_at: SmallVec<[u16; SEVERAL]>,
    /// It asks with what cannot be read.
    pub unread: bool,
    /// The same on a connection that began before the capture, and is not followed.
    pub unfollowed: bool,
}

/// A connection's first segment.
#[derive(Clone, Copy, Default)]
pub(super) struct Handshake {
    /// What a translation leaves as it is.
    pub key: u64,
    /// By the common clock, and by the packet's own.
    pub at: Nanos,
    pub stamp: Nanos,
    /// Its translated copy is no further away.
    pub soon: Nanos,
    pub flow: u32,
    /// The connection that was taken for the same one under other addresses.
    pub twin: Option<u32>,
}

#[derive(Default)]
pub(super) struct Hosts {
    /// In the order in which they came: of many clients the latest are near each other in memory.
    by_ip: IndexMap<IpAddr, Host, FxBuildHasher>,
    /// No more of them are forgotten for others.
    crowded: bool,
    /// Named by hand.
    pub configured: Vec<IpAddr>,
    pub passes: Passes,
    /// By which signals know proxies whose process is not known.
    numbers: FxHashMap<(IpAddr, u32), u32>,
    handshakes: Vec<Handshake>,
    /// Contents that arrived at one address and left from another.
    coincidences: FxHashMap<(IpAddr, IpAddr), Vec<u64>>,
    /// Pairs of addresses that are one host's.
    translated: FxHashSet<(IpAddr, IpAddr)>,
    /// Connections are in the capture before and after a translation of their addresses.
    pub twins: bool,
    /// Proxies that answer without any attempt in the capture: from a file, a cache, a Unix socket.
    secretive: FxHashSet<SocketAddr>,
    /// Who connects to whom for no request: health checks.
    checked: FxHashSet<(IpAddr, SocketAddr)>,
    /// Servers that were asked in the clear by somebody with their own address.
    asked_from_within: FxHashSet<SocketAddr>,
    /// Upstreams' addresses as signals have them: there are few, and making one takes time.
    names: FxHashMap<SocketAddr, Address>,
}

impl Hosts {
    pub(super) fn connection(&mut self, client: SocketAddr, server: SocketAddr) {
        if let Some(host) = self.entry(client.ip())
            && host.asks.len() < SEVERAL
            && !host.asks.contains(&server)
        {
            host.asks.push(server);
        }
        if let Some(host) = self.entry(server.ip())
            && host.serves.len() < SEVERAL
            && !host.serves.contains(&server.port())
        {
            host.serves.push(server.port());
        }
    }

    pub(super) fn entry(&mut self, ip: IpAddr) -> Option<&mut Host> {
        if self.by_ip.len() >= CAP && !self.by_ip.contains_key(&ip) {
            self.make_room();
            if self.by_ip.len() >= CAP {
                return None;
            }
        }
        Some(self.by_ip.entry(ip).or_default())
    }

    /// Forgets addresses that are neither a proxy's nor a server's, as far as seen: clients, who come
    /// and go. Where nearly all have a role it is not looked through again.
    #[cold]
    fn make_room(&mut self) {
        if self.crowded {
            return;
        }
        let (passes, configured) = (&self.passes, &self.configured);
        self.by_ip.retain(|ip, host| {
            let asks_several = host.asks.len() > 1;
            let serves = !host.serves.is_empty() || host.encrypted.is_some();
            serves || asks_several || passes.asks_from(*ip) || configured.contains(ip)
        });
        self.crowded = self.by_ip.len() > CAP - CAP / 16;
    }

    pub(super) fn get(&self, ip: IpAddr) -> Option<&Host> {
        self.by_ip.get(&ip)
    }

    /// A request in the clear.
    pub(super) fn asks_in_the_clear(&mut self, client: IpAddr, server: SocketAddr) {
        if let Some(host) = self.entry(client) {
            host.requests = true;
        }
        if client == server.ip() && self.asked_from_within.len() < CAP {
            self.asked_from_within.insert(server);
        }
    }

    /// Whether who connects to this server may be a proxy that asks it: it has sent requests, and where it has
    /// the server's own address, as all of loopback has, that server was sent some.
    pub(super) fn may_be_asker(&self, client: IpAddr, server: SocketAddr) -> bool {
        let requests = self.get(client).is_some_and(|host| host.requests);
        requests && (client != server.ip() || self.asked_from_within.contains(&server))
    }

    /// Somebody on this host is asked in the clear on loopback: whoever that is may ask from any of the host's
    /// addresses.
    pub(super) fn asked_on_loopback(&self) -> bool {
        let mut within = self.asked_from_within.iter();
        within.any(|server| server.ip().is_loopback())
    }

    /// This connection carries TLS or HTTP/2.
    pub(super) fn encrypted(&mut self, server: SocketAddr, flow: u32) {
        let Some(host) = self.entry(server.ip()) else {
            return;
        };
        host.encrypted = Some(flow);
        host.encrypted_count += 1;
        if host.encrypted_at.len() < SEVERAL && !host.encrypted_at.contains(&server.port()) {
            host.encrypted_at.push(server.port());
        }
    }

    /// Clients come to this address by TLS or HTTP/2, other than to this server.
    pub(super) fn encrypted_beside(&self, ip: IpAddr, server: SocketAddr) -> bool {
        let other = |port: &u16| ip != server.ip() || *port != server.port();
        self.get(ip)
            .is_some_and(|h| h.encrypted_at.iter().any(other))
    }

    /// It is seen to serve, other than at this address.
    pub(super) fn serves_beside(&self, ip: IpAddr, server: SocketAddr) -> bool {
        let other = |port: &u16| ip != server.ip() || *port != server.port();
        self.get(ip).is_some_and(|h| h.serves.iter().any(other))
    }

    /// All addresses of this one's host, as far as seen.
    pub(super) fn addresses_of(&self, ip: IpAddr) -> Vec<IpAddr> {
        let others = self.translated.iter().filter(|(this, _)| *this == ip);
        std::iter::once(ip).chain(others.map(|o| o.1)).collect()
    }

    /// Some hosts are known to have several addresses.
    pub(super) fn several_addresses(&self) -> bool {
        !self.translated.is_empty()
    }

    /// It is seen to ask another server than this one.
    pub(super) fn asks_beside(&self, ip: IpAddr, server: SocketAddr) -> bool {
        self.get(ip)
            .is_some_and(|h| h.asks.iter().any(|asked| *asked != server))
    }

    /// Its address is named as a proxy's. Upstreams may have that too: then those are none that are
    /// asked from it.
    pub(super) fn is_named(&self, server: SocketAddr) -> bool {
        self.configured.contains(&server.ip()) && !self.passes.is_behind_its_own(server)
    }

    /// Somebody at an address that may be the proxy's asks with what cannot be read.
    pub(super) fn asks_unread(&self, proxy: IpAddr) -> bool {
        self.any_asks(proxy, |host| host.unread || host.unfollowed)
    }

    /// The same on connections that are not followed.
    pub(super) fn asks_unfollowed(&self, proxy: IpAddr) -> bool {
        self.any_asks(proxy, |host| host.unfollowed)
    }

    fn any_asks(&self, proxy: IpAddr, how: impl Fn(&Host) -> bool) -> bool {
        if proxy.is_loopback() {
            // Whoever is asked on loopback may ask from any of the host's addresses.
            return self.by_ip.values().any(how);
        }
        let asks = |ip: &IpAddr| self.get(*ip).is_some_and(&how);
        let translated = |(this, other): &(IpAddr, IpAddr)| *this == proxy && asks(other);
        let named = self.configured.contains(&proxy) && self.configured.iter().any(asks);
        asks(&proxy) || named || self.translated.iter().any(translated)
    }

    /// It was seen to answer without any attempt in the capture.
    pub(super) fn is_secretive(&self, proxy: SocketAddr) -> bool {
        self.secretive.contains(&proxy)
    }

    pub(super) fn answers_by_itself(&mut self, proxy: SocketAddr) {
        if self.secretive.len() < CAP {
            self.secretive.insert(proxy);
        }
    }

    /// This client was seen to connect to this server while it had no request to pass on.
    pub(super) fn is_checked(&self, client: IpAddr, server: SocketAddr) -> bool {
        self.checked.contains(&(client, server))
    }

    pub(super) fn checks(&mut self, client: IpAddr, server: SocketAddr) {
        if self.checked.len() < CAP {
            self.checked.insert((client, server));
        }
    }

    /// Requests were seen to go on from this address.
    pub(super) fn is_proxys(&self, client: IpAddr) -> bool {
        self.configured.contains(&client) || self.passes.asks_from(client)
    }

    /// With proxies named by hand, only they are proxies.
    pub(super) fn may_be_proxy(&self, ip: IpAddr) -> bool {
        self.configured.is_empty() || self.configured.contains(&ip)
    }

    /// The number that stands for a process id, which packets do not have. Each network namespace
    /// has a loopback of its own.
    pub(super) fn number(&mut self, ip: IpAddr, space: u32) -> u32 {
        let next = FIRST_NUMBER + self.numbers.len() as u32;
        match self.numbers.len() < CAP {
            true => *self.numbers.entry((ip, space)).or_insert(next),
            false => self.numbers.get(&(ip, space)).copied().unwrap_or(0),
        }
    }

    /// An upstream's address in the words of signals.
    pub(super) fn name(&mut self, upstream: SocketAddr) -> Address {
        if let Some(name) = self.names.get(&upstream) {
            return name.clone();
        }
        let name = Address(upstream.to_string());
        if self.names.len() < NAMES {
            self.names.insert(upstream, name.clone());
        }
        name
    }

    /// Whether two addresses are one host's, as far as seen.
    pub(super) fn same(&self, a: IpAddr, b: IpAddr) -> bool {
        let named = || self.configured.contains(&a) && self.configured.contains(&b);
        a == b || self.translated.contains(&(a, b)) || named()
    }

    /// Requests that arrived at another address went on from this one, too few of them to tell that both are
    /// one host's.
    pub(super) fn may_have_another(&self, client: IpAddr) -> bool {
        let few = self.coincidences.len() <= LOOKED_THROUGH;
        few && self.coincidences.keys().any(|(_, asks)| *asks == client)
    }

    /// A request arrived at one address, an equal one left from another a moment later, and their answers
    /// came back: once may be chance, several different ones make it one host.
    pub(super) fn coincide(&mut self, server: IpAddr, client: IpAddr, content: u64) -> bool {
        // Who captures on loopback is on the host itself, though others' packets may come by.
        let enough = match server.is_loopback() || client.is_loopback() {
            true => COINCIDENCES_LOCAL,
            false => COINCIDENCES,
        };
        if self.coincidences.len() >= CAP {
            return false;
        }
        let seen = self.coincidences.entry((server, client)).or_default();
        if !seen.contains(&content) {
            seen.push(content);
        }
        if seen.len() < enough {
            return false;
        }
        self.coincidences.remove(&(server, client));
        self.translated(server, client);
        true
    }

    pub(super) fn translated(&mut self, a: IpAddr, b: IpAddr) {
        if a != b && self.translated.len() < 2 * CAP {
            self.translated.insert((a, b));
            self.translated.insert((b, a));
        }
    }

    /// They were taken for one host's, and are not.
    pub(super) fn are_two(&mut self, a: IpAddr, b: IpAddr) {
        self.translated.remove(&(a, b));
        self.translated.remove(&(b, a));
    }

    /// The connection that begins with this.
    pub(super) fn began_with(&mut self, key: u64) -> Option<&mut Handshake> {
        let known = self.handshakes.get_mut(place(key))?;
        (known.key == key).then_some(known)
    }

    /// Compares a connection's first segment with those of others; the other one of the same kind
    /// may be the same connection under other addresses. Says how far apart they are, by the packets'
    /// own times or by the common clock: either may have been set in between.
    pub(super) fn handshake(&mut self, first: Handshake) -> Option<(u32, Nanos)> {
        if self.handshakes.is_empty() {
            self.handshakes.resize(HANDSHAKES, Handshake::default());
        }
        let place = place(first.key);
        let known = self.handshakes[place];
        let apart = known.at.abs_diff(first.at);
        let apart = apart.min(known.stamp.abs_diff(first.stamp));
        if known.key == first.key && apart < first.soon && known.flow != first.flow {
            return Some((known.flow, apart));
        }
        self.handshakes[place] = first;
        None
    }
}

fn place(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % HANDSHAKES
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn clients_make_room_for_servers_and_proxies() {
        let mut hosts = Hosts::default();
        let address = |net: u32, number: u32, port| {
            SocketAddr::new(Ipv4Addr::from_bits(net << 24 | number).into(), port)
        };
        let proxy = address(10, 1, 80);
        for client in 0..3 * CAP as u32 {
            hosts.connection(address(20, client, 40_000), proxy);
        }
        // An upstream that is seen only now.
        let late = address(10, 2, 9000);
        hosts.connection(address(10, 1, 40_000), late);
        assert!(hosts.serves_beside(late.ip(), proxy));
        assert!(hosts.serves_beside(proxy.ip(), late));
        assert!(hosts.asks_beside(proxy.ip(), proxy));
        assert!(hosts.by_ip.len() <= CAP);
        // Servers stay, and there is an end to looking for room.
        for server in 0..2 * CAP as u32 {
            hosts.connection(address(20, 1, 40_000), address(30, server, 80));
        }
        assert!(hosts.crowded && hosts.by_ip.len() == CAP);
        assert!(hosts.serves_beside(late.ip(), proxy));
    }
}

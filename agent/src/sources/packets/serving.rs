//! Which of the proxies' processes serves an address, as the hosts that are captured on say
//! themselves. Where that is not sure it is nobody: no name is better than a wrong one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::https::Ports;
use crate::signal::Nanos;
use crate::sources::process::Served;

/// The network namespaces in which something was seen, one bit for each.
pub(super) type Spaces = u16;

/// The bit of a network namespace; they are numbered as they come, and few at a time.
pub(super) fn bit(space: u32) -> Spaces {
    1 << (space % Spaces::BITS)
}

/// What each captured network namespace serves.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    by_space: Vec<(u32, Served)>,
    own: Option<Own>,
}

/// What is known of ourselves.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Our process.
    pub pid: u32,
    /// Our network namespace, where packets are captured there.
    pub space: Option<u32>,
    /// Where we ask others from.
    pub(crate) ports: &'static Ports,
}

impl Owners {
    pub fn new(by_space: Vec<(u32, Served)>) -> Owners {
        Owners {
            by_space,
            own: None,
        }
    }

    /// What we serve, and what we ask ourselves, is no proxy's.
    #[must_use]
    pub fn with_own(self, own: Own) -> Owners {
        Owners {
            own: Some(own),
            ..self
        }
    }

    /// Whether we serve this address ourselves.
    pub(super) fn is_own(&self, address: SocketAddr, seen_in: Spaces) -> bool {
        let own = self.own.as_ref().map(|own| own.pid);
        own.is_some() && self.find(address, seen_in) == own
    }

    /// Whether a connect that was sent at this time in this network namespace is ours: to what verdicts
    /// are sent to, or to the cluster's API.
    pub(super) fn is_own_connect(&self, client: SocketAddr, space: u32, at: Nanos) -> bool {
        let Some(own) = self.own.filter(|own| own.space == Some(space)) else {
            return false;
        };
        let ip = client.ip();
        let mut here = self.by_space.iter().filter(|(known, _)| *known == space);
        own.ports.has(client.port(), at)
            && (ip.is_loopback() || here.any(|(_, served)| served.local.contains(&ip)))
    }

    /// The process that serves connections to this address which were seen in these namespaces.
    pub(super) fn find(&self, address: SocketAddr, seen_in: Spaces) -> Option<u32> {
        let mut found = None;
        for (space, served) in &self.by_space {
            // Packets for others come by as well.
            let here = address.ip().is_loopback() || served.local.contains(&address.ip());
            if seen_in & bit(*space) == 0 || !here {
                continue;
            }
            let owner = owner(served, address)?;
            if found.is_some_and(|other| other != owner) {
                return None;
            }
            found = Some(owner);
        }
        found
    }
}

/// The one process that has all sockets to which the kernel may give such a connection.
fn owner(served: &Served, address: SocketAddr) -> Option<u32> {
    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let any: &[IpAddr] = match address {
        SocketAddr::V4(_) => &[v4, v6],
        SocketAddr::V6(_) => &[v6],
    };
    let hosts = std::iter::once(address.ip()).chain(any.iter().copied());
    for host in hosts {
        let at = SocketAddr::new(host, address.port());
        let mut owners = served.listeners.iter().filter(|(own, _)| *own == at);
        if let Some((_, first)) = owners.next() {
            return first.filter(|_| owners.all(|(_, other)| other == first));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(local: &[&str], listeners: &[(&str, Option<u32>)]) -> Served {
        let listener = |(at, pid): &(&str, Option<u32>)| (at.parse().unwrap(), *pid);
        Served {
            local: local.iter().map(|ip| ip.parse().unwrap()).collect(),
            listeners: listeners.iter().map(listener).collect(),
        }
    }

    fn find(owners: &Owners, address: &str, spaces: &[u32]) -> Option<u32> {
        let seen_in = spaces.iter().map(|space| bit(*space)).sum();
        owners.find(address.parse().unwrap(), seen_in)
    }

    #[test]
    fn the_most_special_listener_of_a_local_address_decides() {
        let host = served(
            &["10.0.0.1", "10.0.0.2", "2001:db8::1"],
            &[
                ("0.0.0.0:80", Some(7)),
                ("10.0.0.2:80", Some(8)),
                ("[::]:443", Some(9)),
                ("0.0.0.0:81", None),
                ("0.0.0.0:82", Some(7)),
                ("0.0.0.0:82", Some(8)),
                ("0.0.0.0:83", Some(7)),
                ("0.0.0.0:83", Some(7)),
                ("127.0.0.1:84", Some(7)),
            ],
        );
        let owners = Owners::new(vec![(0, host)]);
        for (address, owner) in [
            ("10.0.0.1:80", Some(7)),
            ("10.0.0.2:80", Some(8)),
            ("127.0.0.1:80", Some(7)),
            ("10.0.0.1:443", Some(9)),
            ("[2001:db8::1]:443", Some(9)),
            ("[2001:db8::1]:80", None),
            // Somebody else's, two processes', nobody's.
            ("10.0.0.1:81", None),
            ("10.0.0.1:82", None),
            ("10.0.0.1:83", Some(7)),
            ("10.0.0.1:84", None),
            ("10.0.0.1:90", None),
            // Another host's, whose packets come by.
            ("10.0.0.3:80", None),
        ] {
            assert_eq!(find(&owners, address, &[0]), owner, "{address}");
        }
    }

    #[test]
    fn only_namespaces_in_which_the_connection_was_seen_are_asked() {
        let nginx = served(&["10.0.0.1"], &[("0.0.0.0:80", Some(7))]);
        let haproxy = served(&["10.0.0.1"], &[("0.0.0.0:80", Some(8))]);
        let router = served(&["10.9.9.9"], &[("0.0.0.0:80", Some(9))]);
        let owners = Owners::new(vec![(0, nginx), (1, haproxy), (5, router)]);
        for (address, spaces, owner) in [
            ("10.0.0.1:80", &[0][..], Some(7)),
            ("10.0.0.1:80", &[1], Some(8)),
            ("10.0.0.1:80", &[0, 1], None),
            // It came by the router's, where the address is not local.
            ("10.0.0.1:80", &[5, 0], Some(7)),
            ("10.0.0.1:80", &[5], None),
            ("127.0.0.1:80", &[1], Some(8)),
            ("127.0.0.1:80", &[3], None),
        ] {
            assert_eq!(
                find(&owners, address, spaces),
                owner,
                "{address} {spaces:?}"
            );
        }
        assert_eq!(find(&Owners::default(), "127.0.0.1:80", &[0]), None);
    }
}

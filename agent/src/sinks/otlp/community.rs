//! Community ID (version 1, seed 0): one name for a flow, the same at both of its ends.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::signal::Address;

const TCP: u8 = 6;

/// `None` where an end is no address and port: a Unix socket, or what privacy has cut.
pub(super) fn id(one: Option<&Address>, other: Option<&Address>) -> Option<String> {
    let [one, other] = [socket(one?)?, socket(other?)?];
    let (low, high) = match (one.ip(), one.port()) <= (other.ip(), other.port()) {
        true => (one, other),
        false => (other, one),
    };
    let mut hash = Sha1::new();
    hash.update([0, 0]);
    for end in [low, high] {
        match end.ip() {
            IpAddr::V4(ip) => hash.update(ip.octets()),
            IpAddr::V6(ip) => hash.update(ip.octets()),
        }
    }
    hash.update([TCP, 0]);
    for end in [low, high] {
        hash.update(end.port().to_be_bytes());
    }
    Some(format!("1:{}", STANDARD.encode(hash.finalize())))
}

/// A mapped address is the flow's own at its other end.
fn socket(address: &Address) -> Option<SocketAddr> {
    let socket: SocketAddr = address.0.parse().ok()?;
    Some(SocketAddr::new(socket.ip().to_canonical(), socket.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample::address;

    #[test]
    fn both_ends_give_the_specifications_name() {
        let of = |a: &str, b: &str| id(Some(&address(a)), Some(&address(b)));
        // The specification's own example.
        let known = Some("1:LQU9qZlK+B5F3KDmev6m5PMibrg=".to_owned());
        let (client, server) = ("128.232.110.120:34855", "66.35.250.204:80");
        assert_eq!(of(client, server), known);
        assert_eq!(of(server, client), known);
        assert_eq!(of("[::ffff:128.232.110.120]:34855", server), known);
        assert_ne!(of("128.232.110.120:34856", server), known);
        assert!(of("[2001:db8::1]:40112", "[2001:db8::2]:80").is_some());
    }

    #[test]
    fn a_flow_without_two_sockets_has_none() {
        let some = address("10.0.0.1:80");
        for other in ["unix:/run/app.sock", "10.9.0.0/24", "10.0.0.1"] {
            assert_eq!(id(Some(&some), Some(&address(other))), None, "{other}");
        }
        assert_eq!(id(Some(&some), None), None);
    }
}

//! Addresses as the kernel keeps them to addresses as people write them.

use std::net::{Ipv4Addr, Ipv6Addr};

use agent_ebpf as abi;

use super::AF_UNIX;
use crate::signal::Address;

const AF_INET6: u16 = 10;

/// The other end's address, or the Unix path.
pub fn remote(ends: &abi::Ends) -> Address {
    if ends.family == AF_UNIX {
        let path = &ends.path[..usize::from(ends.path_len).min(abi::PATH)];
        return unix(path);
    }
    inet(ends.family, &ends.remote, ends.remote_port)
}

pub fn local(ends: &abi::Ends) -> Option<Address> {
    (ends.family != AF_UNIX && ends.family != 0 && ends.local_port != 0)
        .then(|| inet(ends.family, &ends.local, ends.local_port))
}

/// A Unix socket's name: a path (which ends at its first NUL) or an abstract name.
pub fn unix(path: &[u8]) -> Address {
    Address(match path.split_first() {
        None => "unix:".to_owned(),
        Some((0, name)) => {
            // Filled with zero bytes to the end of the address, as HAProxy does: not to be shown.
            let end = match path.len() {
                abi::PATH => name
                    .iter()
                    .rposition(|&b| b != 0)
                    .map_or(0, |last| last + 1),
                _ => name.len(),
            };
            format!("unix:@{}", String::from_utf8_lossy(&name[..end]))
        }
        Some(_) => {
            let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
            format!("unix:{}", String::from_utf8_lossy(&path[..end]))
        }
    })
}

pub fn inet(family: u16, address: &[u8; 16], port: u16) -> Address {
    if family == AF_INET6 {
        let address = Ipv6Addr::from(*address);
        return Address(match address.to_ipv4_mapped() {
            Some(v4) => format!("{v4}:{port}"),
            None => format!("[{address}]:{port}"),
        });
    }
    let v4 = Ipv4Addr::new(address[0], address[1], address[2], address[3]);
    Address(format!("{v4}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_names_are_shown_as_people_write_them() {
        let mut filled = [0; abi::PATH];
        filled[1..5].copy_from_slice(b"name");
        for (path, shown) in [
            (&b"/run/a b\n.sock\0"[..], "unix:/run/a b\n.sock"),
            (b"/run/\xff", "unix:/run/\u{fffd}"),
            (b"\0name", "unix:@name"),
            // This zero byte is part of the name.
            (b"\0name\0", "unix:@name\0"),
            (&filled, "unix:@name"),
            (b"", "unix:"),
        ] {
            assert_eq!(unix(path).0, shown);
        }
    }
}

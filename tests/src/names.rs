//! A name server of the lab's own, for the programs of one network namespace: it knows one address, until
//! it is told to refuse.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::NetNs;

/// A query's head, up to its question.
const HEAD: usize = 12;
/// Kind and class, after the question's name.
const KIND: usize = 4;
const A: [u8; 4] = [0, 1, 0, 1];

/// How it refuses, as the protocol numbers it.
#[derive(Clone, Copy)]
pub enum Refusal {
    ServerFailed = 2,
    NoSuchName = 3,
}

pub struct Names {
    /// 0: it answers.
    refusal: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Names {
    /// Serves at 127.0.0.1, and where the host's programs are told to ask.
    pub fn serve(ns: &NetNs, address: IpAddr) -> Result<Names> {
        let IpAddr::V4(address) = address else {
            bail!("{address}: it knows addresses of IPv4 alone");
        };
        for server in servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()) {
            if !server.is_loopback() {
                ns.sh(&format!("ip addr add {server} dev lo"))?;
            }
        }
        let socket = ns.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))?));
        let socket = socket.context("bind the name server's port")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (refusal, stop) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicBool::new(false)));
        let (how, stopped) = (Arc::clone(&refusal), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut query = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((size, from)) = socket.recv_from(&mut query) else {
                    continue;
                };
                if let Some(answer) = answer(&query[..size], address, how.load(Ordering::Relaxed)) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Names {
            refusal,
            stop,
            thread: Some(thread),
        })
    }

    /// From now on it has no address for anything.
    pub fn refuse(&self, how: Refusal) {
        self.refusal.store(how as u8, Ordering::Relaxed);
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The name servers of IPv4 that a host's programs ask; of none they ask their own host.
fn servers(text: &str) -> Vec<Ipv4Addr> {
    let named = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"));
    named
        .filter_map(|server| server.trim().parse().ok())
        .collect()
}

/// To one question: any name has this address, and no other record.
fn answer(query: &[u8], address: Ipv4Addr, refusal: u8) -> Option<Vec<u8>> {
    let name = query.get(HEAD..)?.iter().position(|byte| *byte == 0)? + 1;
    let end = HEAD + name + KIND;
    let question = query.get(HEAD..end)?;
    let known = refusal == 0 && question.ends_with(&A);
    let mut answer = query[..2].to_vec();
    // An answer that could be asked further; one question, and what records there are.
    answer.extend([0x81, 0x80 | refusal, 0, 1, 0, u8::from(known), 0, 0, 0, 0]);
    answer.extend(question);
    if known {
        // The question's name, kind A, for a second.
        answer.extend([0xc0, HEAD as u8, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x02bc\0\0\x01\0\x01";

    #[test]
    fn a_name_has_its_address_until_it_is_refused() {
        let address = Ipv4Addr::new(10, 9, 0, 2);
        let known = answer(QUERY, address, 0).unwrap();
        assert_eq!(known[..8], [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1]);
        assert!(known.ends_with(&[0, 4, 10, 9, 0, 2]));
        let none = answer(QUERY, address, Refusal::NoSuchName as u8).unwrap();
        assert_eq!(none[..8], [0x12, 0x34, 0x81, 0x83, 0, 1, 0, 0]);
        assert_eq!(none.len(), QUERY.len());
        // Of IPv6 it knows none.
        let mut other = QUERY.to_vec();
        let kind = other.len() - 3;
        other[kind] = 28;
        assert_eq!(answer(&other, address, 0).unwrap()[7], 0);
        assert_eq!(answer(&QUERY[..14], address, 0), None);
    }

    #[test]
    fn the_servers_that_a_host_asks() {
        let text =
            "# made\nnameserver 10.1.2.3\nsearch example\nnameserver\t127.0.0.53\nnameserver ::1\n";
        let all: Vec<String> = servers(text).iter().map(Ipv4Addr::to_string).collect();
        assert_eq!(all, ["10.1.2.3", "127.0.0.53"]);
    }
}

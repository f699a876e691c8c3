//! A wire between two network namespaces that holds every packet for a fixed time, so that two
//! programs on one machine have a real round-trip time. It can also lose chosen packets.
//!
//! Two TUN devices and two threads; kernels without netem can do this.

mod loss;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::netns::NetNs;
use loss::Loss;

/// The address of the near end (the proxy's side) and of the far end (the upstream's side).
pub const NEAR: &str = "10.9.0.1";
pub const FAR: &str = "10.9.0.2";

const DEVICE: &str = "lab0";
/// Far above what two tests can have in flight; beyond it the wire drops, as wires do.
const HELD_AT_MOST: usize = 16_384;

pub struct Relay {
    stop: Arc<AtomicBool>,
    loss: Arc<Loss>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Joins two namespaces; each packet takes `delay` in each direction.
    pub fn join(near: &NetNs, far: &NetNs, delay: Duration) -> Result<Relay> {
        let near_end = open_tun(near, NEAR)?;
        let far_end = open_tun(far, FAR)?;
        let stop = Arc::new(AtomicBool::new(false));
        let loss = Arc::new(Loss::default());
        let threads = [
            (near_end.try_clone()?, far_end.try_clone()?, true),
            (far_end, near_end, false),
        ]
        .into_iter()
        .map(|(from, to, outward)| {
            let stop = stop.clone();
            let loss = loss.clone();
            thread::spawn(move || carry(from, to, delay, &stop, |p| loss.takes(p, outward)))
        })
        .collect();
        Ok(Relay {
            stop,
            loss,
            threads,
        })
    }

    /// From now on SYNs from the near end to this port of the far end are lost.
    pub fn lose_syns_to(&self, port: u16) {
        self.loss.of_syns(port);
    }

    /// From now on who calls this port of the near end from the far one gets no answer.
    pub fn lose_answers_from(&self, port: u16) {
        self.loss.of_answers(port);
    }

    /// From now on nothing but handshakes and bare acknowledgements gets to this port of the far end, or
    /// from there.
    pub fn lose_words_of(&self, port: u16) {
        self.loss.of_words(port);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn open_tun(ns: &NetNs, address: &str) -> Result<File> {
    let file = ns.enter(|| {
        // SAFETY: the path is a NUL-terminated literal; the descriptor is owned from here on.
        let file = unsafe {
            let fd = libc::open(
                c"/dev/net/tun".as_ptr(),
                libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC,
            );
            if fd < 0 {
                return Err(std::io::Error::last_os_error()).context("open /dev/net/tun");
            }
            File::from(OwnedFd::from_raw_fd(fd))
        };
        // SAFETY: a zeroed ifreq is a valid one, and its name is filled with room for the NUL.
        let made = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
            libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &request)
        };
        if made != 0 {
            return Err(std::io::Error::last_os_error()).context("create a TUN device");
        }
        Ok(file)
    })?;
    ns.sh(&format!(
        "ip addr add {address}/24 dev {DEVICE} && ip link set {DEVICE} up"
    ))?;
    Ok(file)
}

fn carry(
    mut from: File,
    mut to: File,
    delay: Duration,
    stop: &AtomicBool,
    is_lost: impl Fn(&[u8]) -> bool,
) {
    let mut held: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0_u8; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let wait = held.front().map_or(Duration::from_millis(50), |(due, _)| {
            due.saturating_duration_since(now)
        });
        poll_readable(&from, wait);
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(size) => {
                    let packet = &buffer[..size];
                    if !is_lost(packet) && held.len() < HELD_AT_MOST {
                        held.push_back((Instant::now() + delay, packet.to_vec()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let now = Instant::now();
        while held.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, packet)) = held.pop_front() {
                // A device that is down or full loses the packet, as a wire would.
                let _ = to.write(&packet);
            }
        }
    }
}

fn poll_readable(file: &File, wait: Duration) {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = libc::timespec {
        tv_sec: wait.as_secs() as libc::time_t,
        tv_nsec: wait.subsec_nanos() as libc::c_long,
    };
    // SAFETY: one pollfd and a timespec that live through the call.
    unsafe { libc::ppoll(&mut poll, 1, &timeout, std::ptr::null()) };
}

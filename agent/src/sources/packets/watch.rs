//! The live packet source: captures in the proxies' network namespaces, followed on one thread.
//!
//! Several captures are merged by time, so that packets seen in two namespaces come together and a
//! cause before its effect.

mod follower;
mod places;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::decode::Reason;
use super::live::{Live, Settings, wait};
use super::ring::Ring;
use super::{Counts, MILLISECOND, Packets};
use crate::cli::warning;
use crate::clock;
use crate::privileges;
use crate::signal::{Nanos, Signal};
use crate::sources::cluster;
use follower::Follower;
use places::{HELD_BACK, Places};

/// TCP, also behind IPv6's hop-by-hop, routing, fragment and destination headers, and the ICMP errors
/// that say that a host or port could not be reached: unreachable, and time exceeded.
const FILTER: &str = "tcp or (icmp and (icmp[0] == 3 or icmp[0] == 11)) \
     or (icmp6 and (ip6[40] == 1 or ip6[40] == 3)) \
     or (ip6 and (ip6[6] == 0 or ip6[6] == 43 or ip6[6] == 44 or ip6[6] == 60))";
/// A tag of 802.1Q that the kernel has not taken off: the inner one of two, or one that is sent by a card
/// which adds none.
const TAGGED: &str = "vlan and tcp";
/// How long nothing may come before time is told.
const PATIENCE_MS: i32 = 50;
/// With packets that wait in one capture for those of another.
const MERGE_MS: i32 = 5;
/// Frames between two looks at the time.
const FRAMES: u32 = 512;
/// Losses are asked for before signals are handed on, unless it is so short ago: what follows a loss
/// is read much later, for the kernel's buffer was full.
const LOSSES: Nanos = MILLISECOND;
/// How often proxies are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Network namespaces to capture in, by inode, and the proxies' processes in each.
pub type Namespaces = BTreeMap<u64, Vec<u32>>;

/// What to capture and how to read it.
#[derive(Clone, Debug)]
pub struct Request {
    /// An interface's name, or `any`.
    pub interface: String,
    /// Addresses that are the proxy's; with none, they are found.
    pub proxies: Vec<IpAddr>,
    /// Where frames are kept, for those who want the packets themselves.
    pub ring: Option<Arc<Ring>>,
    /// Who knows what runs pods.
    pub cluster: cluster::Pods,
}

/// What was not understood or not delivered, counted until the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub frames: u64,
    /// Packets that nobody was told of as lost, for want of a listener.
    pub lost: u64,
    pub counts: Counts,
    pub not_understood: [u64; Reason::ALL.len()],
}

/// What was counted since it was taken last, while the capture runs.
#[derive(Debug, Default)]
pub struct Untold(Mutex<Tally>);

impl Untold {
    pub fn take(&self) -> Tally {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    /// At its end, all that was counted.
    pub thread: JoinHandle<Tally>,
    pub untold: Arc<Untold>,
}

/// Starts capturing; returns when every capture runs. Without a proxy's namespace it is our own.
///
/// Signals go to `out`; without it the ring alone is filled. A channel that is full is waited for:
/// the kernel's buffer holds the packets, and its losses are counted.
pub fn start(
    request: Request,
    mut find: impl FnMut() -> Namespaces + Send + 'static,
    out: Option<SyncSender<Signal>>,
    stop: Arc<AtomicBool>,
) -> Result<Capture> {
    let mut places = Places::new(&request.interface);
    let found = find();
    let refused = places.look(&found, Instant::now());
    if places.is_empty() {
        // One refusal explains why nothing is captured.
        anyhow::bail!(refused.into_iter().next().unwrap_or_default());
    }
    for error in refused {
        warning!("{error}");
    }
    let mut watch = Watch {
        places,
        follower: Follower::new(
            out.is_some().then(|| Packets::new(&request.proxies)),
            request.ring,
            &request.cluster,
        ),
        out,
        asked: 0,
        untold: Arc::default(),
    };
    watch.follower.look(&found, &watch.places);
    let untold = Arc::clone(&watch.untold);
    let thread = std::thread::Builder::new()
        .name("packets".into())
        .spawn(move || {
            privileges::keep(&privileges::of_packet_source());
            watch.follow(&mut find, &stop);
            watch.follower.end()
        })
        .context("start the packet source's thread")?;
    Ok(Capture { thread, untold })
}

/// Whether packets can be captured here; else why not.
pub fn possible() -> Result<(), String> {
    let settings = Settings {
        interface: "any",
        filter: FILTER,
        on_ethernet: Some(TAGGED),
        namespace: None,
    };
    Live::open(&settings)
        .map(drop)
        .map_err(|error| error.to_string())
}

struct Watch {
    places: Places,
    follower: Follower,
    out: Option<SyncSender<Signal>>,
    /// When losses were asked for.
    asked: Nanos,
    untold: Arc<Untold>,
}

/// Nobody takes signals any more.
struct Ended;

impl Watch {
    fn follow(&mut self, find: &mut impl FnMut() -> Namespaces, stop: &AtomicBool) {
        let mut look = Instant::now() + LOOK;
        let mut stopped = None;
        loop {
            // Taken first: what is there afterwards happened before it.
            let now = clock::unix_now();
            let came = match self.frames(now) {
                Ok(came) => came,
                // Nobody listens any more.
                Err(Ended) => return,
            };
            if !came {
                self.follower.tick(now.saturating_sub(HELD_BACK));
            }
            if self.hand_on(now).is_err() || self.places.is_empty() {
                return;
            }
            if stop.load(Ordering::Relaxed) {
                // What happened before the end is still on its way.
                let began = *stopped.get_or_insert(now);
                let over = now > began + HELD_BACK && !came || now > began + 10 * HELD_BACK;
                if over || now < began {
                    break;
                }
            } else if look <= Instant::now() {
                look = Instant::now() + LOOK;
                let found = find();
                for error in self.places.look(&found, Instant::now()) {
                    warning!("{error}");
                }
                self.follower.look(&found, &self.places);
                self.follower.hand_over(&self.untold);
            }
            if !came {
                match self.places.descriptors() {
                    Some(descriptors) => wait(&descriptors, PATIENCE_MS),
                    // A readable capture whose next frame is known would wake us at once.
                    None => wait(&[], MERGE_MS),
                }
            }
        }
        self.follower.finish();
        self.follower.hand_over(&self.untold);
        let _ = self.hand_on(clock::unix_now());
    }

    /// Takes what has come, but not for long. Whether anything had.
    fn frames(&mut self, now: Nanos) -> Result<bool, Ended> {
        for taken in 0..FRAMES {
            let follower = &mut self.follower;
            match self
                .places
                .next(now, |raw, space| follower.take(raw, space))
            {
                Ok(true) => {}
                Ok(false) => return Ok(taken > 0),
                Err(error) => {
                    // An interface that went away; the others go on.
                    warning!("{error}");
                    return Ok(true);
                }
            }
            if !self.follower.signals.is_empty() {
                self.hand_on(clock::unix_now())?;
            }
        }
        Ok(true)
    }

    /// Hands signals on, the losses before them.
    fn hand_on(&mut self, now: Nanos) -> Result<(), Ended> {
        let mut losses = Vec::new();
        if now >= self.asked + LOSSES || now < self.asked {
            self.asked = now;
            let lost = self.places.lost();
            self.follower.lost("kernel", lost.by_kernel, &mut losses);
            self.follower
                .lost("interface", lost.by_interface, &mut losses);
        }
        let Some(out) = &self.out else { return Ok(()) };
        for signal in losses.into_iter().chain(self.follower.signals.drain(..)) {
            out.send(signal).map_err(|_| Ended)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pcap::{Capture, Linktype};

    use super::*;

    /// The first bytes of a segment over IPv4, below this link layer's header.
    fn segment(header: &[u8]) -> Vec<u8> {
        let mut ip = [0; 40];
        (ip[0], ip[3], ip[8], ip[9]) = (0x45, 40, 64, 6);
        [header, &ip].concat()
    }

    #[test]
    fn tags_are_looked_behind_where_libpcap_can() {
        let settings = Settings {
            interface: "any",
            filter: FILTER,
            on_ethernet: Some(TAGGED),
            namespace: None,
        };
        let compiled = |link: Linktype| {
            let dead = Capture::dead(link).unwrap();
            dead.compile(&settings.whole_filter(link), true).unwrap()
        };
        let ethernet = compiled(Linktype::ETHERNET);
        let header = |types: &[u8]| segment(&[&[0; 12], types].concat());
        assert!(ethernet.filter(&header(&[8, 0])));
        assert!(ethernet.filter(&header(&[0x81, 0, 0, 7, 8, 0])));
        assert!(!ethernet.filter(&header(&[0x81, 0, 0, 7, 8, 6])));
        let cooked = compiled(Linktype::LINUX_SLL);
        assert!(cooked.filter(&segment(&[&[0; 14][..], &[8, 0]].concat())));
    }
}

//! The live packet source: captures in the proxies' network namespaces, followed on one thread.
//!
//! Several captures are merged by time, so that packets seen in two namespaces come together and a
//! cause before its effect.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::decode::{Decoded, Reason, decode};
use super::live::{Dropped, Live, Settings, wait};
use super::raw::{LinkType, RawFrame};
use super::segment::Frame;
use super::{Counts, MILLISECOND, Packets};
use crate::cli::{detail, warning};
use crate::clock;
use crate::signal::{Nanos, Signal};

/// TCP, and the ICMP errors that say that a host or port could not be reached.
const FILTER: &str = "tcp or (icmp and icmp[0] == 3) or (icmp6 and ip6[40] == 1)";
/// How long the kernel may hold a packet back, to hand over many at once, and some more.
const HELD_BACK: Nanos = 100 * MILLISECOND;
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
/// A namespace is let go when none of the proxies has been in it for this long.
const GONE: Duration = Duration::from_secs(30);
/// Each capture costs 16 MB.
const NAMESPACES: usize = 8;

/// Network namespaces to capture in, by inode; the path is that of one process in it.
pub type Namespaces = BTreeMap<u64, PathBuf>;

/// What to capture and how to read it.
#[derive(Clone, Debug)]
pub struct Request {
    /// An interface's name, or `any`.
    pub interface: String,
    /// Addresses that are the proxy's; with none, they are found.
    pub proxies: Vec<IpAddr>,
}

/// What was not understood, counted until the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub frames: u64,
    pub counts: Counts,
    pub not_understood: [u64; Reason::ALL.len()],
}

/// One capture under way.
struct Place {
    live: Live,
    /// The namespace's inode; `None`: our own, for want of another.
    inode: Option<u64>,
    /// Tells its loopback from that of others.
    space: u32,
    /// The next frame, where there is another capture to be merged with.
    next: Option<Kept>,
    /// Where its bytes go.
    spare: Vec<u8>,
    told: Dropped,
    wanted: Instant,
}

/// A frame with bytes of its own.
struct Kept {
    at: Nanos,
    frame: Frame,
    link_type: LinkType,
    original_length: u32,
    data: Vec<u8>,
}

/// Starts capturing; returns when every capture runs. Without a proxy's namespace it is our own.
///
/// A channel that is full is waited for: the kernel's buffer holds the packets, and its losses are
/// counted.
pub fn start(
    request: Request,
    mut find: impl FnMut() -> Namespaces + Send + 'static,
    out: SyncSender<Signal>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<Tally>> {
    let mut watch = Watch {
        packets: Packets::new(&request.proxies),
        request,
        places: Vec::new(),
        spaces: 0,
        refused: BTreeMap::new(),
        signals: Vec::new(),
        out,
        tally: Tally::default(),
        asked: 0,
    };
    watch.look(find());
    if watch.places.is_empty() {
        // One refusal explains why nothing is captured.
        let refused = std::mem::take(&mut watch.refused);
        if let Some(error) = refused.into_values().next() {
            anyhow::bail!(error);
        }
        watch.open(None, None)?;
    } else {
        for error in watch.refused.values() {
            warning!("{error}");
        }
    }
    std::thread::Builder::new()
        .name("packets".into())
        .spawn(move || {
            watch.follow(&mut find, &stop);
            watch.tally.counts = watch.packets.counts();
            watch.tally
        })
        .context("start the packet source's thread")
}

/// Whether packets can be captured here; else why not.
pub fn possible() -> Result<(), String> {
    let settings = Settings {
        interface: "any",
        filter: FILTER,
        namespace: None,
    };
    Live::open(&settings)
        .map(drop)
        .map_err(|error| error.to_string())
}

struct Watch {
    request: Request,
    packets: Packets,
    places: Vec<Place>,
    spaces: u32,
    /// Namespaces in which nothing can be captured, and why.
    refused: BTreeMap<u64, String>,
    signals: Vec<Signal>,
    out: SyncSender<Signal>,
    tally: Tally,
    /// When losses were asked for.
    asked: Nanos,
}

/// Nobody takes signals any more.
struct Ended;

impl Watch {
    fn open(
        &mut self,
        inode: Option<u64>,
        path: Option<PathBuf>,
    ) -> Result<(), super::live::Error> {
        let live = Live::open(&Settings {
            interface: &self.request.interface,
            filter: FILTER,
            namespace: path.as_deref(),
        })?;
        let whose = path.map_or("of this process".into(), |path| path.display().to_string());
        detail!(
            "capturing on {} in the network namespace {whose}",
            live.interface()
        );
        self.places.push(Place {
            live,
            inode,
            space: self.spaces,
            next: None,
            spare: Vec::new(),
            told: Dropped::default(),
            wanted: Instant::now(),
        });
        self.spaces += 1;
        Ok(())
    }

    /// Begins to capture where proxies are, and lets go of where they were.
    fn look(&mut self, found: Namespaces) {
        let now = Instant::now();
        for place in &mut self.places {
            if place.inode.is_none_or(|inode| found.contains_key(&inode)) {
                place.wanted = now;
            }
        }
        // A capture keeps its namespace alive, whose processes may be gone.
        let wanted = |place: &Place| place.next.is_some() || place.wanted + GONE > now;
        self.places.retain(wanted);
        self.refused.retain(|inode, _| found.contains_key(inode));
        for (inode, path) in found {
            let known = self.places.iter().any(|place| place.inode == Some(inode));
            if known || self.refused.contains_key(&inode) {
                continue;
            }
            let result = match self.places.len() < NAMESPACES {
                true => self
                    .open(Some(inode), Some(path))
                    .map_err(|e| e.to_string()),
                false => Err(format!(
                    "the network namespace {} is not watched: there are {NAMESPACES} others; \
                     name fewer proxies by --pid",
                    path.display()
                )),
            };
            if let Err(error) = result {
                self.refused.insert(inode, error);
            }
        }
    }

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
                self.packets
                    .tick(now.saturating_sub(HELD_BACK), &mut self.signals);
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
                let before: Vec<u64> = self.refused.keys().copied().collect();
                self.look(find());
                for (inode, error) in &self.refused {
                    if !before.contains(inode) {
                        warning!("{error}");
                    }
                }
            }
            if !came {
                let waits = self.places.iter().any(|place| place.next.is_some());
                let descriptors: Vec<_> = self.places.iter().map(|p| p.live.descriptor()).collect();
                match waits {
                    // A readable capture whose next frame is known would wake us at once.
                    true => wait(&[], MERGE_MS),
                    false => wait(&descriptors, PATIENCE_MS),
                }
            }
        }
        self.packets.finish(&mut self.signals);
        let _ = self.hand_on(clock::unix_now());
    }

    /// Takes what has come, but not for long. Whether anything had.
    fn frames(&mut self, now: Nanos) -> Result<bool, Ended> {
        for taken in 0..FRAMES {
            let result = match self.places.as_mut_slice() {
                [] => return Ok(false),
                [place] if place.next.is_none() => {
                    let number = place.space;
                    match place.live.waiting_frame() {
                        Ok(Some(raw)) => {
                            self.packets.set_namespace(number);
                            take(&mut self.packets, &mut self.tally, &raw, &mut self.signals);
                            Ok(true)
                        }
                        Ok(None) => Ok(false),
                        Err(error) => Err((0, error)),
                    }
                }
                places => match earliest(places, now) {
                    Ok(Some(place)) => {
                        self.packets.set_namespace(place.space);
                        if let Some(kept) = place.next.take() {
                            let raw = kept.as_raw();
                            take(&mut self.packets, &mut self.tally, &raw, &mut self.signals);
                            place.spare = kept.data;
                        }
                        Ok(true)
                    }
                    Ok(None) => Ok(false),
                    Err(failed) => Err(failed),
                },
            };
            match result {
                Ok(true) => {}
                Ok(false) => return Ok(taken > 0),
                Err((index, error)) => {
                    // An interface that went away; the others go on.
                    warning!("{error}");
                    self.places.remove(index);
                    return Ok(true);
                }
            }
            if !self.signals.is_empty() {
                self.hand_on(clock::unix_now())?;
            }
        }
        Ok(true)
    }

    /// Hands signals on, the losses before them.
    fn hand_on(&mut self, now: Nanos) -> Result<(), Ended> {
        if now >= self.asked + LOSSES || now < self.asked {
            self.asked = now;
            let mut losses = Vec::new();
            for place in &mut self.places {
                let Ok(dropped) = place.live.dropped() else {
                    continue;
                };
                let told = std::mem::replace(&mut place.told, dropped);
                for (reason, count) in [
                    ("kernel", dropped.by_kernel - told.by_kernel),
                    ("interface", dropped.by_interface - told.by_interface),
                ] {
                    if count > 0 {
                        self.packets.lost_until(
                            clock::unix_now(),
                            "packets",
                            reason,
                            count,
                            &mut losses,
                        );
                    }
                }
            }
            for loss in losses {
                self.out.send(loss).map_err(|_| Ended)?;
            }
        }
        for signal in self.signals.drain(..) {
            self.out.send(signal).map_err(|_| Ended)?;
        }
        Ok(())
    }
}

/// The capture whose next frame is the earliest, once none can come before it.
fn earliest(
    places: &mut [Place],
    now: Nanos,
) -> Result<Option<&mut Place>, (usize, super::live::Error)> {
    let mut all = true;
    for (index, place) in places.iter_mut().enumerate() {
        if place.next.is_some() {
            continue;
        }
        match place.live.waiting_frame() {
            Ok(Some(raw)) => {
                let mut data = std::mem::take(&mut place.spare);
                data.clear();
                data.extend_from_slice(raw.data);
                place.next = Some(Kept {
                    at: raw.at,
                    frame: raw.frame,
                    link_type: raw.link_type,
                    original_length: raw.original_length,
                    data,
                });
            }
            Ok(None) => all = false,
            Err(error) => return Err((index, error)),
        }
    }
    let at = |place: &Place| place.next.as_ref().map_or(Nanos::MAX, |kept| kept.at);
    let Some(place) = places.iter_mut().min_by_key(|place| at(place)) else {
        return Ok(None);
    };
    let first = at(place);
    Ok((first != Nanos::MAX && (all || first.saturating_add(HELD_BACK) <= now)).then_some(place))
}

impl Kept {
    fn as_raw(&self) -> RawFrame<'_> {
        RawFrame {
            at: self.at,
            frame: self.frame,
            link_type: self.link_type,
            original_length: self.original_length,
            data: &self.data,
        }
    }
}

#[inline]
fn take(packets: &mut Packets, tally: &mut Tally, raw: &RawFrame<'_>, out: &mut Vec<Signal>) {
    tally.frames += 1;
    match decode(raw) {
        Decoded::Segment(segment) => packets.segment(&segment, out),
        Decoded::Unreachable(error) => packets.unreachable(&error, out),
        Decoded::Other => {}
        Decoded::NotUnderstood(reason) => tally.not_understood[reason as usize] += 1,
    }
}

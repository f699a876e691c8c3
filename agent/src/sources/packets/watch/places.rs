//! The captures under way, one in each network namespace where a proxy is, and their frames in the
//! order of time.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::MILLISECOND;
use super::super::live::{Dropped, Error, Live, Settings};
use super::super::raw::{OwnedFrame, RawFrame};
use super::{FILTER, Namespaces, TAGGED};
use crate::cli::detail;
use crate::signal::Nanos;

/// How long the kernel may hold a packet back, to hand over many at once, and some more.
pub(super) const HELD_BACK: Nanos = 100 * MILLISECOND;
/// A namespace is let go when none of the proxies has been in it for this long.
const GONE: Duration = Duration::from_secs(30);
/// Where nothing can be captured it is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);
/// Each capture costs 16 MB.
const NAMESPACES: usize = 8;

const OWN: &str = "/proc/self/ns/net";

/// The network namespace that we are in, by inode.
pub(super) fn own_namespace() -> Option<u64> {
    Some(fs::metadata(OWN).ok()?.ino())
}

/// All captures.
#[derive(Debug)]
pub(super) struct Places {
    interface: String,
    all: Vec<Place>,
    opened: u32,
    /// Namespaces in which nothing could be captured, and when that was tried last.
    refused: BTreeMap<u64, Instant>,
}

/// One capture under way.
#[derive(Debug)]
pub(super) struct Place {
    live: Live,
    /// The namespace's inode.
    inode: u64,
    /// Tells its loopback from that of others.
    pub(super) space: u32,
    /// The next frame, where there is another capture to be merged with.
    next: Option<OwnedFrame>,
    /// Where its bytes go.
    spare: Vec<u8>,
    told: Dropped,
    wanted: Instant,
}

impl Places {
    pub(super) fn new(interface: &str) -> Places {
        Places {
            interface: interface.to_owned(),
            all: Vec::new(),
            opened: 0,
            refused: BTreeMap::new(),
        }
    }

    /// Begins to capture where proxies are, and lets go of where they were. Where none is, it is
    /// our own namespace: packets of a proxy elsewhere may come by. What cannot be captured is told
    /// once.
    pub(super) fn look(&mut self, found: &Namespaces, now: Instant) -> Vec<String> {
        let own = || Some((own_namespace()?, Vec::new()));
        let own = Namespaces::from_iter(found.is_empty().then(own).flatten());
        let found = if found.is_empty() { &own } else { found };
        for place in &mut self.all {
            if found.contains_key(&place.inode) {
                place.wanted = now;
            }
        }
        // A capture keeps its namespace alive, whose processes may be gone.
        let wanted = |place: &Place| place.next.is_some() || place.wanted + GONE > now;
        self.all.retain(wanted);
        self.refused.retain(|inode, _| found.contains_key(inode));
        let mut news = Vec::new();
        for (&inode, processes) in found {
            let known = self.all.iter().any(|place| place.inode == inode);
            let tried = self.refused.get(&inode).copied();
            if known || tried.is_some_and(|at| at + AGAIN > now) {
                continue;
            }
            let path = processes.first().map(|pid| format!("/proc/{pid}/ns/net"));
            let result = match self.all.len() < NAMESPACES {
                true => self
                    .open(inode, path.map(PathBuf::from), now)
                    .map_err(|error| error.to_string()),
                false => Err(format!(
                    "the network namespace {} is not watched: there are {NAMESPACES} others; \
                     name fewer proxies by --pid",
                    path.as_deref().unwrap_or(OWN)
                )),
            };
            match result {
                Ok(()) => drop(self.refused.remove(&inode)),
                Err(error) => {
                    if self.refused.insert(inode, now).is_none() {
                        news.push(error);
                    }
                }
            }
        }
        news
    }

    fn open(&mut self, inode: u64, path: Option<PathBuf>, now: Instant) -> Result<(), Error> {
        let live = Live::open(&Settings {
            interface: &self.interface,
            filter: FILTER,
            on_ethernet: Some(TAGGED),
            namespace: path.as_deref(),
        })?;
        detail!(
            "capturing on {} in the network namespace {}",
            live.interface(),
            path.as_deref().unwrap_or(Path::new(OWN)).display()
        );
        self.all.push(Place {
            live,
            inode,
            space: self.opened,
            next: None,
            spare: Vec::new(),
            told: Dropped::default(),
            wanted: now,
        });
        self.opened += 1;
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The namespaces that are captured in, by inode, and the number of each.
    pub(super) fn spaces(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.all.iter().map(|place| (place.inode, place.space))
    }

    /// What becomes readable when there are frames; `None` where one is there and has to wait for
    /// others.
    pub(super) fn descriptors(&self) -> Option<Vec<RawFd>> {
        let waits = self.all.iter().any(|place| place.next.is_some());
        (!waits).then(|| self.all.iter().map(|p| p.live.descriptor()).collect())
    }

    /// The next frame of all, once none can come before it. A capture that fails ends; the others
    /// go on.
    pub(super) fn next(
        &mut self,
        now: Nanos,
        take: impl FnOnce(&RawFrame<'_>, u32),
    ) -> Result<bool, Error> {
        let result = match self.all.as_mut_slice() {
            [] => return Ok(false),
            [place] if place.next.is_none() => match place.live.waiting_frame() {
                Ok(Some(raw)) => {
                    take(&raw, place.space);
                    return Ok(true);
                }
                Ok(None) => return Ok(false),
                Err(error) => Err((0, error)),
            },
            places => earliest(places, now),
        };
        match result {
            Ok(None) => Ok(false),
            Ok(Some(place)) => {
                if let Some(frame) = place.next.take() {
                    take(&frame.as_raw(), place.space);
                    place.spare = frame.into_buffer();
                }
                Ok(true)
            }
            Err((index, error)) => {
                self.all.remove(index);
                Err(error)
            }
        }
    }

    /// Packets lost since this was asked last, by who lost them.
    pub(super) fn lost(&mut self) -> Dropped {
        let mut lost = Dropped::default();
        for place in &mut self.all {
            let Ok(dropped) = place.live.dropped() else {
                continue;
            };
            let told = std::mem::replace(&mut place.told, dropped);
            lost.by_kernel += dropped.by_kernel - told.by_kernel;
            lost.by_interface += dropped.by_interface - told.by_interface;
        }
        lost
    }
}

/// The capture whose next frame is the earliest, once none can come before it.
fn earliest(places: &mut [Place], now: Nanos) -> Result<Option<&mut Place>, (usize, Error)> {
    let mut all = true;
    for (index, place) in places.iter_mut().enumerate() {
        if place.next.is_some() {
            continue;
        }
        match place.live.waiting_frame() {
            Ok(Some(raw)) => {
                let buffer = std::mem::take(&mut place.spare);
                place.next = Some(OwnedFrame::new(&raw, buffer));
            }
            Ok(None) => all = false,
            Err(error) => return Err((index, error)),
        }
    }
    let at = |place: &Place| {
        let next = place.next.as_ref();
        next.map_or(Nanos::MAX, |frame| frame.as_raw().at)
    };
    let Some(place) = places.iter_mut().min_by_key(|place| at(place)) else {
        return Ok(None);
    };
    let first = at(place);
    Ok((first != Nanos::MAX && (all || first.saturating_add(HELD_BACK) <= now)).then_some(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_comes_and_goes_does_not_end_or_double_the_capture() {
        let mut places = Places::new("lo");
        let now = Instant::now();
        let refused = places.look(&Namespaces::new(), now);
        if let Some(why) = refused.first() {
            println!("skipped: {why}");
            return;
        }
        let inodes = |places: &Places| places.spaces().map(|(inode, _)| inode).collect::<Vec<_>>();
        let own = fs::metadata(OWN).unwrap().ino();
        assert_eq!(inodes(&places), [own]);
        // A proxy starts in our own namespace, and ends for longer than a restart takes.
        let proxy = Namespaces::from([(own, vec![std::process::id()])]);
        assert!(places.look(&proxy, now).is_empty());
        assert_eq!(inodes(&places), [own]);
        assert!(places.look(&Namespaces::new(), now + 2 * GONE).is_empty());
        assert_eq!(inodes(&places), [own]);
        // One elsewhere that cannot be captured is told once, and ends nothing.
        let gone = Namespaces::from([(own, vec![std::process::id()]), (1, vec![u32::MAX])]);
        assert_eq!(places.look(&gone, now + 2 * GONE).len(), 1);
        assert!(places.look(&gone, now + 2 * GONE).is_empty());
        assert!(places.look(&gone, now + 2 * GONE + AGAIN).is_empty());
        assert_eq!(inodes(&places), [own]);
        // Until it can be.
        let back = Namespaces::from([(own, Vec::new()), (1, vec![std::process::id()])]);
        assert!(places.look(&back, now + 2 * GONE + AGAIN).is_empty());
        assert_eq!(inodes(&places), [own]);
        assert!(places.look(&back, now + 2 * GONE + 2 * AGAIN).is_empty());
        assert_eq!(inodes(&places), [own, 1]);
        // Where there is a proxy again, ours is let go.
        let elsewhere = Namespaces::from([(2, vec![std::process::id()])]);
        assert!(places.look(&elsewhere, now + 3 * GONE).is_empty());
        assert_eq!(inodes(&places), [own, 1, 2]);
        places.look(&elsewhere, now + 5 * GONE);
        assert_eq!(inodes(&places), [2]);
        assert_eq!(places.spaces().next(), Some((2, 2)));
    }
}

//! The kernel half's state per socket, read from its memory; `agent-ebpf/src/slots.rs` says how it lies.

use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _};

use agent_ebpf::{BUCKETS, Bucket, Flow, Peer, SPOKEN_SLOTS, WAYS, bucket_of, spoken};
use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use memmap2::{MmapOptions, MmapRaw};

const NOEXIST: u64 = 1;

/// Connections of proxies, or upstreams' ends of them.
pub(super) struct State<V> {
    buckets: MmapRaw,
    values: MmapRaw,
    /// The map of those that found no slot.
    rest: &'static str,
    of: PhantomData<V>,
}

impl State<Flow> {
    pub(super) fn flows(ebpf: &Ebpf) -> Result<State<Flow>> {
        State::open(ebpf, "FLOW_BUCKETS", "FLOW_SLOTS", "FLOWS")
    }
}

impl State<Peer> {
    pub(super) fn peers(ebpf: &Ebpf) -> Result<State<Peer>> {
        State::open(ebpf, "PEER_BUCKETS", "PEER_SLOTS", "PEERS")
    }
}

impl<V: aya::Pod> State<V> {
    fn open(ebpf: &Ebpf, buckets: &str, values: &str, rest: &'static str) -> Result<State<V>> {
        Ok(State {
            buckets: memory::<Bucket>(ebpf, buckets, BUCKETS as usize)?,
            values: memory::<V>(ebpf, values, BUCKETS as usize * WAYS)?,
            rest,
            of: PhantomData,
        })
    }

    /// Adds what is older than the probes, unless they have met it meanwhile.
    pub(super) fn insert(&self, ebpf: &mut Ebpf, sk: u64, value: &V) -> Result<()> {
        // Into the map: only probes take slots.
        // SAFETY: within the mapping; every writer writes the same.
        unsafe { (&raw mut (*self.bucket(bucket_of(sk))).spilled).write_volatile(1) };
        let _ = self.rest(ebpf)?.insert(sk, value, NOEXIST);
        Ok(())
    }

    pub(super) fn get(&self, ebpf: &mut Ebpf, sk: u64) -> Option<V> {
        match self.find(sk) {
            Some((index, way)) => Some(self.value(index, way)),
            None => self.rest(ebpf).ok()?.get(&sk, 0).ok(),
        }
    }

    pub(super) fn remove(&self, ebpf: &mut Ebpf, sk: u64) {
        if let Some((index, way)) = self.find(sk) {
            // SAFETY: within the mapping. The slot is free with this.
            unsafe { (&raw mut (*self.bucket(index)).sk[way]).write_volatile(0) };
        } else if let Ok(mut rest) = self.rest(ebpf) {
            let _ = rest.remove(&sk);
        }
    }

    /// Every socket with its state, as it is now: probes write meanwhile. Of those in the map, which
    /// cost two system calls each, no more than `most`.
    pub(super) fn each(&self, ebpf: &mut Ebpf, most: usize, mut visit: impl FnMut(u64, V)) {
        for index in 0..BUCKETS {
            for (way, sk) in self.keys(index).into_iter().enumerate() {
                if sk != 0 {
                    visit(sk, self.value(index, way));
                }
            }
        }
        if let Ok(rest) = self.rest(ebpf) {
            for (sk, value) in rest.iter().take(most).filter_map(Result::ok) {
                visit(sk, value);
            }
        }
    }

    fn find(&self, sk: u64) -> Option<(u32, usize)> {
        let index = bucket_of(sk);
        let way = self.keys(index).iter().position(|key| *key == sk)?;
        Some((index, way))
    }

    fn keys(&self, index: u32) -> [u64; WAYS] {
        // SAFETY: within the mapping.
        unsafe { (&raw const (*self.bucket(index)).sk).read_volatile() }
    }

    fn bucket(&self, index: u32) -> *mut Bucket {
        debug_assert!(index < BUCKETS);
        // SAFETY: `open` has mapped that many.
        unsafe {
            self.buckets
                .as_mut_ptr()
                .cast::<Bucket>()
                .add(index as usize)
        }
    }

    fn value(&self, index: u32, way: usize) -> V {
        let place = index as usize * WAYS + way;
        // SAFETY: within the mapping; any bytes are a value, and one that is written meanwhile is
        // as torn as a read through a system call.
        unsafe { self.values.as_ptr().cast::<V>().add(place).read_volatile() }
    }

    fn rest<'a>(&self, ebpf: &'a mut Ebpf) -> Result<HashMap<&'a mut MapData, u64, V>> {
        super::watch::map(ebpf, self.rest)
    }
}

/// Upstreams that have answered HTTP with HTTP.
pub(super) struct Spoken(MmapRaw);

impl Spoken {
    pub(super) fn open(ebpf: &Ebpf) -> Result<Spoken> {
        memory::<u64>(ebpf, "SPOKEN", SPOKEN_SLOTS as usize).map(Spoken)
    }

    /// Whether this flow's upstream has.
    pub(super) fn has(&self, flow: &Flow) -> bool {
        let Some((slot, who)) = spoken(flow) else {
            return false;
        };
        // SAFETY: within the mapping.
        let kept = unsafe {
            self.0
                .as_ptr()
                .cast::<u64>()
                .add(slot as usize)
                .read_volatile()
        };
        kept == who
    }
}

/// The memory of an array of `len` values.
fn memory<T>(ebpf: &Ebpf, name: &str, len: usize) -> Result<MmapRaw> {
    let Some(Map::Array(map)) = ebpf.map(name) else {
        bail!("no {name} map");
    };
    // The kernel lays values out at multiples of eight bytes.
    assert_eq!(size_of::<T>() % 8, 0, "{name} has no padding");
    MmapOptions::new()
        .len(size_of::<T>() * len)
        .map_raw(map.fd().as_fd().as_raw_fd())
        .with_context(|| format!("map the memory of {name}"))
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    #[test]
    fn who_has_spoken_is_told_from_others() {
        let unix = |pid: u32, path: &[u8], behind: u8| {
            let mut flow = Flow::new_zeroed();
            flow.ends.family = 1;
            flow.read.tgid = pid;
            flow.ends.path = [behind; agent_ebpf::PATH];
            flow.ends.path[..path.len()].copy_from_slice(path);
            flow.ends.path_len = path.len() as u16;
            spoken(&flow)
        };
        let known = unix(7, b"/run/app.sock", 0);
        assert!(known.is_some_and(|(slot, who)| slot < SPOKEN_SLOTS && who != 0));
        assert_eq!(known, unix(7, b"/run/app.sock", b'x'));
        let longest = [b'a'; agent_ebpf::PATH];
        let others = [
            unix(8, b"/run/app.sock", 0),
            unix(7, b"/run/app.sock2", 0),
            unix(7, b"/run/app.soc", b'k'),
            unix(7, b"/run/app.socl", 0),
            unix(7, b"/run/aqp.sock", 0),
            unix(7, b"", b'/'),
            unix(7, &longest, 0),
        ];
        assert!(
            others
                .iter()
                .all(|other| other.is_some() && *other != known)
        );
        assert_eq!(unix(0, b"/run/app.sock", 0), None);
        let tcp = |listener: u64, pid: u32| {
            let mut flow = Flow::new_zeroed();
            flow.ends.family = 2;
            flow.listener_cookie = listener;
            flow.read.tgid = pid;
            spoken(&flow)
        };
        assert_eq!((tcp(0, 7), tcp(5, 0)), (None, None));
        assert_ne!(tcp(5, 7), tcp(6, 7));
        assert_ne!(tcp(5, 7), tcp(5, 8));
    }

    /// Sockets lie side by side in slabs: where each has a slot, nothing is allocated.
    #[test]
    fn neighbouring_sockets_find_slots() {
        const SLAB: u64 = 32 << 10;
        for size in (960..3200).step_by(64) {
            let mut taken = [0; BUCKETS as usize];
            for n in 0..1000 {
                let (slab, place) = (n / (SLAB / size), n % (SLAB / size));
                let sk = 0xffff_8881_0abc_0000 + slab * SLAB + place * size;
                taken[bucket_of(sk) as usize] += 1;
            }
            let spilled: usize = taken.iter().map(|n: &usize| n.saturating_sub(WAYS)).sum();
            assert!(spilled <= 20, "{spilled} of 1000 sockets of {size} bytes");
        }
    }
}

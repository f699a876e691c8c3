//! The kernel half's state per socket, read from its memory; `agent-ebpf/src/slots.rs` says how it lies.

use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _};

use agent_ebpf::{BUCKETS, Bucket, Flow, Peer, WAYS, bucket_of};
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
    use super::*;

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

//! All maps, with their sizes and why that size.

use agent_ebpf::{
    BUCKETS, Bucket, COMM, Destination, Filtered, Flow, JOIN_SLOTS, Joins, LATE_SLOTS, Left,
    ListenerKey, ListenerValue, Peer, RESET_SLOTS, SLOTS, SPOKEN_SLOTS, SentReset, Thread, UnixKey,
    WATCHED_BLOCK, WATCHED_THREADS, WAYS, counter, tail,
};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};

use crate::slots::Table;

/// Allocate entries when used: a host with ten connections pays for ten.
const NO_PREALLOC: u32 = 1;

/// Threads of watched proxies. The agent sizes processes, not connections.
#[map]
pub static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(4096, NO_PREALLOC);

/// The same state for the threads that came first to their slot: an array access instead of a hash
/// look-up. nginx has one thread per core, so nearly all have one.
#[map]
pub static SLOT_THREADS: Array<Thread> = Array::with_max_entries(SLOTS, 0);

/// One byte per thread id: whether it is watched. The filter that comes first in every hook costs an
/// inlined array access; a hash look-up would cost every process on the host 20 ns per call. Bytes,
/// not bits: neighbours start and end on other CPUs, and BPF in Rust has no atomic or.
#[map]
pub static WATCHED: Array<[u8; WATCHED_BLOCK]> =
    Array::with_max_entries(WATCHED_THREADS / WATCHED_BLOCK as u32, 0);

/// The agent reads it, and forgets what dead processes held, without system calls.
const MMAPABLE: u32 = 1 << 10;

/// Connections of watched proxies, by `struct sock` address: 2 MB at once, and what a proxy with
/// 32,000 connections each way needs beyond that.
pub const CONNECTIONS: Table<Flow> = Table {
    buckets: &FLOW_BUCKETS,
    values: &FLOW_SLOTS,
    rest: &FLOWS,
};
#[map]
static FLOW_BUCKETS: Array<Bucket> = Array::with_max_entries(BUCKETS, MMAPABLE);
#[map]
static FLOW_SLOTS: Array<Flow> = Array::with_max_entries(BUCKETS * WAYS as u32, MMAPABLE);
#[map]
static FLOWS: HashMap<u64, Flow> = HashMap::with_max_entries(65_536, NO_PREALLOC);

/// The upstream's ends of TCP connections on this host, by `struct sock` address.
pub const UPSTREAM_ENDS: Table<Peer> = Table {
    buckets: &PEER_BUCKETS,
    values: &PEER_SLOTS,
    rest: &PEERS,
};
#[map]
static PEER_BUCKETS: Array<Bucket> = Array::with_max_entries(BUCKETS, MMAPABLE);
#[map]
static PEER_SLOTS: Array<Peer> = Array::with_max_entries(BUCKETS * WAYS as u32, MMAPABLE);
#[map]
static PEERS: HashMap<u64, Peer> = HashMap::with_max_entries(32_768, NO_PREALLOC);

/// TCP connections whose other end has not been seen yet, by sequence numbers. On one host the other
/// end follows within microseconds, between namespaces that are far apart after a round trip: the
/// oldest of a slot gives way to the next, and none is ever removed.
#[map]
pub static JOIN: Array<Joins> = Array::with_max_entries(JOIN_SLOTS, 0);

/// TCP listeners of every network namespace.
#[map]
pub static LISTENERS: HashMap<ListenerKey, ListenerValue> =
    HashMap::with_max_entries(8192, NO_PREALLOC);

/// Unix listeners by what a proxy's connect() names them; filled by the agent.
#[map]
pub static UNIX_LISTENERS: HashMap<UnixKey, ListenerValue> =
    HashMap::with_max_entries(4096, NO_PREALLOC);

/// Processes that serve upstreams, and their parents: their deaths and signals are told.
#[map]
pub static SERVERS: HashMap<u32, u32> = HashMap::with_max_entries(16_384, NO_PREALLOC);

/// Names of programs to watch when they are executed.
#[map]
pub static PROXY_NAMES: HashMap<[u8; COMM], u8> = HashMap::with_max_entries(64, NO_PREALLOC);

/// Destinations of packets that a filter dropped; the least recent give way.
#[map]
pub static FILTERED: LruHashMap<Destination, Filtered> = LruHashMap::with_max_entries(1024, 0);

/// Resets on their way from one socket of this host to another, by where the packet was going that
/// they answer: a later one takes the slot.
#[map]
pub static RESETS: Array<SentReset> = Array::with_max_entries(RESET_SLOTS, 0);

/// Clients whose idle connection the proxy closed, by where their next request would be going: a later one
/// takes the slot.
#[map]
pub static LEFT: Array<Left> = Array::with_max_entries(LATE_SLOTS, 0);

/// Upstreams that have answered HTTP with HTTP: a later one takes the slot. The agent reads it.
#[map]
pub static SPOKEN: Array<u64> = Array::with_max_entries(SPOKEN_SLOTS, MMAPABLE);

/// Records to the agent. 2,000 failures a second are 5 MB a second; the agent reads within milliseconds.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(2 << 20, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::LEN, 0);

/// What the iterator lists: 0 every socket, 1 only those that listen.
#[map]
pub static LISTENERS_ONLY: Array<u32> = Array::with_max_entries(1, 0);

/// The second half of `inet_sock_set_state`, which a program on the same hook calls: verified as one,
/// the two would take 9 MB more at start. With it what tells of ends of connections from elsewhere.
#[map]
pub static TELL_END: ProgramArray = ProgramArray::with_max_entries(tail::LEN, 0);

/// An all-zero flow to insert: too large for the stack.
#[map]
pub static ZERO_FLOW: Array<Flow> = Array::with_max_entries(1, 0);

/// An all-zero thread to insert.
#[map]
pub static ZERO_THREAD: Array<Thread> = Array::with_max_entries(1, 0);

/// Adds one to a counter.
#[inline(always)]
pub fn count(index: u32) {
    if let Some(n) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a per-CPU slot; the probe cannot be interrupted by itself on this CPU.
        unsafe { *n += 1 };
    }
}

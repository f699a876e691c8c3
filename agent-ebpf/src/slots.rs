//! State per socket, by its address: buckets of slots, and a hash map for sockets that find no slot.
//!
//! Array accesses are inlined and allocate nothing: inserting into a hash map and removing again
//! costs the proxy microseconds per connection. The keys of a bucket share a cache line, since most
//! sockets on a host are looked for in vain.

use core::arch::asm;

use agent_ebpf::{Bucket, WAYS, bucket_of};
use aya_ebpf::maps::{Array, HashMap};

/// The three maps of one kind of state.
pub struct Table<T: 'static> {
    pub buckets: &'static Array<Bucket>,
    pub values: &'static Array<T>,
    pub rest: &'static HashMap<u64, T>,
}

impl<T: 'static> Table<T> {
    #[inline(always)]
    pub fn get(&self, sk: u64) -> Option<*mut T> {
        let index = bucket_of(sk);
        // SAFETY: a map value.
        let bucket = unsafe { &*self.buckets.get_ptr(index)? };
        match way(bucket, sk) {
            Some(way) => self.values.get_ptr_mut(index * WAYS as u32 + way),
            None if bucket.spilled == 0 => None,
            None => self.rest.get_ptr_mut(sk),
        }
    }

    /// The state of this socket, new and of whatever content, or that of an earlier one at its address.
    #[inline(always)]
    pub fn insert(&self, sk: u64, zero: &T) -> Option<*mut T> {
        if let Some(leftover) = self.get(sk) {
            return Some(leftover);
        }
        let index = bucket_of(sk);
        // SAFETY: a map value. Two that insert at once are kept apart by `lock`.
        let bucket = unsafe { &mut *self.buckets.get_ptr_mut(index)? };
        let free = if try_lock(bucket) {
            let free = way(bucket, 0);
            if let Some(way) = free {
                bucket.sk[way as usize & (WAYS - 1)] = sk;
            }
            free
        } else {
            None
        };
        if let Some(way) = free {
            unlock(bucket);
            return self.values.get_ptr_mut(index * WAYS as u32 + way);
        }
        unlock(bucket);
        bucket.spilled = 1;
        self.rest.insert(sk, zero, 0).ok()?;
        self.rest.get_ptr_mut(sk)
    }

    #[inline(always)]
    pub fn remove(&self, sk: u64) {
        // SAFETY: a map value.
        let Some(bucket) = self
            .buckets
            .get_ptr_mut(bucket_of(sk))
            .map(|b| unsafe { &mut *b })
        else {
            return;
        };
        match way(bucket, sk) {
            Some(way) => bucket.sk[way as usize & (WAYS - 1)] = 0,
            None => _ = self.rest.remove(sk),
        }
    }
}

/// Which slot of the bucket holds this address.
#[inline(always)]
fn way(bucket: &Bucket, sk: u64) -> Option<u32> {
    let [a, b, c, d] = &bucket.sk;
    if *a == sk {
        Some(0)
    } else if *b == sk {
        Some(1)
    } else if *c == sk {
        Some(2)
    } else if *d == sk {
        Some(3)
    } else {
        None
    }
}

/// Whether nobody else inserts into this bucket. Kernels before 5.12 let programs add atomically and
/// nothing else: who reads one after adding one is alone; of two at once neither may be. Nobody
/// waits, and `unlock` belongs to every try.
#[inline(always)]
fn try_lock(bucket: &mut Bucket) -> bool {
    add(&mut bucket.lock, 1);
    // SAFETY: a map value.
    unsafe { (&raw const bucket.lock).read_volatile() == 1 }
}

#[inline(always)]
fn unlock(bucket: &mut Bucket) {
    add(&mut bucket.lock, -1);
}

/// Adds atomically. Rust knows no atomics for this target.
#[inline(always)]
pub fn add(to: &mut u64, amount: i64) {
    // SAFETY: the verifier checks the address.
    unsafe {
        asm!("lock *(u64 *)({to} + 0) += {amount}", to = in(reg) to, amount = in(reg) amount);
    }
}

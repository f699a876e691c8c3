//! Asks for memory before it is needed, so that nothing waits for it.

/// So much comes from memory at once.
const LINE: usize = 64;

/// Asks for a value, or for a part of one; on other processors than those below it does nothing.
#[inline(always)]
pub(super) fn prefetch<T>(value: &T) {
    for at in (0..size_of::<T>()).step_by(LINE) {
        line(std::ptr::from_ref(value).cast::<u8>().wrapping_add(at));
    }
}

/// Asks for bytes that may be anywhere, or nowhere, and are not needed soon: the first-level cache is
/// left to others.
#[inline(always)]
pub(super) fn bytes(from: *const u8, length: usize) {
    for at in (0..length).step_by(LINE) {
        far_line(from.wrapping_add(at));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint; it reads nothing that the program could see, and cannot fail.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn far_line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn line(_: *const u8) {}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn far_line(_: *const u8) {}

//! The compiled kernel half, embedded in the program.

/// Empty where the program was built without a BPF toolchain.
pub static PROBES: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probes"));

/// Which compiler built it.
pub const BUILT_BY: &str = env!("WHY502_KERNEL_HALF");

//! The packet source: from frames, offline or live, to the same signals as the kernel source makes.

pub mod decode;
pub mod file;
pub mod live;
pub mod raw;
pub mod segment;

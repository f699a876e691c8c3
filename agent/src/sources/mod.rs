//! Where signals come from.

pub mod kernel;
pub mod packets;
pub mod process;
pub mod recording;
pub mod wire;

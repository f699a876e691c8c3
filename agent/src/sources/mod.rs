//! Where signals come from.

pub mod cluster;
pub mod kernel;
pub mod logs;
pub mod packets;
pub mod process;
pub mod recording;
pub mod wire;

//! why502: labels every 502, 503 and 504 of a reverse proxy with its root cause.

pub mod cause;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod diagnose;
mod https;
pub mod packet;
pub mod privileges;
pub mod run;
pub mod settings;
pub mod signal;
pub mod sinks;
pub mod sources;
pub mod track;
pub mod verdict;

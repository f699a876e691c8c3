//! Wires sources, tracker and sinks; only the files in here name every one of them.

mod again;
mod excerpt;
mod explain;
mod following;
mod history;
mod live;
mod logs;
mod otlp;
mod packets;
mod pipeline;
mod report;
mod until_seen;
mod watching;
mod workloads;

pub use explain::explain;
pub use live::{capture, run};
pub use report::report;

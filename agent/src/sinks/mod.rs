//! Where results go: standard output, metrics, files.

pub mod annotate;
mod escape;
mod file;
pub mod history;
pub mod http;
pub mod json;
pub mod metrics;
pub mod otlp;
pub mod output;
pub mod privacy;
pub mod record;
mod redact;
pub mod report;
pub mod results;
pub mod summary;
pub mod table;

#[cfg(test)]
pub(crate) mod sample;

pub use escape::visible;
pub use file::create_private;

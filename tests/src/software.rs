//! The real software of the scenarios: one file each, generated configuration, ready when it serves.

mod applog;
mod go;
mod gunicorn;
mod haproxy;
mod nginx;
mod node;
mod scripted;
mod uwsgi;

pub use applog::{AppLog, Line};
pub use go::go_program;
pub use gunicorn::Gunicorn;
pub use haproxy::Haproxy;
pub use nginx::Nginx;
pub use node::{Node, node_program};
pub use scripted::Scripted;
pub use uwsgi::Uwsgi;

/// Writes an application unless it is there: another server's worker may just be loading it.
pub fn provide(file: &std::path::Path, text: &str) -> std::io::Result<()> {
    match std::fs::read_to_string(file) {
        Ok(there) if there == text => Ok(()),
        _ => std::fs::write(file, text),
    }
}

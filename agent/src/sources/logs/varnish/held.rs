//! Connects that failed and are held against their backend for a while: Varnish makes none meanwhile,
//! and says `errno 0`. Pure.

use std::collections::HashMap;

use crate::signal::{Nanos, Said};

/// For how long, by default.
fn held(errno: i32) -> Nanos {
    match errno {
        // EADDRNOTAVAIL, EACCES, EPERM: `backend_local_error_holddown`.
        99 | 13 | 1 => 10_000_000_000,
        // `backend_remote_error_holddown`.
        _ => 250_000_000,
    }
}

/// Backends remembered.
const BACKENDS: usize = 256;

/// By the backend's name: with which error, and when.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<String, (i32, Nanos)>);

impl Held {
    /// What a failed connect says, or one that was not made for the last one that failed.
    pub(super) fn said(&mut self, backend: &str, at: Nanos, errno: i32) -> Said {
        let of_last =
            |(errno, then): &(i32, Nanos)| (at.abs_diff(*then) <= held(*errno)).then_some(*errno);
        match errno {
            0 => match self.0.get(backend).and_then(of_last) {
                Some(errno) => Said::ConnectFailed { errno },
                None => Said::NotConnected,
            },
            110 => Said::ConnectTimedOut,
            errno => {
                if self.0.len() >= BACKENDS {
                    self.0.clear();
                }
                self.0.insert(backend.to_owned(), (errno, at));
                Said::ConnectFailed { errno }
            }
        }
    }
}

//! Why no live capture runs, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why no capture runs, or runs no longer.
#[derive(Debug)]
pub enum Error {
    Namespace {
        path: PathBuf,
        error: io::Error,
    },
    Thread(io::Error),
    /// libpcap's own words.
    Capture {
        interface: String,
        message: String,
    },
    Filter {
        filter: String,
        message: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Namespace { path, error } => {
                write!(f, "enter the network namespace {}: {error}", path.display())?;
                if error.kind() == io::ErrorKind::PermissionDenied {
                    f.write_str("; it needs root or CAP_SYS_ADMIN and CAP_SYS_PTRACE")?;
                }
                Ok(())
            }
            Error::Thread(error) => write!(f, "start a thread: {error}"),
            Error::Capture { interface, message } => {
                write!(f, "capture on {interface}: {message}")?;
                if message.contains("permission") || message.contains("permitted") {
                    f.write_str(
                        "; run it as root, or once `setcap cap_net_raw=ep` on the program",
                    )?;
                }
                Ok(())
            }
            Error::Filter { filter, message } => {
                write!(f, "the capture filter \"{filter}\": {message}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Namespace { error, .. } | Error::Thread(error) => Some(error),
            Error::Capture { .. } | Error::Filter { .. } => None,
        }
    }
}

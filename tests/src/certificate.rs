//! A key and its certificate, which nobody has signed, made when they are needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Files that a server speaks TLS with.
pub struct Certificate {
    pub key: PathBuf,
    pub certificate: PathBuf,
    /// The two in one file, as HAProxy wants them.
    pub both: PathBuf,
}

impl Certificate {
    /// `NAMEkey.pem`, `NAMEcert.pem` and `NAMEboth.pem` in this folder.
    pub fn make(folder: &Path, name: &str) -> Result<Certificate> {
        let file = |what: &str| folder.join(format!("{name}{what}.pem"));
        let made = Certificate {
            key: file("key"),
            certificate: file("cert"),
            both: file("both"),
        };
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=lab.example", "-keyout"])
            .arg(&made.key)
            .arg("-out")
            .arg(&made.certificate)
            .output()
            .context("run openssl")?;
        if !output.status.success() {
            bail!("openssl: {}", String::from_utf8_lossy(&output.stderr));
        }
        let parts = [&made.certificate, &made.key].map(std::fs::read);
        let [certificate, key] = parts;
        std::fs::write(&made.both, [certificate?, key?].concat())?;
        Ok(made)
    }
}

//! Kept-alive client connections within TLS: `openssl s_client` encrypts, HTTP/1.1 is spoken through it.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::{Conn, Request};
use crate::ledger::Ledger;

impl Conn {
    /// Opens a connection whose handshake is over: `first` has been answered on it.
    pub async fn open_tls(to: SocketAddr, ledger: &Arc<Ledger>, first: Request) -> Result<Conn> {
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-quiet", "-ign_eof", "-connect"])
            .arg(to.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("run openssl s_client")?;
        let output = openssl.stdout.take().context("its output")?;
        let input = openssl.stdin.take().context("its input")?;
        // It ends when its connection does.
        tokio::task::spawn_local(async move { openssl.wait().await });
        let mut conn = Conn::over(to, Box::new(tokio::io::join(output, input)), ledger);
        let sent = conn.send(&first).await;
        sent.error
            .map_or(Ok(conn), |error| Err(anyhow::anyhow!("{to}: {error}")))
    }
}

//! All ports from which the proxy's host may call the upstream are taken by connections that have ended a
//! moment ago, as where a proxy keeps none.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{By, Cause, Stage};
use crate::matrix::proxies::Target;

/// A port is taken towards one upstream; towards others these are more than all clients of a second use.
const PORTS: (usize, usize) = (40_000, 40_511);
/// Connects under way at once.
const BATCH: usize = 64;

pub(super) const CAUSE: Cause = Cause {
    name: "ports_exhausted",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.in_few_crowds();
        // On loopback a port is free again after a second.
        stage.apart(Duration::from_millis(1))?;
        let to = stage.serve_there()?;
        let (first, last) = PORTS;
        stage.near.sh(&format!(
            "cd /proc/sys/net/ipv4 && echo {first} {last} > ip_local_port_range && echo 2 > tcp_tw_reuse"
        ))?;
        if let Target::Tcp(address) = to {
            take_ports(stage, address)?;
        }
        // After that: a check that ends leaves a port to the next one.
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};

/// Opens connections and closes them, until no port is left.
fn take_ports(stage: &Stage, to: SocketAddr) -> Result<()> {
    let (first, last) = PORTS;
    stage.near.traffic(async || {
        for _ in 0..=(last - first + 1).div_ceil(BATCH) {
            let mut batch = JoinSet::new();
            for _ in 0..BATCH {
                batch.spawn_local(async move { TcpStream::connect(to).await.map(drop) });
            }
            for connected in batch.join_all().await {
                match connected {
                    Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return Ok(()),
                    connected => connected?,
                }
            }
        }
        bail!("there are still ports towards {to}")
    })
}

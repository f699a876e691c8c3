//! Clients of one proxy and its connects, several at once.

use super::build::*;

const PROXY: &str = "10.0.0.1:80";

/// Clients' connections to one proxy, and its connects.
#[derive(Default)]
pub(super) struct Crowd {
    pub wire: Wire,
    pub fronts: Vec<Connection>,
    backs: u16,
}

impl Crowd {
    /// A request that arrives now, on a connection of its own.
    pub(super) fn ask(&mut self, ms: f64, path: &str) -> usize {
        let port = 5000 + self.fronts.len();
        let mut front = self.wire.at(ms).open(&format!("10.0.0.9:{port}"), PROXY);
        self.wire.send(&mut front, CLIENT, &request("GET", path));
        self.fronts.push(front);
        self.fronts.len() - 1
    }

    pub(super) fn answer(&mut self, ms: f64, which: usize, status: u16) {
        self.wire
            .at(ms)
            .send(&mut self.fronts[which], SERVER, &response(status));
    }

    pub(super) fn back(&mut self, server: &str) -> Connection {
        self.backs += 1;
        self.wire
            .connection(&format!("10.0.0.1:{}", 40_000 + self.backs), server)
    }

    pub(super) fn refused(&mut self, ms: f64, server: &str) {
        let mut back = self.back(server);
        self.wire.at(ms).syn(&mut back);
        self.wire.at(ms + 0.01).push(&mut back, SERVER, 0x14, b"");
    }

    /// SYNs after 0 and 1 s.
    pub(super) fn unanswered(&mut self, ms: f64, server: &str) {
        let back = self.back(server);
        for at in [ms, ms + 1000.0] {
            self.wire.at(at).syn(&mut back.clone());
        }
    }

    /// An attempt that the upstream answers.
    pub(super) fn forward(&mut self, ms: f64, path: &str, status: u16) {
        let client = format!("10.0.0.1:{}", 40_001 + self.backs);
        self.backs += 1;
        let mut back = self.wire.at(ms).open(&client, "10.0.0.2:8000");
        self.wire.send(&mut back, CLIENT, &request("GET", path));
        self.wire
            .at(ms + 1.0)
            .send(&mut back, SERVER, &response(status));
    }

    /// `path label → upstreams`, in the order of paths.
    pub(super) fn told(mut self) -> Vec<String> {
        self.wire.packets.sort_by_key(|packet| packet.at);
        let mut lines: Vec<String> = verdicts(&self.wire.packets, &[])
            .iter()
            .map(|decided| {
                let to: Vec<&str> = decided
                    .attempts
                    .iter()
                    .map(|tried| tried.attempt.upstream.0.as_str())
                    .collect();
                let path = path(decided).unwrap_or_default();
                format!("{path} {} → {}", label(decided), to.join(" "))
            })
            .collect();
        lines.sort();
        lines
    }
}

pub(super) fn path(decided: &crate::track::Decided) -> Option<String> {
    let (_, _, response) = decided.response.as_ref()?;
    match response.request.as_ref()? {
        crate::signal::Opening::HttpRequest { path, .. } => Some(path.clone()),
        _ => None,
    }
}

pub(super) const UNKNOWN: &str = "unknown unknown (upstream_side, proxy_log) → ";

pub(super) const REFUSED: &str = "connection_refused likely (exchange_link) → 10.0.0.2:9000";

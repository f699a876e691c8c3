//! The proxy's client side: plain HTTP/1.1, or TLS and HTTP/2 where the kernel cannot see a status.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

pub(super) use crate::certificate::Certificate;
use crate::client::{self, Conn, Request, Timed, curl};
use crate::expect::{Check, Expect};
use crate::ledger::Sent;
use crate::netns::NetNs;
use crate::run::Run;

pub(super) const PLAIN_PORT: u16 = 8080;
const TLS_PORT: u16 = 8443;

/// One that nobody trusts, made now.
pub(super) fn certificate(run: &Run) -> Result<Certificate> {
    Certificate::make(&run.folder, "")
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    Plain,
    TlsHttp2,
}

/// Where the plain client connects.
pub(super) fn plain() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], PLAIN_PORT))
}

/// A location that nginx answers by itself.
const ALIVE: &str = "/alive";

/// A location that always fails in the same way, for runs that expect no verdict.
pub(super) const KNOWN_LOCATION: &str = "location /known { proxy_pass http://127.0.0.1:9999; }";

/// Injects the known failure once: such a run does so before, in the middle and after.
pub(super) fn known_failure(run: &mut Run, ns: &NetNs) -> Result<()> {
    let request = Request::get(run.path("/known"));
    let expect = Expect::verdict("injected", &[502], "connection_refused").variant("no_listener");
    let request = run.expecting(request, &expect);
    Front::Plain.burst(run, ns, vec![(Duration::ZERO, request)])?;
    run.at_least("injected", 3);
    Ok(())
}

impl Front {
    /// The `listen` directives of a server.
    pub(super) fn listen(self, run: &Run) -> Result<String> {
        let plain = format!(
            "listen 127.0.0.1:{PLAIN_PORT} backlog=4096; location {ALIVE} {{ return 200; }}"
        );
        if self == Front::Plain {
            return Ok(plain);
        }
        let Certificate {
            key, certificate, ..
        } = certificate(run)?;
        Ok(format!(
            "{plain} listen 127.0.0.1:{TLS_PORT} ssl http2 backlog=4096; ssl_certificate {}; ssl_certificate_key {};",
            certificate.display(),
            key.display()
        ))
    }

    /// Sends each request at its time; those of one time share a connection where the protocol can.
    pub(super) fn burst(self, run: &Run, ns: &NetNs, requests: Vec<Timed>) -> Result<Vec<Sent>> {
        if self == Front::Plain {
            return ns.traffic(async || Ok(client::burst(plain(), &run.ledger, requests).await));
        }
        let mut groups: Vec<(Duration, Vec<Request>)> = Vec::new();
        for (at, request) in requests {
            match groups.iter_mut().find(|(time, _)| *time == at) {
                Some((_, group)) => group.push(request),
                None => groups.push((at, vec![request])),
            }
        }
        let start = Instant::now();
        let address = SocketAddr::from(([127, 0, 0, 1], TLS_PORT));
        thread::scope(|scope| {
            let sending: Vec<_> = groups
                .iter()
                .map(|(at, group)| {
                    scope.spawn(move || {
                        thread::sleep((start + *at).saturating_duration_since(Instant::now()));
                        curl::together(ns, address, &run.ledger, &run.folder, group)
                    })
                })
                .collect();
            let mut all = Vec::new();
            for group in sending {
                all.extend(group.join().expect("curl thread")?);
            }
            Ok(all)
        })
    }

    /// Opens `count` connections that are ready for a request each, now.
    pub(super) async fn open(self, run: &Run, count: usize) -> Result<Vec<Conn>> {
        if self == Front::Plain {
            return client::open(plain(), &run.ledger, count).await;
        }
        let address = SocketAddr::from(([127, 0, 0, 1], TLS_PORT));
        let mut conns = Vec::with_capacity(count);
        for _ in 0..count {
            let first = Request::get(run.path(ALIVE));
            conns.push(Conn::open_tls(address, &run.ledger, first).await?);
        }
        Ok(conns)
    }

    /// How long a request takes from its time in a burst until the proxy reads it: nothing, or
    /// the start of a curl and a TLS handshake, which is measured.
    pub(super) fn lead(self, run: &Run, ns: &NetNs) -> Result<Duration> {
        if self == Front::Plain {
            return Ok(Duration::ZERO);
        }
        let mut times = Vec::new();
        for _ in 0..5 {
            let request = Request::get(run.path(ALIVE));
            let began = Instant::now();
            self.burst(run, ns, vec![(Duration::ZERO, request)])?;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    /// How many requests of a strike share a connection.
    pub(super) fn bundle(self) -> usize {
        match self {
            Front::Plain => 1,
            Front::TlsHttp2 => 4,
        }
    }

    /// The truth as it can be seen through this front.
    pub(super) fn adapt(self, expect: Expect) -> Expect {
        match self {
            Front::Plain => expect,
            Front::TlsHttp2 => expect.with(Check::StatusUnseen),
        }
    }
}

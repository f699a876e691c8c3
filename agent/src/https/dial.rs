//! Connections to servers, each from a port that is noted before anything is sent from it: what is
//! captured of them is no proxy's affair.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time;
use tower_service::Service;

use crate::clock;
use crate::signal::Nanos;

/// A server that is gone without a word is noticed after some of these.
const PROBE: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// Connects remembered.
const NOTED: usize = 64;
/// A connect is sent this soon after its port was noted, however busy the host is.
const SOON: Nanos = 1_000_000_000;

/// The ports from which this program asked last.
pub(crate) static PORTS: Ports = Ports::new();

/// Ports of connects, and when those were about to be made.
#[derive(Debug)]
pub(crate) struct Ports(Mutex<VecDeque<(u16, Nanos)>>);

impl Ports {
    pub(crate) const fn new() -> Ports {
        Ports(Mutex::new(VecDeque::new()))
    }

    pub(crate) fn note(&self, port: u16, at: Nanos) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.truncate(NOTED - 1);
        noted.push_front((port, at));
    }

    /// Whether a connect at this time, from this port of our own network namespace, is ours.
    pub(crate) fn has(&self, port: u16, at: Nanos) -> bool {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut noted = noted.iter();
        noted.any(|(known, then)| *known == port && then.abs_diff(at) <= SOON)
    }
}

/// Connects, but no longer than it has patience.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialer {
    patience: Duration,
    ports: &'static Ports,
}

impl Dialer {
    pub(super) fn new(patience: Duration, ports: &'static Ports) -> Dialer {
        Dialer { patience, ports }
    }

    async fn dial(self, to: Uri) -> io::Result<TcpStream> {
        let host = to.host().ok_or(io::ErrorKind::InvalidInput)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let usual = if to.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let found = lookup_host((host, to.port_u16().unwrap_or(usual))).await?;
        let addresses: Vec<SocketAddr> = found.collect();
        let patience = self.patience / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut first = None;
        for address in addresses {
            match time::timeout(patience, self.connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => first = first.or(Some(error)),
                Err(_) => first = first.or(Some(io::ErrorKind::TimedOut.into())),
            }
        }
        Err(first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
    }

    async fn connect(self, to: SocketAddr) -> io::Result<TcpStream> {
        let (socket, any) = match to {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into()),
        };
        let probes = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
        SockRef::from(&socket).set_tcp_keepalive(&probes.with_retries(PROBES))?;
        // Where no port is free for every server, one may still be for this.
        if socket.bind(SocketAddr::new(any, 0)).is_ok() {
            let port = socket.local_addr()?.port();
            self.ports.note(port, clock::unix_now());
        }
        socket.connect(to).await
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let dialer = *self;
        Box::pin(async move { dialer.dial(to).await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_port_is_noted_whether_the_connect_succeeds_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let uri: Uri = format!("http://{to}/v1/logs").parse().unwrap();
        let ports: &'static Ports = Box::leak(Box::new(Ports::new()));
        let dialer = Dialer::new(Duration::from_secs(10), ports);
        let noted = || ports.0.lock().unwrap().len();

        let stream = dialer.dial(uri.clone()).await.unwrap();
        let (_accepted, from) = listener.accept().await.unwrap();
        let now = clock::unix_now();
        assert!(ports.has(from.port(), now) && !ports.has(to.port(), now));
        assert!(!ports.has(from.port(), now + 10 * SOON));
        assert!(SockRef::from(&stream).keepalive().unwrap());

        drop(listener);
        let before = noted();
        let error = dialer.dial(uri).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(noted() > before);
    }

    #[test]
    fn what_is_noted_is_bounded() {
        let ports = Ports::new();
        for port in 1..=1000 {
            ports.note(port, 5);
        }
        assert_eq!(ports.0.lock().unwrap().len(), NOTED);
        assert!(ports.has(1000, 5) && !ports.has(1, 5));
    }
}

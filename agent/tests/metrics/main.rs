//! The metrics as Prometheus reads them.

mod export;
mod http;
mod prometheus;
mod week;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use why502::cause::Cause;
use why502::signal::Address;
use why502::sinks::http::Server;
use why502::sinks::metrics::{Metrics, Who};
use why502::verdict::{
    Advice, AttemptLine, Client, Confidence, Kind, Party, Request, VERSION, Verdict,
};

pub(crate) fn verdict(kind: Kind, status: Option<u16>, cause: Cause, upstream: &str) -> Verdict {
    let outcome = match cause {
        Cause::UpstreamReset => "reset",
        Cause::KeepaliveRace => "peer_closed",
        _ => "connect_failed",
    };
    Verdict {
        kind,
        version: VERSION,
        id: String::new(),
        time: String::new(),
        node: String::new(),
        status,
        status_source: None,
        status_rewritten: false,
        cause,
        variant: None,
        confidence: Confidence::Proven,
        duration_us: None,
        proxy: Party {
            name: Some("nginx".to_owned()),
            ..Party::default()
        },
        client: Client::default(),
        request: Request::default(),
        upstream: Party {
            address: Some(Address(upstream.to_owned())),
            ..Party::default()
        },
        attempts: vec![AttemptLine {
            upstream: Address(upstream.to_owned()),
            local: None,
            at_us: -10,
            reused: false,
            requests_before: 0,
            idle_us: None,
            connect_us: None,
            duration_us: 1,
            bytes_sent: 0,
            bytes_received: 0,
            outcome,
            cause: Some(cause),
            isn: None,
        }],
        evidence: Vec::new(),
        missing: Vec::new(),
        advice: Advice::default(),
        lost_signals: 0,
        contradicted: false,
        at: 5,
        delay_ns: 40_000_000,
    }
}

/// nginx runs, in no cluster.
pub(crate) fn nginx_seen(metrics: &Metrics, processes: u64) {
    metrics.proxies_watched(&[(Who::named("nginx"), processes)].into());
}

/// A server on a thread of its own; dropping it ends both.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

pub(crate) fn serve(metrics: Arc<Metrics>) -> Serving {
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        runtime().block_on(async {
            let any = "127.0.0.1:0".parse().unwrap();
            let server = Server::bind(any, metrics).await.unwrap();
            tell.send(server.address().unwrap()).unwrap();
            tokio::select! {
                () = server.serve() => {}
                _ = stopped => {}
            }
        });
    });
    Serving {
        address: told.recv().unwrap(),
        stop: Some(stop),
        thread: Some(thread),
    }
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

//! A test server: an HTTP server that takes OTLP as a collector does, and can be told to be away.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Manner {
    Takes,
    /// Takes all but so many of each request.
    Rejects(i64),
    /// Answers with this status, and takes nothing.
    Status(u16),
    /// Reads, and never answers.
    Hangs,
    /// Breaks off, whoever was there or comes, as one that is restarted behind its address.
    Breaks,
}

#[derive(Debug, Default)]
pub(super) struct Received {
    /// How often each verdict came, by its id.
    pub(super) ids: BTreeMap<String, u64>,
    /// Requests for logs, whatever became of them.
    pub(super) requests: u64,
    /// The metrics that came last, by name.
    pub(super) metrics: Vec<String>,
    pub(super) service: String,
}

#[derive(Debug)]
struct Shared {
    received: Mutex<Received>,
    manner: Mutex<Manner>,
    news: Condvar,
}

/// Has its port from the start; listens when it is told to.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    listen: Option<oneshot::Sender<()>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Receiver {
    /// Connections are refused until `listen`.
    pub(super) fn away(manner: Manner) -> Receiver {
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            manner: Mutex::new(manner),
            news: Condvar::new(),
        });
        let (listen, listens) = oneshot::channel();
        let (stop, stops) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
                tell.send(socket.local_addr().unwrap()).unwrap();
                tokio::select! {
                    _ = stops => {}
                    () = async {
                        if listens.await.is_ok() {
                            serve(socket, &served).await;
                        }
                    } => {}
                }
            });
        });
        Receiver {
            address: told.recv().unwrap(),
            shared,
            listen: Some(listen),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(super) fn start(manner: Manner) -> Receiver {
        let mut receiver = Receiver::away(manner);
        receiver.listen();
        receiver
    }

    pub(super) fn listen(&mut self) {
        self.listen.take().unwrap().send(()).unwrap();
    }

    pub(super) fn becomes(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// Waits until what was received is as wanted.
    pub(super) fn until<T>(&self, wanted: impl Fn(&Received) -> Option<T>) -> T {
        let mut received = self.shared.received.lock().unwrap();
        loop {
            if let Some(found) = wanted(&received) {
                return found;
            }
            let (next, timeout) = self
                .shared
                .news
                .wait_timeout(received, Duration::from_secs(60))
                .unwrap();
            received = next;
            assert!(!timeout.timed_out(), "{} ids came", received.ids.len());
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.listen = None;
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = self.thread.take().unwrap().join();
    }
}

async fn serve(socket: TcpSocket, shared: &Arc<Shared>) {
    let listener = socket.listen(16).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        if let Manner::Breaks = *shared.manner.lock().unwrap() {
            continue;
        }
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &shared));
            // A client that breaks off is what some tests are about.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: &Shared,
) -> Result<Response<Full<Bytes>>, io::Error> {
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    assert_eq!(request.headers()["content-encoding"], "gzip");
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut message = Vec::new();
    GzDecoder::new(&body[..]).read_to_end(&mut message).unwrap();
    let manner = *shared.manner.lock().unwrap();
    if let Manner::Breaks = manner {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if let Manner::Hangs = manner {
        shared.received.lock().unwrap().requests += 1;
        shared.news.notify_all();
        return std::future::pending().await;
    }
    let mut received = shared.received.lock().unwrap();
    let mut response = Response::new(Full::default());
    match (path.as_str(), manner) {
        ("/v1/metrics", _) => {
            let request = ExportMetricsServiceRequest::decode(&message[..]).unwrap();
            let scope = &request.resource_metrics[0].scope_metrics[0];
            received.metrics = scope.metrics.iter().map(|m| m.name.clone()).collect();
        }
        ("/v1/logs", Manner::Status(status)) => {
            received.requests += 1;
            *response.status_mut() = status.try_into().unwrap();
        }
        ("/v1/logs", manner) => {
            received.requests += 1;
            let request = ExportLogsServiceRequest::decode(&message[..]).unwrap();
            let rejected = match manner {
                Manner::Rejects(count) => count,
                _ => 0,
            };
            take(&request, usize::try_from(rejected).unwrap(), &mut received);
            let answer = ExportLogsServiceResponse {
                partial_success: (rejected > 0).then(|| ExportLogsPartialSuccess {
                    rejected_log_records: rejected,
                    error_message: "too many".to_owned(),
                }),
            };
            *response.body_mut() = Full::new(Bytes::from(answer.encode_to_vec()));
        }
        (other, _) => panic!("a request for {other}"),
    }
    shared.news.notify_all();
    Ok(response)
}

fn take(request: &ExportLogsServiceRequest, rejected: usize, received: &mut Received) {
    let logs = &request.resource_logs[0];
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let attributes = &logs.resource.as_ref().unwrap().attributes;
    let service = attributes.iter().find(|one| one.key == "service.name");
    let value = service.unwrap().value.as_ref().unwrap();
    received.service = text(value.value.as_ref().unwrap());
    for record in logs.scope_logs[0].log_records.iter().skip(rejected) {
        assert_eq!(record.event_name, "why502.verdict");
        let mut attributes = record.attributes.iter();
        let id = attributes.find(|one| one.key == "why502.id").unwrap();
        let id = text(id.value.as_ref().unwrap().value.as_ref().unwrap());
        *received.ids.entry(id).or_default() += 1;
    }
}

//! `/metrics`, `/healthz` and `/readyz`. A slow, silent or greedy client costs a bounded amount of
//! memory and time, and never holds up the diagnosis.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::Metrics;
use super::visible;

/// Connections at the same time; others wait in the listener's queue.
const CONNECTIONS: usize = 64;

/// Exports on their way at the same time: each can be most of a megabyte.
const EXPORTS: usize = 4;

/// From accept to the end of the response.
const PATIENCE: Duration = Duration::from_secs(10);

/// For the request's head alone, so that silent clients give their places up sooner.
const HEAD_PATIENCE: Duration = Duration::from_secs(3);

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// A server that listens already; `serve` answers.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    metrics: Arc<Metrics>,
}

impl Server {
    pub async fn bind(address: SocketAddr, metrics: Arc<Metrics>) -> anyhow::Result<Server> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("listen on {address} for metrics (choose another with --listen)")
        })?;
        Ok(Server { listener, metrics })
    }

    /// Where it listens; the port is real also where 0 was asked for.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.listener
            .local_addr()
            .context("read the address of the metrics listener")
    }

    /// Answers until the future is dropped.
    pub async fn serve(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let exports = Arc::new(Semaphore::new(EXPORTS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let client = Client {
                        metrics: Arc::clone(&self.metrics),
                        exports: Arc::clone(&exports),
                        export: OnceLock::new(),
                        from: from.ip(),
                    };
                    tokio::spawn(async move {
                        // A client that broke off or was too slow is its own affair.
                        let _ = tokio::time::timeout(PATIENCE, client.serve(stream)).await;
                        drop(place);
                    });
                }
                // Out of descriptors, or a connection that was gone already: let others end first.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// One connection.
struct Client {
    metrics: Arc<Metrics>,
    exports: Arc<Semaphore>,
    /// Held until the connection ends, because until then its export is in memory.
    export: OnceLock<OwnedSemaphorePermit>,
    from: IpAddr,
}

impl Client {
    async fn serve(&self, stream: TcpStream) -> hyper::Result<()> {
        let answer =
            service_fn(|request| async move { Ok::<_, Infallible>(self.answer(&request).await) });
        // One request per connection: no idle client keeps a place.
        http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), answer)
            .await
    }

    /// Whom to tell from others that read the metrics: servers of one host by what they call
    /// themselves.
    fn reader(&self, request: &Request<Incoming>) -> String {
        const NAME: usize = 128;
        let agent = request.headers().get(USER_AGENT).map(HeaderValue::as_bytes);
        let agent = agent.unwrap_or_default();
        let agent = String::from_utf8_lossy(&agent[..agent.len().min(NAME)]).into_owned();
        format!("{} {agent}", self.from)
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let known = matches!(path, "/metrics" | "/healthz" | "/readyz");
        if known && ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            refusal.headers_mut().insert(ALLOW, allowed);
            return refusal;
        }
        match path {
            // A HEAD must not use up peaks and first zeros that no one sees.
            "/metrics" if request.method() == Method::HEAD => {
                respond(StatusCode::OK, METRICS_TYPE, String::new())
            }
            "/metrics" => {
                if let Ok(permit) = Arc::clone(&self.exports).acquire_owned().await {
                    let _ = self.export.set(permit);
                }
                let export = self.metrics.render(&self.reader(request));
                respond(StatusCode::OK, METRICS_TYPE, export)
            }
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.metrics.ready() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &format!("not ready: {}\n", visible(&why)),
                ),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                "why502 serves /metrics, /healthz and /readyz\n",
            ),
        }
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(status, TEXT_TYPE, body.to_owned())
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

//! A small Kubernetes API over TLS, with certificates of its own: it lists pods and lets them be watched.
//! Shared by these tests and the lab.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rcgen::generate_simple_self_signed;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What the service account's requests have to show.
pub const TOKEN: &str = "a-token-of-a-service-account";

/// An API whose pods are those of one node; gone, with its connections, when dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    node: String,
    state: Mutex<State>,
    /// The newest version, or that it ends.
    news: watch::Sender<Option<u64>>,
}

#[derive(Default)]
struct State {
    version: u64,
    pods: BTreeMap<String, Value>,
    events: Vec<(u64, Value)>,
    /// Versions up to this one are not known any more.
    forgotten: u64,
    /// Answers everything with this status.
    refuses: Option<&'static str>,
    requests: Vec<String>,
}

impl Server {
    /// Writes a service account's `token` and `ca.crt` into `account` and serves on `listener`.
    pub fn start(listener: TcpListener, account: &Path, node: &str) -> io::Result<Server> {
        let address = listener.local_addr()?;
        let key = generate_simple_self_signed(vec![address.ip().to_string()])
            .map_err(io::Error::other)?;
        std::fs::create_dir_all(account)?;
        std::fs::write(account.join("ca.crt"), key.cert.pem())?;
        std::fs::write(account.join("token"), TOKEN)?;
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der());
        let tls = rustls::ServerConfig::builder_with_provider(
            rustls::crypto::ring::default_provider().into(),
        )
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            private.map_err(io::Error::other)?,
        )
        .map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            node: node.to_owned(),
            state: Mutex::default(),
            news: watch::channel(Some(0)).0,
        });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || serve(listener, TlsAcceptor::from(Arc::new(tls)), &shared))
        };
        Ok(Server {
            address,
            shared,
            thread: Some(thread),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a pod, or replaces the one with this UID: its metadata as the API has it.
    pub fn add(&self, mut metadata: Value) {
        self.change(|state, version| {
            metadata["resourceVersion"] = json!(version.to_string());
            let uid = metadata["uid"].as_str().unwrap_or_default().to_owned();
            let known = state.pods.insert(uid, metadata.clone()).is_some();
            (if known { "MODIFIED" } else { "ADDED" }, metadata)
        });
    }

    pub fn remove(&self, uid: &str) {
        self.change(|state, version| {
            let mut metadata = state.pods.remove(uid).unwrap_or_default();
            metadata["resourceVersion"] = json!(version.to_string());
            ("DELETED", metadata)
        });
    }

    /// Watches from any version until now end with 410 Gone.
    pub fn forget(&self) {
        self.change(|state, version| {
            state.forgotten = version;
            ("BOOKMARK", json!({"resourceVersion": version.to_string()}))
        });
    }

    /// Answers everything with this status line's end; `None`: no more.
    pub fn refuse(&self, status: Option<&'static str>) {
        self.state().refuses = status;
    }

    /// The targets that were asked for.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().expect("the API's state")
    }

    fn change(&self, change: impl FnOnce(&mut State, u64) -> (&'static str, Value)) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let (kind, metadata) = change(&mut state, version);
        state
            .events
            .push((version, json!({"type": kind, "object": partial(&metadata)})));
        self.shared.news.send_replace(Some(version));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.news.send_replace(None);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn partial(metadata: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

fn serve(listener: TcpListener, tls: TlsAcceptor, shared: &Arc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        listener.set_nonblocking(true).expect("a listener");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let mut news = shared.news.subscribe();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    let (tls, shared) = (tls.clone(), Arc::clone(shared));
                    tokio::spawn(async move {
                        // Who does not trust it, or is gone, breaks off.
                        if let Ok(stream) = tls.accept(stream).await {
                            let _ = converse(stream, &shared).await;
                        }
                    });
                }
                _ = news.wait_for(Option::is_none) => return,
            }
        }
    });
}

type Stream = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

async fn converse(mut stream: Stream, shared: &Shared) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let status = judge(&head, &target, shared);
        if let Some(status) = status {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
        } else if parameter(&target, "watch") == Some("true") {
            return watch(&mut stream, &target, shared).await;
        } else {
            let list = list(shared);
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{list}",
                list.len()
            );
            stream.write_all(answer.as_bytes()).await?;
        }
        stream.flush().await?;
    }
}

/// `None`: it is answered as it is asked.
fn judge(head: &str, target: &str, shared: &Shared) -> Option<&'static str> {
    let mut state = shared.state.lock().expect("the API's state");
    state.requests.push(target.to_owned());
    let has = |line: &str| head.lines().any(|one| one.eq_ignore_ascii_case(line));
    let of_node = format!("spec.nodeName%3D{}", shared.node);
    if let Some(status) = state.refuses {
        Some(status)
    } else if !has(&format!("authorization: Bearer {TOKEN}")) {
        Some("401 Unauthorized")
    } else if !head.contains("as=PartialObjectMetadata") {
        Some("406 Not Acceptable")
    } else if !target.starts_with("/api/v1/pods?")
        || parameter(target, "fieldSelector") != Some(&of_node)
    {
        Some("403 Forbidden")
    } else {
        None
    }
}

fn parameter<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let query = target.split_once('?')?.1;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .into_iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn list(shared: &Shared) -> String {
    let state = shared.state.lock().expect("the API's state");
    let items: Vec<Value> = state.pods.values().map(partial).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": state.version.to_string()}, "items": items})
    .to_string()
}

async fn watch(stream: &mut Stream, target: &str, shared: &Shared) -> io::Result<()> {
    let from = parameter(target, "resourceVersion").and_then(|version| version.parse().ok());
    let mut seen: u64 = from.unwrap_or(0);
    let mut news = shared.news.subscribe();
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    loop {
        let (events, newest, gone) = {
            let state = shared.state.lock().expect("the API's state");
            let new = state.events.iter().filter(|(version, _)| *version > seen);
            let lines: Vec<String> = new.map(|(_, event)| format!("{event}\n")).collect();
            (lines.concat(), state.version, seen < state.forgotten)
        };
        if gone {
            let status = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410,
                "status": "Failure", "reason": "Expired", "message": "too old resource version"}});
            return chunks(stream, &format!("{status}\n"), true).await;
        }
        // Cut anywhere: a line may come in several pieces.
        chunks(stream, &events, false).await?;
        seen = newest;
        if news.wait_for(|now| *now != Some(seen)).await.is_err() || news.borrow().is_none() {
            return Ok(());
        }
    }
}

async fn chunks(stream: &mut Stream, text: &str, last: bool) -> io::Result<()> {
    for piece in text.as_bytes().chunks(100) {
        stream
            .write_all(format!("{:x}\r\n", piece.len()).as_bytes())
            .await?;
        stream.write_all(piece).await?;
        stream.write_all(b"\r\n").await?;
        stream.flush().await?;
    }
    if last {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    stream.flush().await
}

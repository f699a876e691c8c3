//! A test server that takes OTLP as a collector does, and keeps the events that came.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;

/// A log record.
#[derive(Clone, Debug)]
pub struct Event {
    pub node: String,
    pub name: String,
    /// Since 1970.
    pub at_ns: u64,
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// 0 where it is no number.
    pub fn number(&self, name: &str) -> u64 {
        let value = self.get(name).and_then(|value| value.parse().ok());
        value.unwrap_or(0)
    }
}

pub struct Collector {
    address: SocketAddr,
    events: Arc<Mutex<Vec<Event>>>,
    ends: Arc<AtomicBool>,
}

impl Collector {
    pub fn start() -> Result<Collector> {
        let listener = TcpListener::bind("127.0.0.1:0").context("bind the collector")?;
        let address = listener.local_addr()?;
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let ends = Arc::<AtomicBool>::default();
        let (kept, over) = (Arc::clone(&events), Arc::clone(&ends));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let kept = Arc::clone(&kept);
                // Ends with its connection.
                thread::spawn(move || serve(stream, &kept));
            }
        });
        Ok(Collector {
            address,
            events,
            ends,
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has come so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().expect("events").clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// Takes whatever is sent on this connection.
fn serve(stream: TcpStream, events: &Mutex<Vec<Event>>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let logs = line.split(' ').nth(1) == Some("/v1/logs");
        let mut length = 0;
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line)?;
            let header = line.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if logs {
            let mut message = Vec::new();
            GzDecoder::new(&body[..]).read_to_end(&mut message)?;
            let request = ExportLogsServiceRequest::decode(&message[..])?;
            events.lock().expect("events").extend(read(&request));
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        reader.get_mut().write_all(answer)?;
    }
}

fn read(request: &ExportLogsServiceRequest) -> Vec<Event> {
    let mut events = Vec::new();
    for logs in &request.resource_logs {
        let of_node = logs.resource.as_ref().map(|node| texts(&node.attributes));
        let node = of_node.and_then(|mut all| all.remove("host.name"));
        let node = node.unwrap_or_default();
        for record in logs.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            events.push(Event {
                node: node.clone(),
                name: record.event_name.clone(),
                at_ns: record.time_unix_nano,
                attributes: texts(&record.attributes),
            });
        }
    }
    events
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |one: &KeyValue| match one.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(flag) => Some(flag.to_string()),
        _ => None,
    };
    let named = attributes.iter();
    named
        .filter_map(|one| Some((one.key.clone(), text(one)?)))
        .collect()
}

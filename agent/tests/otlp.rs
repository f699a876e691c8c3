//! `why502 run --otlp` as an operator has it: a line in a proxy's log becomes an event at a receiver.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;
use serde_json::Value;

const FAILED: &str = "2026/11/22 00:40:00 [error] 7#7: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 10.9.0.7, server: shop.example, request: \"GET /orders/4711 HTTP/1.1\", upstream: \"http://10.9.0.2:9000/orders/4711\", host: \"shop.example\"\n";

/// Ended when the test is.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A test server: takes one request, answers 200, and gives its path and body.
fn taken(stream: TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let path = line.split(' ').nth(1).unwrap().to_owned();
    let mut length = 0;
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    reader.get_mut().write_all(answer).unwrap();
    let mut message = Vec::new();
    GzDecoder::new(&body[..]).read_to_end(&mut message).unwrap();
    (path, message)
}

#[test]
fn a_failure_in_the_log_is_an_event_at_the_receiver() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("error.log");
    let mut file = std::fs::File::create(&log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WHY502_") {
            command.env_remove(name);
        }
    }
    command
        .args(["run", "--json", "--no-history", "--no-logs"])
        .args(["--source", "logs", "--listen", "127.0.0.1:0", "--log"])
        .arg(&log)
        .env(
            "WHY502_OTLP",
            format!("http://{}", receiver.local_addr().unwrap()),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut daemon = Daemon(command.spawn().unwrap());
    let mut said = BufReader::new(daemon.0.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "ready"));
    file.write_all(FAILED.as_bytes()).unwrap();
    let mut shown = BufReader::new(daemon.0.stdout.take().unwrap()).lines();
    let line = shown.next().unwrap().unwrap();
    let (path, message) = taken(receiver.accept().unwrap().0);
    assert_eq!(path, "/v1/logs");
    let request = ExportLogsServiceRequest::decode(&message[..]).unwrap();
    let [record] = &request.resource_logs[0].scope_logs[0].log_records[..] else {
        panic!("{request:?}")
    };
    assert_eq!(record.event_name, "why502.verdict");
    // The same line as on standard output, so with the same privacy.
    let shown: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(shown["request"]["path"], "/orders/:id");
    assert!(format!("{:?}", record.body).contains(shown["id"].as_str().unwrap()));
    let text = format!("{record:?}");
    assert!(
        text.contains("connection_refused") && !text.contains("4711"),
        "{text}"
    );
}

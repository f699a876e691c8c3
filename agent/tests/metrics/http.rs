//! The HTTP server of the metrics, and clients that mean it no good.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use why502::sinks::http::Server;
use why502::sinks::metrics::Metrics;

use crate::{ask, runtime, serve};

#[test]
fn the_server_answers_what_it_should() {
    let metrics = Arc::new(Metrics::new());
    let server = serve(Arc::clone(&metrics));
    let address = server.address;
    assert!(ask(address, "GET /healthz").starts_with("HTTP/1.1 200"));
    assert!(ask(address, "GET /readyz").starts_with("HTTP/1.1 503"));
    metrics.source_up("kernel", false);
    assert!(ask(address, "GET /readyz").starts_with("HTTP/1.1 503"));
    metrics.waits_for_source(Some("no right\nto".to_owned()));
    let answer = ask(address, "GET /readyz");
    assert!(answer.ends_with("not ready: no right\\nto\n"), "{answer}");
    metrics.source_up("kernel", true);
    assert!(ask(address, "GET /readyz").starts_with("HTTP/1.1 200"));
    let answer = ask(address, "GET /metrics?x=1");
    assert!(answer.starts_with("HTTP/1.1 200"));
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4"),
        "{answer}"
    );
    assert!(answer.contains("why502_build_info{version="), "{answer}");
    assert!(ask(address, "HEAD /metrics").starts_with("HTTP/1.1 200"));
    assert!(ask(address, "POST /metrics").starts_with("HTTP/1.1 405"));
    assert!(ask(address, "GET /etc/passwd").starts_with("HTTP/1.1 404"));
    assert!(ask(address, "nonsense").starts_with("HTTP/1.1 400"));
}

#[test]
fn silent_clients_keep_others_waiting_for_a_bounded_time() {
    let server = serve(Arc::new(Metrics::new()));
    let address = server.address;
    let began = Instant::now();
    let silent: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /metr").unwrap();
            stream
        })
        .collect();
    assert!(ask(address, "GET /healthz").starts_with("HTTP/1.1 200"));
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    drop(silent);
}

#[test]
fn a_taken_port_is_named_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = runtime()
        .block_on(Server::bind(address, Arc::new(Metrics::new())))
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains(&address.to_string()) && error.contains("--listen"),
        "{error}"
    );
}

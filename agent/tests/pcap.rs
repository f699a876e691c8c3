//! `--pcap` as a person meets it: a capture in, a small one out, with comments and without secrets.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use etherparse::{PacketBuilder, TcpOptionElement};
use tempfile::TempDir;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn captures() -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder().join("captures")).unwrap();
    let mut files: Vec<PathBuf> = all
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".pcap.gz"))
        .collect();
    files.sort();
    assert!(files.len() > 8);
    files
}

fn why502(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WHY502_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

/// Explains a file with `--json`, `--report` and `--pcap`.
fn explain(file: &Path, out: &TempDir, args: &[&str]) -> Output {
    let mut command = why502(&["explain", "--json", "--report"]);
    command.arg(out.path().join("out.html")).arg("--pcap");
    command.arg(out.path().join("out.pcapng")).arg(file);
    command.args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The comments of each packet; `None` where tshark is not installed.
fn comments(file: &Path) -> Option<Vec<String>> {
    let fields = ["-T", "fields", "-e", "frame.comment", "-r"];
    match Command::new("tshark").args(fields).arg(file).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", text(&output.stderr));
            Some(text(&output.stdout).lines().map(str::to_owned).collect())
        }
        Err(error) => {
            println!("skipped: tshark: {error}");
            None
        }
    }
}

#[test]
fn every_verdict_stands_once_in_the_annotated_capture() {
    for file in captures() {
        let out = tempfile::tempdir().unwrap();
        let output = explain(&file, &out, &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let pcap = out.path().join("out.pcapng");
        let mode = std::fs::metadata(&pcap).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let written = text(&std::fs::read(&pcap).unwrap());
        let shown = comments(&pcap).map(|lines| lines.join("\n"));
        for line in text(&output.stdout).lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            if line["type"] != "verdict" && line["type"] != "near_miss" {
                continue;
            }
            let id = format!("[{}]", line["id"].as_str().unwrap());
            assert_eq!(
                written.matches(&id).count(),
                1,
                "{}: {line}",
                file.display()
            );
            if let Some(shown) = &shown {
                let cause = line["cause"].as_str().unwrap();
                let comment = shown.lines().find(|l| l.contains(&id)).unwrap();
                assert!(comment.contains(cause), "{comment}");
            }
        }
        // What was left out of it is not needed: it explains itself the same.
        let again = why502(&["explain", "--json"]).arg(&pcap).output().unwrap();
        assert!(again.status.success(), "{}", text(&again.stderr));
    }
}

/// Of a capture between client and proxy: whose word it is that the proxy is where.
#[test]
fn only_addresses_named_as_the_proxys_are_one() {
    let file = folder().join("captures/nat.pcap.gz");
    let causes = |named: &[&str]| {
        let mut command = why502(&["explain", "--json"]);
        for address in named {
            command.args(["--proxy-address", address]);
        }
        let output = command.arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let lines: Vec<serde_json::Value> = text(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &serde_json::Value| line["type"] == "verdict")
            .collect();
        let of = |line: &serde_json::Value| {
            let said = [&line["proxy"]["address"], &line["upstream"]["address"]];
            (
                said.map(|it| it.as_str().map(str::to_owned)),
                line["cause"].clone(),
            )
        };
        lines.iter().map(of).collect::<Vec<_>>()
    };
    let found = causes(&[]);
    assert_eq!(found.len(), 12);
    let proxy = Some("10.9.1.2:8080".to_owned());
    assert!(found.iter().all(|(ends, _)| ends[0] == proxy), "{found:?}");
    assert_eq!(causes(&["10.9.1.2"]), found);
    assert_eq!(causes(&["10.9.1.9", "10.9.1.2"]), found);
    assert!(causes(&["10.9.1.9"]).is_empty());
    // Who asks is the proxy: then its server is the upstream, and has answered.
    let upstream = causes(&["10.9.1.1"]);
    assert_eq!(upstream.len(), 12);
    for (ends, cause) in upstream {
        assert_eq!(
            (ends, cause),
            ([None, proxy.clone()], "upstream_answered".into())
        );
    }
}

#[test]
fn the_fin_that_decides_says_so() {
    let out = tempfile::tempdir().unwrap();
    let file = folder().join("captures/r02-post-fin-in-flight.pcap.gz");
    explain(&file, &out, &[]);
    let Some(lines) = comments(&out.path().join("out.pcapng")) else {
        return;
    };
    let decides = lines.iter().filter(|l| l.contains("this decides")).count();
    assert_eq!(decides, 12, "{lines:?}");
    for part in [
        "upstream to proxy: FIN",
        "request sent",
        "response 502, made by the proxy",
        "keepalive_race (fin_in_flight), proven",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part}");
    }
}

#[test]
fn standard_input_gives_the_same_packets() {
    let file = folder().join("captures/r11-connect-errors.pcap.gz");
    let out = tempfile::tempdir().unwrap();
    explain(&file, &out, &[]);
    let piped = out.path().join("piped.pcapng");
    let output = why502(&["explain", "-", "-w"])
        .arg(&piped)
        .stdin(Stdio::from(File::open(&file).unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let expected = std::fs::read(out.path().join("out.pcapng")).unwrap();
    assert!(expected.len() > 1000);
    assert!(std::fs::read(piped).unwrap() == expected);
}

#[test]
fn what_cannot_be_done_is_one_error_and_leaves_no_file() {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("out.pcapng");
    let recording = folder().join("streams/r06-no-reply.jsonl");
    let output = explain(&recording, &out, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && !target.exists());
    let error = text(&output.stderr);
    assert!(
        error.contains("r06-no-reply.jsonl is a recording"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    let piped = why502(&["explain", "-", "-w"])
        .arg(&target)
        .stdin(Stdio::from(File::open(&recording).unwrap()))
        .output()
        .unwrap();
    assert_eq!(piped.status.code(), Some(1));
    let error = text(&piped.stderr);
    assert!(error.contains("standard input is a recording"), "{error}");

    let missing = out.path().join("no/such/folder/out.pcapng");
    let output = why502(&["explain", "-w"])
        .arg(&missing)
        .arg(&captures()[0])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains(missing.to_str().unwrap()));
}

#[test]
fn an_input_is_never_overwritten() {
    let out = tempfile::tempdir().unwrap();
    let input = out.path().join("out.pcapng");
    let link = out.path().join("link.pcap");
    std::fs::copy(folder().join("captures/loopback.pcap"), &input).unwrap();
    std::fs::hard_link(&input, &link).unwrap();
    let before = std::fs::read(&input).unwrap();
    for file in [&input, &link] {
        let output = explain(file, &out, &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("name another"));
        assert!(std::fs::read(&input).unwrap() == before);
    }
}

/// A capture in the making: raw IP packets in a pcap file.
struct Trace {
    bytes: Vec<u8>,
    micros: u32,
}

/// One connection of it: both ends, and what each sends next.
struct Connection {
    ends: [SocketAddrV4; 2],
    next: [u32; 2],
}

impl Connection {
    fn new(client: &str, server: &str) -> Connection {
        Connection {
            ends: [client.parse().unwrap(), server.parse().unwrap()],
            next: [1000, 5000],
        }
    }
}

impl Trace {
    fn new() -> Trace {
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
            bytes.extend(word.to_le_bytes());
        }
        Trace { bytes, micros: 0 }
    }

    fn segment(&mut self, c: &mut Connection, side: usize, flags: &str, payload: &[u8]) {
        let (from, to) = (c.ends[side], c.ends[1 - side]);
        let mut tcp = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64)
            .tcp(from.port(), to.port(), c.next[side], 4096)
            .options(&[TcpOptionElement::Noop])
            .unwrap();
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'F' => tcp.fin(),
                'R' => tcp.rst(),
                _ => tcp.ack(c.next[1 - side]),
            };
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, payload).unwrap();
        self.micros += 100;
        let length = frame.len() as u32;
        for word in [1_795_000_000, self.micros, length, length] {
            self.bytes.extend(word.to_le_bytes());
        }
        self.bytes.extend(frame);
        let counted = flags.matches(['S', 'F']).count() as u32;
        c.next[side] += payload.len() as u32 + counted;
    }

    fn open(&mut self, c: &mut Connection) {
        self.segment(c, 0, "S", b"");
        self.segment(c, 1, "SA", b"");
        self.segment(c, 0, "A", b"");
    }
}

const ORDER: &str = "9f8b6c1e-2b7a-4c55-8d3e-0123456789ab";
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);

/// A POST full of secrets, whose upstream resets the connection, and the 502 of the proxy.
fn secrets() -> Vec<u8> {
    let head = |via: &str| {
        format!(
            "POST /orders/{ORDER}?token=canary-query HTTP/1.1\r\nHost: shop.example\r\n{via}\
             Cookie: s=canary-cookie\r\nX-Key: canary-header\r\nContent-Length: 90\r\n\r\n"
        )
    };
    // Bodies that look like heads, at the beginning of a packet.
    let body = b"GET /canary-body HTTP/1.1\r\nHTTP/1.1 200 canary-body\r\ncanary-body";
    let rest = b"HTTP/1.1 200 canary-body\r\n";
    let mut trace = Trace::new();
    let mut front = Connection::new(&format!("{CLIENT}:40000"), "10.0.0.1:80");
    let mut back = Connection::new("10.0.0.1:50000", "10.0.0.2:9000");
    trace.open(&mut front);
    for part in [head("").as_bytes(), body, rest] {
        trace.segment(&mut front, 0, "A", part);
        trace.segment(&mut front, 1, "A", b"");
    }
    trace.open(&mut back);
    let via = format!("X-Forwarded-For: {CLIENT}\r\n");
    for part in [head(&via).as_bytes(), body, rest] {
        trace.segment(&mut back, 0, "A", part);
        trace.segment(&mut back, 1, "A", b"");
    }
    trace.segment(&mut back, 1, "RA", b"");
    let answer =
        b"HTTP/1.1 502 Bad Gateway\r\nSet-Cookie: canary-cookie\r\nContent-Length: 40\r\n\r\n";
    trace.segment(&mut front, 1, "A", answer);
    trace.segment(
        &mut front,
        1,
        "A",
        b"HTTP/1.1 500 canary-body\r\ncanary-body....",
    );
    trace.bytes
}

#[test]
fn secrets_of_the_capture_are_in_no_output() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("in.pcap");
    std::fs::write(&file, secrets()).unwrap();
    for level in ["full", "template", "minimal"] {
        let output = explain(&file, &out, &["--privacy", level]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let pcap = std::fs::read(out.path().join("out.pcapng")).unwrap();
        let html = std::fs::read(out.path().join("out.html")).unwrap();
        let outputs = [text(&output.stdout), text(&html), text(&pcap)];
        // It is told, and the packets are there.
        assert!(outputs[0].contains("\"status\":502"), "{}", outputs[0]);
        assert!(outputs[2].contains("HTTP/1.1 502 Bad Gateway\r\n"));
        let order = outputs.each_ref().map(|o| o.contains(ORDER));
        assert_eq!(order, [level == "full"; 3]);
        let address = |bytes: &[u8]| bytes.windows(4).any(|part| part == CLIENT.octets());
        assert_eq!(address(&pcap), level == "full");
        // What people read, with everything that can be said beside it.
        let table = why502(&["explain", "-vv", "--privacy", level])
            .arg(&file)
            .output()
            .unwrap();
        assert!(table.status.success(), "{}", text(&table.stderr));
        let read = [&table.stdout, &table.stderr, &output.stderr];
        // Long words are broken at the end of a line.
        let read = read.map(|bytes| text(bytes).split_whitespace().collect::<String>());
        assert!(read[0].contains("502"), "{}", read[0]);
        assert_eq!(read[0].contains(ORDER), level == "full");
        for output in outputs.iter().chain(&read) {
            for secret in ["canary", "Cookie", "X-Key", "Forwarded"] {
                assert!(!output.contains(secret), "{secret}, {level}");
            }
            if level != "full" {
                assert!(!output.contains(&CLIENT.to_string()), "{level}");
                assert!(!output.contains(ORDER), "{level}");
            }
        }
    }
    let whole = explain(&file, &out, &["--with-payload"]);
    assert!(whole.status.success());
    let pcap = text(&std::fs::read(out.path().join("out.pcapng")).unwrap());
    for kept in [
        "canary-query",
        "canary-cookie",
        "canary-header",
        "canary-body",
    ] {
        assert!(pcap.contains(kept), "{kept}");
    }
}

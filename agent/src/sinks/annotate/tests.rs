use std::io::Cursor;
use std::process::Command;

use super::*;
use crate::sources::packets::decode::headers;
use crate::sources::packets::file::Capture;

const FULL: Redaction = Redaction::Lines(Privacy::Full);

/// The stored run on the loopback interface, annotated: the first request and its answer.
fn annotated(redaction: Redaction) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    let mut output = AnnotatedCapture::new(Vec::new(), redaction).unwrap();
    for (interface, name) in ["loopback.pcap", "any-v2.pcap"].iter().enumerate() {
        let mut capture = Capture::open(&folder.join(name)).unwrap();
        while let Some(frame) = capture.next_frame() {
            let frame = frame.unwrap();
            let comments = match frame.frame.number {
                4 => vec![
                    "request sent".to_owned(),
                    "on a new connection – first".to_owned(),
                ],
                6 => vec!["response".to_owned()],
                _ => Vec::new(),
            };
            output
                .write(&Annotated {
                    at: frame.at,
                    interface: interface as u32,
                    link_type: frame.link_type.0,
                    original_length: frame.original_length,
                    data: frame.data,
                    headers: headers(&frame),
                    begins_head: matches!(frame.frame.number, 4 | 6),
                    client: Some(std::net::Ipv4Addr::LOCALHOST.into()),
                    comments: &comments,
                })
                .unwrap();
        }
    }
    output.finish().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn our_own_reader_finds_the_same_frames_without_payload() {
    let bytes = annotated(FULL);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    let mut written = Capture::read(Cursor::new(bytes), "written").unwrap();
    for (interface, name) in ["loopback.pcap", "any-v2.pcap"].iter().enumerate() {
        let mut original = Capture::open(&folder.join(name)).unwrap();
        while let Some(expected) = original.next_frame() {
            let expected = expected.unwrap();
            let frame = written.next_frame().unwrap().unwrap();
            assert_eq!(frame.at, expected.at);
            assert_eq!(frame.frame.interface as usize, interface);
            assert_eq!(frame.link_type, expected.link_type);
            assert_eq!(frame.original_length, expected.original_length);
            let kept = headers(&expected);
            assert_eq!(frame.data[..kept], expected.data[..kept]);
            let payload = text(&frame.data[kept..]);
            match expected.frame.number {
                4 => assert_eq!(payload, "GET /orders?xxxxxxxx HTTP/1.1\r\n"),
                6 => assert_eq!(payload, "HTTP/1.1 200 OK\r\n"),
                _ => assert_eq!(payload, ""),
            }
        }
    }
    assert!(written.next_frame().is_none());
}

#[test]
fn nothing_of_headers_query_or_body_is_in_the_file() {
    let bytes = text(&annotated(FULL));
    for secret in [
        "secret=1",
        "User-Agent",
        "curl",
        "Content-Length",
        "hello",
        "127.0.0.1",
    ] {
        assert!(!bytes.contains(secret), "{secret}");
    }
    assert!(bytes.contains("Checksums are as they were captured"));
    let whole = text(&annotated(Redaction::WithPayload));
    for kept in ["secret=1", "User-Agent: curl", "hello", WHOLE] {
        assert!(whole.contains(kept), "{kept}");
    }
}

#[test]
fn a_clients_address_is_cut_as_far_as_asked() {
    let has = |redaction, address: &[u8]| {
        let bytes = annotated(redaction);
        bytes.windows(address.len()).any(|part| part == address)
    };
    assert!(has(FULL, &[127, 0, 0, 1]));
    assert!(!has(Redaction::Lines(Privacy::Template), &[127, 0, 0, 1]));
    assert!(has(
        Redaction::Lines(Privacy::Template),
        &[127, 0, 0, 0, 127, 0, 0, 0]
    ));
    assert!(!has(Redaction::Lines(Privacy::Minimal), &[127, 0, 0]));
}

#[test]
fn the_file_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcapng");
    AnnotatedCapture::create(&path, FULL)
        .unwrap()
        .finish()
        .unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_long_comment_is_cut_between_characters() {
    let long = "é".repeat(LONGEST_COMMENT);
    let kept = cut(long.as_bytes());
    assert_eq!(kept.len(), LONGEST_COMMENT);
    assert!(std::str::from_utf8(kept).is_ok());
    let odd = format!("a{long}");
    assert_eq!(cut(odd.as_bytes()).len(), LONGEST_COMMENT - 1);
}

/// What other programs make of it; `None` where the program is not installed.
fn ask(program: &str, arguments: &[&str], file: &Path) -> Option<String> {
    match Command::new(program).args(arguments).arg(file).output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{program}: {}",
                text(&output.stderr)
            );
            Some(text(&output.stdout))
        }
        Err(error) => {
            println!("skipped: {program}: {error}");
            None
        }
    }
}

#[test]
fn wireshark_shows_the_comments_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcapng");
    std::fs::write(&path, annotated(FULL)).unwrap();
    let fields = [
        "-T",
        "fields",
        "-e",
        "frame.number",
        "-e",
        "frame.comment",
        "-r",
    ];
    if let Some(text) = ask("tshark", &fields, &path) {
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 62);
        assert_eq!(lines[0].trim(), "1");
        assert_eq!(lines[3], "4\trequest sent,on a new connection – first");
        assert_eq!(lines[5], "6\tresponse");
    }
    let uris = [
        "-Y",
        "http.request",
        "-T",
        "fields",
        "-e",
        "http.request.uri",
        "-r",
    ];
    if let Some(text) = ask("tshark", &uris, &path) {
        assert!(text.starts_with("/orders?xxxxxxxx"), "{text}");
    }
    if let Some(text) = ask("capinfos", &[], &path) {
        assert!(text.contains("Number of packets:   62"), "{text}");
        assert!(text.contains("Number of interfaces in file: 2"), "{text}");
        assert!(text.contains("queries are overwritten"), "{text}");
    }
}

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::super::{Capture, Input, Kind, OpenError, Problem};
use super::{frames, read, stored};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn gzip_and_zstd_hold_the_same_frames() {
    let plain = frames(&stored("loopback.pcap"));
    assert_eq!(frames(&stored("loopback.pcap.gz")), plain);
    assert_eq!(frames(&stored("loopback.pcap.zst")), plain);
}

#[test]
fn several_members_and_skippable_frames_are_one_stream() {
    let plain = stored("loopback.pcap");
    let members = [gzip(&plain[..100]), gzip(&plain[100..])].concat();
    assert_eq!(frames(&members), frames(&plain));
    let skippable = [
        &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9],
        &stored("loopback.pcap.zst")[..],
    ];
    assert_eq!(frames(&skippable.concat()), frames(&plain));
}

#[test]
fn a_cut_stream_gives_what_it_has_and_says_where_it_ends() {
    let plain = frames(&stored("loopback.pcap"));
    for name in ["loopback.pcap.gz", "loopback.pcap.zst"] {
        let whole = stored(name);
        for length in 1..whole.len() {
            let Ok((frames, error)) = read(&whole[..length]) else {
                continue;
            };
            assert!(frames.len() <= plain.len() && frames == plain[..frames.len()]);
            // zstd's frames end on their own: between two the stream is whole.
            let Some(error) = error else {
                assert_eq!(name, "loopback.pcap.zst");
                continue;
            };
            assert!(
                error.decompressed && error.is_truncation(),
                "{name} {length}: {error}"
            );
            assert!(error.to_string().contains("decompressed byte"), "{error}");
        }
    }
}

#[test]
fn damage_in_a_compressed_stream_is_an_error_not_an_end() {
    for name in ["loopback.pcap.gz", "loopback.pcap.zst"] {
        let mut bytes = stored(name);
        let middle = bytes.len() / 3;
        bytes[middle] ^= 0x55;
        if let Ok((_, error)) = read(&bytes) {
            let error = error.unwrap_or_else(|| panic!("{name}: damage went unseen"));
            assert!(
                !matches!(error.problem, Problem::Truncated),
                "{name}: {error}"
            );
        }
    }
}

#[test]
fn a_recording_may_be_compressed_too() {
    let recording = b"{\"why502_recording\":1}\n";
    let input = Input::read(Cursor::new(gzip(recording)), "r.gz").unwrap();
    assert_eq!(input.kind(), Kind::Recording);
    let text = std::io::read_to_string(input).unwrap();
    assert_eq!(text.as_bytes(), recording);
}

#[test]
fn what_is_no_capture_is_named_as_such() {
    let refused = |bytes: &[u8]| match Capture::read(Cursor::new(bytes.to_vec()), "file") {
        Err(error) => error.to_string(),
        Ok(_) => panic!("opened"),
    };
    let neither =
        "file: neither a packet capture (pcap, pcapng; plain, gzip or zstd) nor a recording";
    assert_eq!(refused(b"<html>"), neither);
    assert_eq!(refused(&gzip(b"<html>")), neither);
    assert_eq!(refused(b""), "file: it is empty");
    assert_eq!(refused(&gzip(b"")), "file: it is empty");
    assert_eq!(
        refused(&gzip(&gzip(b"x"))),
        "file: compressed twice; decompress it once"
    );
    assert_eq!(
        refused(b"{\"why502_recording\":1}"),
        "file: a recording, not a packet capture"
    );
    let missing = Capture::open("/nowhere/x.pcap".as_ref()).unwrap_err();
    assert!(matches!(missing, OpenError::Io { .. }));
    assert!(
        missing
            .to_string()
            .starts_with("/nowhere/x.pcap: No such file"),
        "{missing}"
    );
    let folder = Capture::open("/".as_ref()).unwrap_err().to_string();
    assert_eq!(folder, "/: Is a directory (os error 21)");
}

#[test]
fn progress_counts_the_files_own_bytes() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures/loopback.pcap.gz");
    let input = Input::open(&path).unwrap();
    let progress = input.progress();
    let total = stored("loopback.pcap.gz").len() as u64;
    let mut capture = Capture::from_input(input).unwrap();
    while capture.next_frame().is_some() {}
    assert_eq!(progress.now(), (total, Some(total)));
}

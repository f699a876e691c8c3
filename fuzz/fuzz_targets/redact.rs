//! Any payload in an annotated capture: nothing but a line without its query is left of it.

#![no_main]

use std::io::Cursor;
use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use why502::sinks::annotate::{Annotated, AnnotatedCapture, Redaction};
use why502::sinks::privacy::Privacy;
use why502::sources::packets::file::Capture;
use why502_fuzz::assert_line_only;

fuzz_target!(|input: (u16, [u8; 4], &[u8], String, &[u8])| {
    let (link_type, client, headers, comment, payload) = input;
    let data = [headers, payload].concat();
    let comments = [comment];
    for privacy in [Privacy::Full, Privacy::Template, Privacy::Minimal] {
        let mut file = AnnotatedCapture::new(Vec::new(), Redaction::Lines(privacy)).unwrap();
        file.write(&Annotated {
            at: 0,
            interface: 0,
            link_type,
            original_length: data.len() as u32,
            data: &data,
            headers: headers.len(),
            begins_head: true,
            client: Some(IpAddr::from(client)),
            comments: &comments,
        })
        .unwrap();
        let bytes = file.finish().unwrap();
        let mut capture = Capture::read(Cursor::new(bytes), "annotated").unwrap();
        let frame = capture.next_frame().unwrap().unwrap();
        let (written, payload) = frame.data.split_at(headers.len());
        assert_line_only(payload, privacy);
        let is_client = |four: &[u8]| four == client;
        // Zeros that are written could end the address of somebody who has zeros in his.
        if privacy != Privacy::Full && !client.contains(&0) {
            assert!(
                !written.windows(4).any(is_client),
                "{client:?} in {written:?}"
            );
        }
    }
});

//! Any bytes as a log, in every format: nothing of a query gets out, and memory stays bounded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use why502::sources::logs::{Parser, Template, Zone};

fuzz_target!(|input: (bool, &str, &[u8])| {
    let (own, format, log) = input;
    let mut templates = Template::known();
    if own {
        templates.extend(Template::new("own", format, "default"));
    }
    let mut parser = Parser::new(templates.into(), Zone::Fixed(0));
    let mut out = Vec::new();
    for line in log.split(|byte| *byte == b'\n') {
        parser.line(line, Some(1), &mut out);
    }
    parser.flush(&mut out);
    assert!(out.len() as u64 <= parser.counts().lines);
    for timed in out {
        // What a line says is in fields of its own, none of which has room for a line.
        let text = serde_json::to_string(&timed.fact).unwrap();
        assert!(!text.contains('\n'));
    }
});

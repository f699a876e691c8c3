use super::super::{Kind, sniff};
use super::build::{
    MICROSECONDS, NANOSECONDS, Order, block, enhanced, interface, obsolete, option, pcap, section,
    simple,
};
use super::{Frame, frames, stored};

const SECOND: u64 = 1_000_000_000;

fn frame(at: u64, number: u64, data: &[u8]) -> Frame {
    Frame {
        at,
        number,
        interface: 0,
        link_type: 1,
        original_length: u32::try_from(data.len()).unwrap(),
        data: data.to_vec(),
    }
}

#[test]
fn pcap_in_both_byte_orders_and_both_units() {
    for order in Order::BOTH {
        for (magic, unit) in [(MICROSECONDS, 1000), (NANOSECONDS, 1)] {
            let file = pcap(
                order,
                magic,
                &[
                    (7, 123, 60, b"abc"),
                    (3, 999_999, 0, b""),
                    (4, 0, 4, b"defg"),
                ],
            );
            let mut first = frame(7 * SECOND + 123 * unit, 1, b"abc");
            first.original_length = 60;
            let stepped_back = frame(3 * SECOND + 999_999 * unit, 2, b"");
            let last = frame(4 * SECOND, 3, b"defg");
            assert_eq!(frames(&file), [first, stepped_back, last], "{order:?}");
        }
    }
}

#[test]
fn pcapng_with_sections_interfaces_and_clocks_of_their_own() {
    for order in Order::BOTH {
        let other = if order == Order::Big {
            Order::Little
        } else {
            Order::Big
        };
        let unit = |resolution: u8| option(order, 9, &[resolution]);
        let mut name = option(order, 2, b"eth0");
        name.extend(option(order, 1, b"a comment"));
        let file = [
            section(order),
            block(order, 0x0bad, b"no block that is known"),
            interface(order, 1, 0, &[name]),
            interface(
                order,
                113,
                0,
                &[unit(9), option(order, 14, &order.u64(100))],
            ),
            interface(order, 276, 0, &[unit(0x80 | 10)]),
            interface(order, 101, 0, &[unit(12)]),
            enhanced(order, 0, 5_000_001, 3, b"one", &[]),
            enhanced(
                order,
                1,
                7,
                3,
                b"two",
                &[option(order, 1, b"seen"), vec![0; 4]],
            ),
            enhanced(order, 2, 1536, 5, b"three", &[]),
            enhanced(order, 3, 2_500, 4, b"four", &[]),
            obsolete(order, 1, 9, b"five"),
            section(other),
            interface(other, 228, 4, &[]),
            enhanced(other, 0, 1, 900, b"six", &[]),
            simple(other, 900, b"seve"),
        ]
        .concat();
        let with = |interface, link_type, frame| Frame {
            interface,
            link_type,
            ..frame
        };
        let expected = [
            with(0, 1, frame(5 * SECOND + 1000, 1, b"one")),
            with(1, 113, frame(100 * SECOND + 7, 2, b"two")),
            with(2, 276, frame(3 * SECOND / 2, 3, b"three")),
            with(3, 101, frame(2, 4, b"four")),
            with(1, 113, frame(100 * SECOND + 9, 5, b"five")),
            Frame {
                original_length: 900,
                ..with(4, 228, frame(1000, 6, b"six"))
            },
            Frame {
                original_length: 900,
                ..with(4, 228, frame(1000, 7, b"seve"))
            },
        ];
        assert_eq!(frames(&file), expected, "{order:?}");
    }
}

#[test]
fn losses_that_the_file_tells_are_counted_once() {
    let order = Order::Little;
    let statistics = |dropped: u64| {
        let mut body = vec![0; 12];
        body.extend(option(order, 4, &order.u64(1_000)));
        body.extend(option(order, 5, &order.u64(dropped)));
        body.extend(option(order, 7, &order.u64(1)));
        block(order, 5, &body)
    };
    let one = [
        section(order),
        interface(order, 1, 0, &[]),
        statistics(3),
        enhanced(order, 0, 0, 1, b"x", &[option(order, 4, &order.u64(6))]),
        statistics(6),
    ]
    .concat();
    let two = [one.clone(), one].concat();
    let mut capture = super::Capture::read(std::io::Cursor::new(two), "test").unwrap();
    while let Some(frame) = capture.next_frame() {
        frame.unwrap();
    }
    assert_eq!(capture.dropped(), 14);
}

#[test]
fn a_loss_is_told_one_frame_later_at_most() {
    let order = Order::Little;
    let mut body = vec![0; 12];
    body.extend(option(order, 5, &order.u64(3)));
    let x = |options: &[Vec<u8>]| enhanced(order, 0, 0, 1, b"x", options);
    let file = [
        section(order),
        interface(order, 1, 0, &[]),
        x(&[]),
        x(&[]),
        block(order, 5, &body),
        x(&[]),
        x(&[option(order, 4, &order.u64(6))]),
        x(&[]),
    ]
    .concat();
    let mut capture = super::Capture::read(std::io::Cursor::new(file), "test").unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = capture.next_frames() {
        let frames = batch.unwrap().count();
        batches.push((frames, capture.dropped()));
    }
    assert_eq!(batches, [(3, 3), (1, 6), (1, 6)]);
}

#[test]
fn a_capture_converted_to_pcapng_has_the_same_frames() {
    let plain = frames(&stored("loopback.pcap"));
    assert_eq!(plain.len(), 31);
    assert_eq!(frames(&stored("loopback.pcapng")), plain);
}

#[test]
fn tcpdump_writes_every_kind_that_is_read() {
    for (name, link_type) in [("any-v1.pcap", 113), ("any-v2.pcap", 276)] {
        let frames = frames(&stored(name));
        assert_eq!(frames.len(), 31, "{name}");
        assert!(frames.iter().all(|frame| frame.link_type == link_type));
    }
    let snapped = frames(&stored("snapped-ns.pcap"));
    assert_eq!(snapped.len(), 31);
    assert!(snapped.iter().all(|frame| frame.data.len() <= 70));
    assert!(snapped.iter().any(|frame| frame.original_length > 70));
    assert!(snapped.iter().any(|frame| frame.at % 1000 != 0));
}

#[test]
fn the_first_bytes_tell_the_kind() {
    for (name, kind) in [
        ("loopback.pcap", Kind::Pcap),
        ("snapped-ns.pcap", Kind::Pcap),
        ("loopback.pcapng", Kind::PcapNg),
        ("loopback.pcap.gz", Kind::Gzip),
        ("loopback.pcap.zst", Kind::Zstd),
        ("README.md", Kind::Unknown),
    ] {
        assert_eq!(sniff(&stored(name)), kind, "{name}");
    }
    let header = crate::sinks::record::Header::new(crate::clock::Clock::from_offset(0), "node");
    let recording = serde_json::to_vec(&header).unwrap();
    assert_eq!(sniff(&recording), Kind::Recording);
    assert_eq!(sniff(b" {  \"why502_recording\": 1}"), Kind::Recording);
    for other in [
        &b""[..],
        b"{",
        b"{\"a\":1}",
        b"\xd4\xc3\xb2",
        b"GET / HTTP/1.1\r\n",
    ] {
        assert_eq!(sniff(other), Kind::Unknown, "{other:?}");
    }
}

//! Any bytes as a frame of every link layer: something is told of it, and its headers end within it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use why502::sources::packets::decode::{Decoded, decode, headers};
use why502::sources::packets::raw::{LinkType, RawFrame};
use why502::sources::packets::segment::Frame;

const LINK_TYPES: [LinkType; 9] = [
    LinkType::NULL,
    LinkType::ETHERNET,
    LinkType::RAW,
    LinkType::LOOP,
    LinkType::LINUX_SLL,
    LinkType::LINUX_SLL2,
    LinkType::IPV4,
    LinkType::IPV6,
    LinkType(u16::MAX),
];

fuzz_target!(|input: (u32, &[u8])| {
    let (original_length, data) = input;
    for link_type in LINK_TYPES {
        let raw = RawFrame {
            at: 0,
            frame: Frame::default(),
            link_type,
            original_length,
            data,
        };
        if let Decoded::Segment(segment) = decode(&raw) {
            assert!(segment.payload.len() <= segment.length as usize);
        }
        assert!(headers(&raw) <= data.len());
    }
});

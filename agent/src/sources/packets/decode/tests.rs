use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, PacketBuilder};

use super::super::file::Capture;
use super::super::raw::{LinkType, RawFrame};
use super::super::segment::{Frame, Segment, Unreachable};
use super::{Decoded, Reason, Rest, decode, headers, link};

const CLIENT: [u8; 4] = [10, 9, 0, 7];
const SERVER: [u8; 4] = [10, 9, 0, 1];

fn raw(link_type: LinkType, original: usize, data: &[u8]) -> RawFrame<'_> {
    RawFrame {
        at: 7,
        frame: Frame {
            number: 3,
            interface: 1,
        },
        link_type,
        original_length: u32::try_from(original).unwrap(),
        data,
    }
}

fn decode_as(link_type: LinkType, data: &[u8]) -> Decoded<'_> {
    decode(&raw(link_type, data.len(), data))
}

#[track_caller]
fn segment(decoded: Decoded<'_>) -> Segment<'_> {
    match decoded {
        Decoded::Segment(segment) => segment,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn reason(decoded: Decoded<'_>) -> Reason {
    match decoded {
        Decoded::NotUnderstood(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn other(decoded: Decoded<'_>) {
    assert!(matches!(decoded, Decoded::Other), "{decoded:?}");
}

#[track_caller]
fn unreachable(decoded: Decoded<'_>) -> Unreachable {
    match decoded {
        Decoded::Unreachable(unreachable) => unreachable,
        other => panic!("{other:?}"),
    }
}

/// IPv4 and TCP from client to server, port 51544 to 8080, with this payload.
fn ipv4(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(CLIENT, SERVER, 64)
        .tcp(51544, 8080, 1000, 4096)
        .ack(2000);
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

fn ipv6(payload: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = ([0; 16], [0; 16]);
    (from[0], from[15], to[0], to[15]) = (0xfd, 7, 0xfd, 1);
    let builder = PacketBuilder::ipv6(from, to, 64).tcp(51544, 8080, 1000, 4096);
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

fn ethernet(ether_types: &[&[u8]], packet: &[u8]) -> Vec<u8> {
    [&[0xaa; 12][..], &ether_types.concat(), packet].concat()
}

fn is_ours(decoded: Decoded<'_>) {
    let segment = segment(decoded);
    assert_eq!(segment.from, SocketAddr::from((CLIENT, 51544)));
    assert_eq!(segment.to, SocketAddr::from((SERVER, 8080)));
    assert_eq!(
        (segment.seq, segment.ack, segment.window),
        (1000, 2000, 4096)
    );
    assert!(segment.flags.ack() && !segment.flags.syn() && !segment.flags.fin());
    assert_eq!((segment.length, segment.payload), (5, &b"hello"[..]));
    assert_eq!(
        (segment.at, segment.frame.number, segment.frame.interface),
        (7, 3, 1)
    );
}

const IPV4: &[u8] = &[0x08, 0x00];
const IPV6: &[u8] = &[0x86, 0xdd];

#[test]
fn link_layers_lead_to_the_segment() {
    let packet = ipv4(b"hello");
    is_ours(decode_as(LinkType::ETHERNET, &ethernet(&[IPV4], &packet)));
    let vlan = [0x81, 0x00, 0x00, 0x2a];
    is_ours(decode_as(
        LinkType::ETHERNET,
        &ethernet(&[&vlan, IPV4], &packet),
    ));
    for outer in [
        [0x88, 0xa8, 0x00, 0x01],
        [0x91, 0x00, 0x00, 0x01],
        [0x81, 0x00, 0x00, 0x01],
    ] {
        let frame = ethernet(&[&outer, &vlan, IPV4], &packet);
        is_ours(decode_as(LinkType::ETHERNET, &frame));
    }
    let cooked = [&[0; 14][..], IPV4, &packet].concat();
    is_ours(decode_as(LinkType::LINUX_SLL, &cooked));
    let cooked = [IPV4, &[0; 18][..], &packet].concat();
    is_ours(decode_as(LinkType::LINUX_SLL2, &cooked));
    for raw in [12, 14, 101, 228] {
        is_ours(decode_as(LinkType(raw), &packet));
    }
    for family in [[2, 0, 0, 0], [0, 0, 0, 2]] {
        let frame = [&family[..], &packet].concat();
        is_ours(decode_as(LinkType::NULL, &frame));
        is_ours(decode_as(LinkType::LOOP, &frame));
    }
}

#[test]
fn ipv6_on_every_loopback() {
    let packet = ipv6(b"hello");
    for family in [10, 23, 24, 28, 30] {
        for word in [[family, 0, 0, 0], [0, 0, 0, family]] {
            let frame = [&word[..], &packet].concat();
            assert_eq!(segment(decode_as(LinkType::NULL, &frame)).payload, b"hello");
        }
    }
    let frame = ethernet(&[IPV6], &packet);
    let segment = segment(decode_as(LinkType::ETHERNET, &frame));
    assert_eq!(segment.from.to_string(), "[fd00::7]:51544");
    assert!(!segment.flags.ack());
}

#[test]
fn ipv4_options_and_ipv6_extensions_are_stepped_over() {
    let mut packet = ipv4(b"hello");
    packet[0] = 0x46;
    packet[3] += 4;
    packet.splice(20..20, [1, 1, 1, 0]);
    is_ours(decode_as(LinkType::RAW, &packet));

    // Hop-by-hop, then destination options of 16 bytes, then TCP.
    let mut packet = ipv6(b"hello");
    packet[6] = 0;
    packet[5] += 24;
    let extensions = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[6, 1, 1, 12], &[0; 12]].concat();
    packet.splice(40..40, extensions);
    let segment = segment(decode_as(LinkType::RAW, &packet));
    assert_eq!((segment.length, segment.payload), (5, &b"hello"[..]));
}

#[test]
fn ipv4_within_ipv6_is_ipv4() {
    let mut packet = ipv6(b"");
    let mapped = [&[0; 10][..], &[0xff, 0xff], &CLIENT].concat();
    packet[8..24].copy_from_slice(&mapped);
    let segment = segment(decode_as(LinkType::RAW, &packet));
    assert_eq!(segment.from, SocketAddr::from((CLIENT, 51544)));
}

#[test]
fn padding_is_no_payload() {
    let mut frame = ethernet(&[IPV4], &ipv4(b""));
    frame.resize(60, 0);
    let segment = segment(decode_as(LinkType::ETHERNET, &frame));
    assert_eq!((segment.length, segment.payload.len()), (0, 0));
}

#[test]
fn a_large_send_without_length_has_the_frames() {
    let mut packet = ipv4(b"hello");
    packet[2..4].fill(0);
    is_ours(decode_as(LinkType::RAW, &packet));
    let cut = &packet[..packet.len() - 2];
    let segment4 = segment(decode(&raw(LinkType::RAW, packet.len(), cut)));
    assert_eq!((segment4.length, segment4.payload), (5, &b"hel"[..]));

    let mut packet = ipv6(b"hello");
    packet[4..6].fill(0);
    let segment = segment(decode_as(LinkType::RAW, &packet));
    assert_eq!((segment.length, segment.payload), (5, &b"hello"[..]));
}

#[test]
fn a_snap_length_cuts_the_payload_and_not_its_length() {
    let mut packet = ipv4(b"hello");
    // 12 bytes of options, which may be cut too.
    packet[32] = 0x80;
    packet.splice(40..40, [1; 12]);
    packet[3] += 12;
    let original = packet.len();
    for length in 0..original {
        let decoded = decode(&raw(LinkType::RAW, original, &packet[..length]));
        if length < 40 {
            assert_eq!(reason(decoded), Reason::Truncated, "{length}");
            continue;
        }
        let segment = segment(decoded);
        assert_eq!(segment.length, 5);
        assert_eq!(segment.payload, &b"hello"[..length.saturating_sub(52)]);
    }
}

#[test]
fn headers_that_contradict_themselves_are_malformed() {
    let good = ipv4(b"hello");
    for (at, value) in [
        (0, 0x41),
        (0, 0x75),
        (3, 19),
        (3, 30),
        (32, 0x40),
        (32, 0xf0),
    ] {
        let mut packet = good.clone();
        packet[at] = value;
        assert_eq!(
            reason(decode_as(LinkType::RAW, &packet)),
            Reason::Malformed,
            "{at}: {value:#x}"
        );
    }
}

#[test]
fn fragments_are_counted_and_atomic_ones_read() {
    for (high, low, fragment) in [(0x20, 0, true), (0, 1, true), (0x40, 0, false)] {
        let mut packet = ipv4(b"hello");
        packet[6..8].copy_from_slice(&[high, low]);
        let decoded = decode_as(LinkType::RAW, &packet);
        if fragment {
            assert_eq!(reason(decoded), Reason::Fragment);
        } else {
            is_ours(decoded);
        }
    }
    for (offset, fragment) in [(1, true), (8, true), (0, false)] {
        let mut packet = ipv6(b"hello");
        packet[6] = 44;
        packet[5] += 8;
        packet.splice(40..40, [6, 0, 0, offset, 0, 0, 0, 9]);
        let decoded = decode_as(LinkType::RAW, &packet);
        if fragment {
            assert_eq!(reason(decoded), Reason::Fragment);
        } else {
            assert_eq!(segment(decoded).payload, b"hello");
        }
    }
    // Of other protocols nobody asks.
    let mut packet = ipv4(b"hello");
    (packet[6], packet[9]) = (0x20, IpNumber::UDP.0);
    other(decode_as(LinkType::RAW, &packet));
}

/// An IPv4 header of this protocol before a payload.
fn around(protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut packet = Vec::new();
    etherparse::Ipv4Header::new(length, 64, protocol, [192, 0, 2, 1], [192, 0, 2, 2])
        .unwrap()
        .write(&mut packet)
        .unwrap();
    packet.extend(payload);
    packet
}

fn vxlan(port: u16, inner: &[u8]) -> Vec<u8> {
    let mut udp = [&40_000_u16.to_be_bytes()[..], &port.to_be_bytes(), &[0; 4]].concat();
    udp.extend([8, 0, 0, 0, 0, 0, 42, 0]);
    udp.extend(inner);
    around(IpNumber::UDP, &udp)
}

#[test]
fn tunnels_are_followed() {
    let inner = ipv4(b"hello");
    is_ours(decode_as(LinkType::RAW, &around(IpNumber::IPV4, &inner)));
    let gre = [&[0, 0, 8, 0][..], &inner].concat();
    is_ours(decode_as(LinkType::RAW, &around(IpNumber::GRE, &gre)));
    let with_all = [&[0xb0, 0, 8, 0][..], &[0; 12], &inner].concat();
    is_ours(decode_as(LinkType::RAW, &around(IpNumber::GRE, &with_all)));
    let frame = ethernet(&[IPV4], &inner);
    let bridged = [&[0, 0, 0x65, 0x58][..], &frame].concat();
    is_ours(decode_as(LinkType::RAW, &around(IpNumber::GRE, &bridged)));
    is_ours(decode_as(LinkType::RAW, &vxlan(4789, &frame)));
    is_ours(decode_as(LinkType::RAW, &vxlan(8472, &frame)));
    let six = around(IpNumber::IPV6, &ipv6(b"hello"));
    assert_eq!(segment(decode_as(LinkType::RAW, &six)).payload, b"hello");
}

#[test]
fn what_cannot_be_followed_is_counted_by_reason() {
    let inner = ipv4(b"hello");
    let mut deep = inner.clone();
    for _ in 0..4 {
        deep = around(IpNumber::IPV4, &deep);
    }
    is_ours(decode_as(LinkType::RAW, &deep));
    let deeper = around(IpNumber::IPV4, &deep);
    assert_eq!(reason(decode_as(LinkType::RAW, &deeper)), Reason::Tunnel);
    let version1 = around(
        IpNumber::GRE,
        &[&[0x20, 1, 0x88, 0x0b][..], &inner].concat(),
    );
    let encrypted = around(IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, &inner);
    for packet in [version1, encrypted, vxlan(6081, &inner)] {
        assert_eq!(reason(decode_as(LinkType::RAW, &packet)), Reason::Tunnel);
    }
    let mpls = ethernet(&[&[0x88, 0x47]], &inner);
    assert_eq!(reason(decode_as(LinkType::ETHERNET, &mpls)), Reason::Tunnel);
    assert_eq!(reason(decode_as(LinkType(105), &inner)), Reason::LinkType);
}

#[test]
fn what_is_not_tcp_is_no_loss() {
    other(decode_as(
        LinkType::ETHERNET,
        &ethernet(&[&[0x08, 0x06]], &[0; 28]),
    ));
    other(decode_as(
        LinkType::ETHERNET,
        &ethernet(&[&[0x00, 0x26]], &[0x42; 38]),
    ));
    other(decode_as(LinkType::NULL, &[16, 0, 0, 0, 1, 2]));
    other(decode_as(LinkType::NULL, &[1, 2, 3, 4]));
    other(decode_as(LinkType::RAW, &vxlan(53, b"")));
    other(decode_as(
        LinkType::RAW,
        &around(IpNumber::ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]),
    ));
}

#[test]
fn icmp_errors_tell_whose_segment_was_not_delivered() {
    let quoted = ipv4(b"hello");
    for (kind, code, errno) in [
        (3, 0, Some(101)),
        (3, 1, Some(113)),
        (3, 3, Some(111)),
        (3, 13, Some(113)),
        (3, 4, None),
        (11, 0, Some(113)),
        (5, 1, None),
    ] {
        // Eight bytes of TCP, as the oldest routers quote.
        let message = [&[kind, code, 0, 0, 0, 0, 0, 0], &quoted[..28]].concat();
        let packet = around(IpNumber::ICMP, &message);
        let decoded = decode_as(LinkType::RAW, &packet);
        let Some(errno) = errno else {
            other(decoded);
            continue;
        };
        let expected = Unreachable {
            at: 7,
            frame: Frame {
                number: 3,
                interface: 1,
            },
            router: IpAddr::from([192, 0, 2, 1]),
            from: SocketAddr::from((CLIENT, 51544)),
            to: SocketAddr::from((SERVER, 8080)),
            seq: 1000,
            errno,
        };
        assert_eq!(unreachable(decoded), expected, "{kind} {code}");
    }
    let mut about_udp = quoted.clone();
    about_udp[9] = IpNumber::UDP.0;
    let message = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &about_udp].concat();
    other(decode_as(LinkType::RAW, &around(IpNumber::ICMP, &message)));
}

#[test]
fn icmpv6_errors_have_numbers_of_their_own() {
    let quoted = ipv6(b"hello");
    for (kind, code, errno) in [
        (1, 0, 101),
        (1, 1, 13),
        (1, 3, 113),
        (1, 4, 111),
        (3, 0, 113),
    ] {
        let message = [&[kind, code, 0, 0, 0, 0, 0, 0], &quoted[..48]].concat();
        let mut packet = ipv6(b"");
        packet.truncate(40);
        packet[6] = IpNumber::IPV6_ICMP.0;
        packet[5] = u8::try_from(message.len()).unwrap();
        packet.extend(message);
        let unreachable = unreachable(decode_as(LinkType::RAW, &packet));
        assert_eq!((unreachable.errno, unreachable.seq), (errno, 1000));
        assert_eq!(unreachable.to.to_string(), "[fd00::1]:8080");
    }
}

#[test]
fn what_follows_the_headers_is_users_traffic() {
    let frame = ethernet(&[IPV4], &ipv4(b"hello"));
    let of = |link_type, data: &[u8]| headers(&raw(link_type, data.len(), data));
    assert_eq!(of(LinkType::ETHERNET, &frame), frame.len() - 5);
    let mut padded = ethernet(&[IPV4], &ipv4(b""));
    padded.resize(60, 0);
    assert_eq!(of(LinkType::ETHERNET, &padded), 60);
    let quoted = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &ipv4(b"hello")].concat();
    let packet = around(IpNumber::ICMP, &quoted);
    assert_eq!(of(LinkType::RAW, &packet), 20 + 8 + 20 + 8);
    assert_eq!(of(LinkType::RAW, &vxlan(53, b"secret")), 0);
    assert_eq!(of(LinkType(105), &frame), 0);
}

/// What a person would see of each segment, whatever the link layer.
fn seen(name: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/captures")
        .join(name);
    let mut capture = Capture::open(&path).unwrap();
    let mut seen = Vec::new();
    while let Some(frame) = capture.next_frame() {
        seen.push(match decode(&frame.unwrap()) {
            Decoded::Segment(s) => format!(
                "{} > {} {:#04x} {} {} {} {}",
                s.from, s.to, s.flags.0, s.seq, s.ack, s.window, s.length
            ),
            other => format!("{other:?}"),
        });
    }
    seen
}

#[test]
fn one_run_captured_four_ways_is_the_same_segments() {
    let seen_on_loopback = seen("loopback.pcap");
    assert_eq!(seen_on_loopback.len(), 31);
    assert_eq!(
        seen_on_loopback[3],
        "127.0.0.1:38152 > 127.0.0.1:18080 0x18 886700684 3376960770 64 94"
    );
    assert_eq!(
        seen_on_loopback[30],
        "127.0.0.1:18081 > 127.0.0.1:42402 0x14 0 2784377369 0 0"
    );
    for name in ["any-v1.pcap", "any-v2.pcap"] {
        assert_eq!(seen(name), seen_on_loopback, "{name}");
    }
    // 70 bytes hold TCP's header after IPv4's, not after IPv6's.
    for (snapped, whole) in seen("snapped-ns.pcap").iter().zip(&seen_on_loopback) {
        if whole.starts_with('[') {
            assert_eq!(snapped, "NotUnderstood(Truncated)");
        } else {
            assert_eq!(snapped, whole);
        }
    }
}

/// Every frame of every kind above, cut everywhere and damaged at random, decodes to something.
#[test]
fn any_bytes_decode_without_panic() {
    let inner = ethernet(&[IPV4], &ipv4(b"hello"));
    let icmp = [&[3, 1, 0, 0, 0, 0, 0, 0], &ipv4(b"hello")[..]].concat();
    let frames = [
        (LinkType::ETHERNET, inner.clone()),
        (
            LinkType::ETHERNET,
            ethernet(&[&[0x81, 0, 0, 1], IPV6], &ipv6(b"hello")),
        ),
        (LinkType::RAW, ipv4(b"hello")),
        (LinkType::RAW, vxlan(4789, &inner)),
        (LinkType::RAW, around(IpNumber::ICMP, &icmp)),
        (
            LinkType::RAW,
            around(IpNumber::GRE, &[&[0, 0, 0x65, 0x58][..], &inner].concat()),
        ),
    ];
    let mut chance = 0x5eed_u64;
    let mut below = |limit: usize| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        usize::try_from(chance % limit as u64).unwrap()
    };
    for (link_type, frame) in &frames {
        for _ in 0..20_000 {
            let mut bytes = frame.clone();
            for _ in 0..=below(5) {
                let at = below(bytes.len());
                bytes[at] = u8::try_from(below(256)).unwrap();
            }
            bytes.truncate(below(frame.len() + 1));
            let original = below(2000);
            let decoded = decode(&raw(*link_type, original, &bytes));
            if let Decoded::Segment(segment) = decoded {
                assert!(segment.payload.len() <= segment.length as usize);
            }
            // Most of IPv4 has a shorter way, which must tell the same.
            let raw = raw(*link_type, original, &bytes);
            let general = link::decode(*link_type, Rest::of(&raw));
            assert_eq!(format!("{decoded:?}"), format!("{general:?}"));
        }
    }
}

//! Which packets are seen as what.

use super::packets::*;
use crate::{IpVersion, Kind, MAX_EXTENSION_HEADERS, parse, parse_tag};
use proptest::prelude::*;
use std::vec::Vec;

const TCP: u8 = 6;
const MORE: u16 = 0x2000;

fn kind_v4(packet: &[u8]) -> Kind {
    parse(&packet, IpVersion::V4).kind
}

fn kind_v6(packet: &[u8]) -> Kind {
    parse(&packet, IpVersion::V6).kind
}

fn from_customer_v4(fragment: u16, payload: &[u8]) -> Vec<u8> {
    v4(CUSTOMER_V4, SERVER_V4, TCP, fragment, payload)
}

fn from_customer_v6(next: u8, payload: &[u8]) -> Vec<u8> {
    v6(CUSTOMER_V6, SERVER_V6, next, payload)
}

#[test]
fn segments_with_port_25_at_either_end() {
    let packet = parse(&from_customer_v4(0, &tcp(40_000, 25, SYN)), IpVersion::V4);
    assert_eq!(packet.kind, Kind::Segment);
    assert!(packet.opens() && !packet.acknowledges() && packet.flow.to_smtp());
    assert_eq!(packet.offset, 20);
    assert_eq!(packet.flow.source[0].to_ne_bytes(), CUSTOMER_V4);
    assert_eq!(packet.flow.destination[0].to_ne_bytes(), SERVER_V4);
    assert_eq!(packet.flow.source_port.to_ne_bytes(), 40_000u16.to_be_bytes());

    let packet = parse(&from_customer_v6(TCP, &tcp(25, 40_000, ACK)), IpVersion::V6);
    assert_eq!(packet.kind, Kind::Segment);
    assert!(packet.acknowledges() && !packet.flow.to_smtp());
    assert_eq!(packet.offset, 40);

    assert_eq!(kind_v4(&from_customer_v4(0, &tcp(40_000, 26, SYN))), Kind::Unrelated);
    assert_eq!(kind_v6(&from_customer_v6(TCP, &tcp(40_000, 465, SYN))), Kind::Unrelated);
    assert_eq!(kind_v4(&v4(CUSTOMER_V4, SERVER_V4, 17, 0, &tcp(40_000, 25, SYN))), Kind::Unrelated);
}

#[test]
fn ip_options_move_the_tcp_header() {
    let mut packet = from_customer_v4(0, &[]);
    packet[0] = 0x47;
    packet.extend_from_slice(&[1; 8]);
    packet.extend_from_slice(&tcp(40_000, 25, SYN));
    let packet = parse(&packet, IpVersion::V4);
    assert_eq!((packet.kind, packet.offset), (Kind::Segment, 28));
}

#[test]
fn what_may_go_on_from_where_it_is_addressed_to() {
    let may_go_on = |packet: &[u8], version| parse(&packet, version).may_go_on;
    let syn = tcp(40_000, 25, SYN);
    let mut with_options = from_customer_v4(0, &[]);
    assert!(!may_go_on(&from_customer_v4(0, &syn), IpVersion::V4));
    with_options[0] = 0x46;
    with_options.extend([1; 4]);
    with_options.extend(&syn);
    assert!(may_go_on(&with_options, IpVersion::V4));
    for (header, expected) in [(0, false), (43, true), (60, false)] {
        let packet = from_customer_v6(header, &extension(TCP, &syn));
        assert_eq!(may_go_on(&packet, IpVersion::V6), expected, "header {header}");
    }
}

#[test]
fn tags_behind_a_tag_of_no_vlan() {
    let kind = |tag: [u8; 4]| parse_tag(&tag.as_slice()).kind;
    assert_eq!(kind([0, 0, 8, 0]), Kind::NestedTags);
    assert_eq!(kind([0xe0, 0, 0x81, 0]), Kind::NestedTags, "whatever its priority, and whatever follows");
    assert_eq!(kind([0, 5, 8, 0]), Kind::Unrelated);
    assert_eq!(kind([0x0f, 0xff, 8, 0]), Kind::Unrelated);
    assert_eq!(parse_tag(&[0_u8; 3].as_slice()).kind, Kind::Unrelated);
}

#[test]
fn flags_that_open() {
    const FIN: u8 = 0x01;
    const ECN: u8 = 0xc0;
    for (flags, opens) in [
        (SYN, true),
        (SYN | ECN, true),
        (SYN | FIN, true),
        (SYN | ACK, false),
        (SYN | RST, false),
        (0, false),
    ] {
        let packet = parse(&from_customer_v4(0, &tcp(40_000, 25, flags)), IpVersion::V4);
        assert_eq!(packet.opens(), opens, "{flags:#x}");
    }
}

#[test]
fn fragments_v4() {
    assert_eq!(kind_v4(&from_customer_v4(MORE, &tcp(40_000, 25, SYN))), Kind::Fragment);
    assert_eq!(kind_v4(&from_customer_v4(MORE, &tcp(40_000, 25, SYN)[..8])), Kind::Fragment);
    assert_eq!(kind_v4(&from_customer_v4(MORE, &tcp(40_000, 80, SYN))), Kind::Unrelated);
    assert_eq!(kind_v4(&from_customer_v4(MORE | 1, &tcp(40_000, 25, SYN))), Kind::Unrelated);
    assert_eq!(kind_v4(&from_customer_v4(185, &tcp(40_000, 25, SYN))), Kind::Unrelated);
    assert_eq!(kind_v4(&from_customer_v4(MORE, &[])), Kind::ShortFragment);
    // Bytes behind the packet's end are not the packet's.
    let mut padded = from_customer_v4(MORE, &[]);
    padded.extend_from_slice(&tcp(40_000, 80, SYN));
    assert_eq!(kind_v4(&padded), Kind::ShortFragment);
}

#[test]
fn fragments_v6() {
    let first = |payload: &[u8]| from_customer_v6(44, &fragment(TCP, 0, true, payload));
    assert_eq!(kind_v6(&first(&tcp(40_000, 25, SYN))), Kind::Fragment);
    assert_eq!(kind_v6(&first(&tcp(40_000, 80, SYN))), Kind::Unrelated);
    assert_eq!(kind_v6(&first(&[])), Kind::ShortFragment);
    let mut padded = first(&[]);
    padded.extend_from_slice(&tcp(40_000, 80, SYN));
    assert_eq!(kind_v6(&padded), Kind::ShortFragment);
    // The chain of headers goes on in the next fragment (RFC 7112).
    let unfinished = from_customer_v6(44, &fragment(60, 0, true, &[]));
    assert_eq!(kind_v6(&unfinished), Kind::ShortFragment);
    let hidden = from_customer_v6(44, &fragment(60, 0, true, &extension(TCP, &[])));
    assert_eq!(kind_v6(&hidden), Kind::ShortFragment);
    // Behind a header, and as an atomic fragment (RFC 6946).
    let behind = from_customer_v6(60, &extension(44, &fragment(TCP, 0, true, &tcp(40_000, 25, SYN))));
    assert_eq!(kind_v6(&behind), Kind::Fragment);
    let atomic = from_customer_v6(44, &fragment(TCP, 0, false, &tcp(40_000, 25, SYN)));
    assert_eq!(kind_v6(&atomic), Kind::Fragment);
    let later = from_customer_v6(44, &fragment(TCP, 1448, true, &tcp(40_000, 25, SYN)));
    assert_eq!(kind_v6(&later), Kind::Unrelated);
}

#[test]
fn extension_headers() {
    let mut payload = tcp(40_000, 25, SYN);
    let mut next = TCP;
    for count in 1..=MAX_EXTENSION_HEADERS + 2 {
        payload = extension(next, &payload);
        next = 60;
        let expected = if count <= MAX_EXTENSION_HEADERS { Kind::Segment } else { Kind::ExtensionHeaders };
        assert_eq!(kind_v6(&from_customer_v6(60, &payload)), expected, "{count} headers");
    }
    // The length of an authentication header is counted in other units (RFC 4302 section 2.2).
    let mut authenticated = extension(TCP, &[0; 8]);
    authenticated[1] = 2;
    authenticated.extend_from_slice(&tcp(40_000, 25, SYN));
    let packet = parse(&from_customer_v6(51, &authenticated), IpVersion::V6);
    assert_eq!((packet.kind, packet.offset), (Kind::Segment, 56));
    // Encrypted, or nothing at all: not ours to see.
    assert_eq!(kind_v6(&from_customer_v6(50, &tcp(40_000, 25, SYN))), Kind::Unrelated);
    assert_eq!(kind_v6(&from_customer_v6(59, &tcp(40_000, 25, SYN))), Kind::Unrelated);
}

#[test]
fn icmp_errors_name_the_flow_of_the_answers() {
    let sent = from_customer_v4(0, &tcp(20_000, 25, ACK));
    let router = [198, 51, 100, 1];
    let packet = parse(&v4(router, CUSTOMER_V4, 1, 0, &icmp(3, &sent)), IpVersion::V4);
    assert_eq!(packet.kind, Kind::IcmpError);
    assert_eq!(packet.flow.source[0].to_ne_bytes(), SERVER_V4);
    assert_eq!(packet.flow.destination[0].to_ne_bytes(), CUSTOMER_V4);
    assert_eq!(packet.flow.source_port, 25u16.to_be());
    assert_eq!(kind_v4(&v4(router, CUSTOMER_V4, 1, 0, &icmp(8, &sent))), Kind::Unrelated);
    let other = from_customer_v4(0, &tcp(20_000, 80, ACK));
    assert_eq!(kind_v4(&v4(router, CUSTOMER_V4, 1, 0, &icmp(3, &other))), Kind::Unrelated);

    let sent = from_customer_v6(TCP, &tcp(20_000, 25, ACK));
    for kind in 0..=5 {
        let packet = parse(&v6(SERVER_V6, CUSTOMER_V6, 58, &icmp(kind, &sent)), IpVersion::V6);
        let expected = if (1..=3).contains(&kind) { Kind::IcmpError } else { Kind::Unrelated };
        assert_eq!(packet.kind, expected, "type {kind}");
    }
}

proptest! {
    /// Any bytes are read without a panic, and as a segment only with port 25 in them.
    #[test]
    fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..120), six: bool) {
        if let Some(first) = bytes.first_mut() {
            *first = if six { 0x60 } else { 0x45 };
        }
        let version = if six { IpVersion::V6 } else { IpVersion::V4 };
        let packet = parse(&bytes, version);
        if packet.kind == Kind::Segment {
            prop_assert!(packet.flow.to_smtp() || packet.flow.reversed().to_smtp());
        }
    }
}

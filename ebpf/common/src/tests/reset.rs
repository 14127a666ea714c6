//! Answers that refuse a SYN, with the checksums that the other end will look at.

use proptest::prelude::*;
use std::vec::Vec;

use super::packets::*;
use crate::{Reset, reset_v4, reset_v6};

/// One's complement over 16-bit words, as RFC 1071 has it.
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn pseudo(source: &[u8], destination: &[u8], length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [source, destination, &length, &[0, 0, 0, 6]].concat()
}

/// A SYN with options and a true checksum.
fn syn(sequence: u32, options: usize, urgent: u16, pseudo_header: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let mut header = tcp(40_000, 25, SYN);
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[14..16].copy_from_slice(&64_240u16.to_be_bytes());
    header[18..20].copy_from_slice(&urgent.to_be_bytes());
    header.extend((0..options * 4).map(|index| u8::try_from(index * 37 % 251).unwrap()));
    header[12] = u8::try_from((5 + options) << 4).unwrap();
    let checksum = !sum(&[pseudo_header(header.len()), header.clone()].concat());
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// As the kernel does it when told of a difference (`csum_replace_by_diff`).
fn replaced(checksum: [u8; 2], difference: u32) -> [u8; 2] {
    let add = |a: u32, b: u32| {
        let sum = u64::from(a) + u64::from(b);
        u32::try_from(sum & 0xffff_ffff).unwrap() + u32::try_from(sum >> 32).unwrap()
    };
    let old = !u32::from(u16::from_ne_bytes(checksum));
    let mut sum = add(difference, old);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_ne_bytes()
}

fn bytes<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// The answer's TCP header, with its checksum made right as the kernel will.
fn tcp_of<const IP: usize>(reset: &Reset<IP>) -> Vec<u8> {
    let mut header = bytes(reset.tcp);
    let checksum = [header[16], header[17]];
    let checksum = replaced(replaced(checksum, reset.difference), reset.pseudo_difference);
    header[16..18].copy_from_slice(&checksum);
    header
}

fn assert_refuses(header: &[u8], sequence: u32, pseudo_header: &[u8]) {
    assert_eq!(header[..4], [&25u16.to_be_bytes()[..], &40_000u16.to_be_bytes()].concat());
    assert_eq!(header[4..8], [0; 4]);
    assert_eq!(header[8..12], sequence.wrapping_add(1).to_be_bytes());
    assert_eq!(header[12..16], [0x50, RST | ACK, 0, 0]);
    assert_eq!(header[18..20], [0, 0]);
    assert_eq!(sum(&[pseudo_header, header].concat()), 0xffff, "the checksum");
}

proptest! {
    #[test]
    fn whatever_the_syn(sequence: u32, options in 0usize..=10, urgent: u16, source: [u8; 4], server: [u8; 16]) {
        let pseudo_v4 = |length| pseudo(&source, &SERVER_V4, length);
        let packet = v4(source, SERVER_V4, 6, 0x4000, &syn(sequence, options, urgent, pseudo_v4));
        let mut reset = Reset::<5>::NONE;
        prop_assert!(reset_v4(&packet, &mut reset));
        let header = bytes(reset.ip);
        prop_assert_eq!(&header[12..20], &[SERVER_V4, source].concat());
        prop_assert_eq!(&header[..4], &[0x45, 0, 0, 40]);
        prop_assert_eq!(sum(&header), 0xffff);
        assert_refuses(&tcp_of(&reset), sequence, &pseudo(&SERVER_V4, &source, 20));

        let pseudo_v6 = |length| pseudo(&CUSTOMER_V6, &server, length);
        let packet = v6(CUSTOMER_V6, server, 6, &syn(sequence, options, urgent, pseudo_v6));
        let mut reset = Reset::<10>::NONE;
        prop_assert!(reset_v6(&packet, &mut reset));
        let header = bytes(reset.ip);
        prop_assert_eq!(&header[..8], &[0x60, 0, 0, 0, 0, 20, 6, 64]);
        prop_assert_eq!(&header[8..40], &[server, CUSTOMER_V6].concat());
        assert_refuses(&tcp_of(&reset), sequence, &pseudo(&server, &CUSTOMER_V6, 20));
    }
}

#[test]
fn what_is_no_plain_syn_has_no_answer() {
    let pseudo_v4 = |length| pseudo(&CUSTOMER_V4, &SERVER_V4, length);
    let plain = syn(1, 2, 0, pseudo_v4);
    let refused = |packet: Vec<u8>| {
        let mut reset = Reset::NONE;
        !reset_v4(&packet, &mut reset)
    };
    assert!(!refused(v4(CUSTOMER_V4, SERVER_V4, 6, 0, &plain)));
    // With data, cut short, with IP options, with a header shorter than can be.
    assert!(refused(v4(CUSTOMER_V4, SERVER_V4, 6, 0, &[&plain[..], b"EHLO"].concat())));
    assert!(refused(v4(CUSTOMER_V4, SERVER_V4, 6, 0, &plain[..24])));
    let mut options = v4(CUSTOMER_V4, SERVER_V4, 6, 0, &[&[1; 4], &plain[..]].concat());
    options[0] = 0x46;
    assert!(refused(options));
    let mut short = plain.clone();
    short[12] = 0x40;
    assert!(refused(v4(CUSTOMER_V4, SERVER_V4, 6, 0, &short[..16])));
    assert!(refused(Vec::new()));
    let behind = v6(CUSTOMER_V6, SERVER_V6, 60, &extension(6, &plain));
    let mut reset = Reset::NONE;
    assert!(!reset_v6(&behind, &mut reset));
}

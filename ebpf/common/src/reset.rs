//! The answer that refuses a SYN: RST and ACK, in the place of the SYN (RFC 9293 section 3.10.7.1).

use crate::Bytes;

const TCP_WORDS: u32 = 5;
/// Options of the longest TCP header, in words.
const MAX_OPTION_WORDS: u32 = 10;

/// RST and ACK, a header of five words, no window.
const OFFSET_FLAGS_WINDOW: u32 = 0x5014_0000;
const DONT_FRAGMENT: u32 = 0x4000;
const HOPS: u32 = 64;
const TCP: u32 = 6;

/// The headers of the answer to a SYN whose IP header has `IP` words.
///
/// The checksum in the TCP header is the SYN's. It is not made anew: where it is the network card's to finish, only the
/// kernel knows that. It is told of the differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset<const IP: usize> {
    pub ip: [u32; IP],
    pub tcp: [u32; 5],
    /// By how much the sum over the TCP packet changes.
    pub difference: u32,
    /// By how much the sum over the pseudo-header changes: the two addresses change places, the length is another.
    pub pseudo_difference: u32,
}

impl<const IP: usize> Reset<IP> {
    pub const NONE: Self = Self { ip: [0; IP], tcp: [0; 5], difference: 0, pseudo_difference: 0 };

    /// Where the TCP header is, in bytes from the IP header.
    #[expect(clippy::cast_possible_truncation, reason = "an IP header has 5 or 10 words")]
    pub const TCP: u32 = IP as u32 * 4;

    /// Bytes of the answer.
    pub const LENGTH: u32 = Self::TCP + TCP_WORDS * 4;

    /// Where the TCP checksum is, in bytes from the IP header.
    pub const CHECKSUM: u32 = Self::TCP + 16;
}

/// Fills in the answer to an IPv4 packet. `false` where the SYN has IP options or carries data, as no mail server's does.
#[inline(always)]
pub fn reset_v4<B: Bytes>(bytes: &B, reset: &mut Reset<5>) -> bool {
    let Some(ip) = bytes.words::<5>(0) else {
        return false;
    };
    let first = u32::from_be(ip[0]);
    if first >> 24 & 0x0f != 5 {
        return false;
    }
    let length = (first & 0xffff).wrapping_sub(20);
    if !fill(bytes, 20, length, reset) {
        return false;
    }
    reset.ip = [
        (0x4500_0000 | Reset::<5>::LENGTH).to_be(),
        DONT_FRAGMENT.to_be(),
        (HOPS << 24 | TCP << 16).to_be(),
        ip[4],
        ip[3],
    ];
    let sum = fold(add(add(add(add(reset.ip[0], reset.ip[1]), reset.ip[2]), ip[3]), ip[4]));
    // The sum is of the words as they are in memory, and so is its place in them.
    reset.ip[2] = (u32::from_be(reset.ip[2]) | u32::from(u16::from_be(!sum))).to_be();
    true
}

/// As for IPv4; `false` where there are extension headers, too.
#[inline(always)]
pub fn reset_v6<B: Bytes>(bytes: &B, reset: &mut Reset<10>) -> bool {
    let Some(ip) = bytes.words::<10>(0) else {
        return false;
    };
    let second = u32::from_be(ip[1]);
    if second >> 8 & 0xff != TCP || !fill(bytes, 40, second >> 16, reset) {
        return false;
    }
    reset.ip = [
        0x6000_0000u32.to_be(),
        ((TCP_WORDS * 4) << 16 | TCP << 8 | HOPS).to_be(),
        ip[6],
        ip[7],
        ip[8],
        ip[9],
        ip[2],
        ip[3],
        ip[4],
        ip[5],
    ];
    true
}

/// The TCP header, for one of `length` bytes at `offset`.
#[inline(always)]
fn fill<B: Bytes, const IP: usize>(bytes: &B, offset: u32, length: u32, reset: &mut Reset<IP>) -> bool {
    let Some(syn) = bytes.words::<5>(offset) else {
        return false;
    };
    let words = u32::from_be(syn[3]) >> 28;
    if words < TCP_WORDS || words * 4 != length {
        return false;
    }
    let mut before = add(add(add(add(syn[0], syn[1]), syn[2]), syn[3]), syn[4]);
    for index in 0..MAX_OPTION_WORDS {
        if index >= words - TCP_WORDS {
            break;
        }
        let Some(option) = bytes.words::<1>(offset + (TCP_WORDS + index) * 4) else {
            return false;
        };
        before = add(before, option[0]);
    }
    let ports = u32::from_be(syn[0]);
    let sequence = u32::from_be(syn[1]).wrapping_add(1);
    // The urgent pointer goes, the checksum stays as it is for now.
    let checksum = (u32::from_be(syn[4]) & 0xffff_0000).to_be();
    reset.tcp = [ports.rotate_left(16).to_be(), 0, sequence.to_be(), OFFSET_FLAGS_WINDOW.to_be(), checksum];
    let tcp = reset.tcp;
    let after = add(add(add(add(tcp[0], tcp[1]), tcp[2]), tcp[3]), tcp[4]);
    reset.difference = subtract(after, before);
    let half = |length: u32| u32::from(((length & 0xffff) as u16).to_be());
    reset.pseudo_difference = subtract(half(TCP_WORDS * 4), half(length));
    true
}

/// One's complement.
#[inline(always)]
const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum & 0xffff_ffff) as u32 + (sum >> 32) as u32
}

#[inline(always)]
const fn subtract(a: u32, b: u32) -> u32 {
    add(a, !b)
}

#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (((sum & 0xffff) + (sum >> 16)) & 0xffff) as u16
}

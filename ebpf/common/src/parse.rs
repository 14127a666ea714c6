//! Headers of a packet, as far as steering needs them.
//!
//! Numbers stay in network byte order, except where a function says otherwise: sockets and routes are
//! looked up with them as they are.

/// Where mail goes (RFC 5321 section 2.3.4), in host byte order.
pub const SMTP_PORT: u16 = 25;

/// IPv6 extension headers that are walked to find the TCP header. No mail server's packets have even
/// one; a bound is what the kernel's verifier asks for.
pub const MAX_EXTENSION_HEADERS: u32 = 6;

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

// IPv6 extension headers (RFC 8200, RFC 4302, RFC 6275, RFC 7401, RFC 5533).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

const MORE_FRAGMENTS_V4: u16 = 0x2000;
const FRAGMENT_OFFSET_V4: u16 = 0x1fff;
const FRAGMENT_OFFSET_V6: u16 = 0xfff8;

/// Bytes of a TCP header up to and with its flags.
const TCP_UP_TO_FLAGS: u32 = 16;
/// Bytes of a TCP header up to and with its ports.
const TCP_PORTS: u32 = 4;

/// Read access to a packet from the start of its IP header.
pub trait Bytes {
    /// `N` 32-bit words at `offset` bytes, in the packet's byte order; `None` beyond its end.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    V4,
    V6,
}

/// The addresses and ports of a TCP packet, in network byte order. An IPv4 address is word 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub version: IpVersion,
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub source_port: u16,
    pub destination_port: u16,
}

impl Flow {
    /// The flow of the answers.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            version: self.version,
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }

    #[inline(always)]
    pub const fn to_smtp(&self) -> bool {
        self.destination_port == SMTP_PORT.to_be()
    }

    #[inline(always)]
    const fn is_smtp(&self) -> bool {
        self.to_smtp() || self.source_port == SMTP_PORT.to_be()
    }
}

/// A TCP packet with port 25 at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub flow: Flow,
    /// The flags byte of the TCP header.
    pub flags: u8,
    /// Where the TCP header starts, in bytes from the IP header.
    pub offset: u32,
}

impl Segment {
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;

    /// Whether it opens a connection. FIN and others beside the SYN do not matter: a listener discards what
    /// makes no sense, a destination might not.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }

    /// Whether it may be the last packet of a handshake.
    #[inline(always)]
    pub const fn acknowledges(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST) == Self::ACK
    }
}

/// A packet, as far as steering cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// None of our business.
    Unrelated,
    Segment(Segment),
    /// An ICMP error; the flow is the one on which the other end's answers to the quoted packet come.
    IcmpError(Flow),
    /// First fragment with a TCP header to port 25, from this source.
    Fragment(IpVersion, [u32; 4]),
    /// First fragment too short to show what it carries, from this source.
    ShortFragment(IpVersion, [u32; 4]),
    /// More extension headers than are walked, from this source.
    ExtensionHeaders(IpVersion, [u32; 4]),
}

/// Reads the headers of a packet of the given IP version.
#[inline(always)]
pub fn parse<B: Bytes>(bytes: &B, version: IpVersion) -> Packet {
    let parsed = match version {
        IpVersion::V4 => parse_v4(bytes),
        IpVersion::V6 => parse_v6(bytes),
    };
    parsed.unwrap_or(Packet::Unrelated)
}

#[inline(always)]
fn parse_v4<B: Bytes>(bytes: &B) -> Option<Packet> {
    let header = bytes.words::<5>(0)?;
    let first = u32::from_be(header[0]);
    let header_length = (first >> 24 & 0x0f) * 4;
    if first >> 28 != 4 || header_length < 20 {
        return None;
    }
    let fragment = (u32::from_be(header[1]) & 0xffff) as u16;
    let first_fragment = fragment & (MORE_FRAGMENTS_V4 | FRAGMENT_OFFSET_V4) == MORE_FRAGMENTS_V4;
    if fragment & FRAGMENT_OFFSET_V4 != 0 {
        return None;
    }
    let flow = Flow {
        version: IpVersion::V4,
        source: [header[3], 0, 0, 0],
        destination: [header[4], 0, 0, 0],
        source_port: 0,
        destination_port: 0,
    };
    match protocol_v4(header[2]) {
        TCP if first_fragment => parse_fragment(bytes, flow, header_length, first & 0xffff),
        TCP => parse_segment(bytes, flow, header_length),
        ICMP if !first_fragment => parse_icmp_v4(bytes, header_length),
        _ => None,
    }
}

#[inline(always)]
fn parse_v6<B: Bytes>(bytes: &B) -> Option<Packet> {
    let header = bytes.words::<10>(0)?;
    let second = u32::from_be(header[1]);
    let end = 40 + (second >> 16);
    let flow = Flow {
        version: IpVersion::V6,
        source: [header[2], header[3], header[4], header[5]],
        destination: [header[6], header[7], header[8], header[9]],
        source_port: 0,
        destination_port: 0,
    };
    let mut next = (second >> 8 & 0xff) as u8;
    let mut offset = 40u32;
    let mut first_fragment = false;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(next) {
            break;
        }
        // The lengths of headers are the sender's to choose; what he wrote behind the packet's end (the
        // padding of a short frame, for one) must not be taken for headers.
        if first_fragment && offset + 8 > end {
            return Some(Packet::ShortFragment(flow.version, flow.source));
        }
        let Some(extension) = bytes.words::<2>(offset) else {
            return first_fragment.then_some(Packet::ShortFragment(flow.version, flow.source));
        };
        let word = u32::from_be(extension[0]);
        let length = word >> 16 & 0xff;
        offset += match next {
            FRAGMENT => {
                if (word & 0xffff) as u16 & FRAGMENT_OFFSET_V6 != 0 {
                    return None;
                }
                first_fragment = true;
                8
            }
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        next = (word >> 24) as u8;
    }
    match next {
        TCP if first_fragment => parse_fragment(bytes, flow, offset, end),
        TCP => parse_segment(bytes, flow, offset),
        ICMPV6 if !first_fragment => parse_icmp_v6(bytes, offset),
        next if is_extension(next) => Some(Packet::ExtensionHeaders(flow.version, flow.source)),
        _ => None,
    }
}

#[inline(always)]
const fn is_extension(header: u8) -> bool {
    matches!(
        header,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}

#[inline(always)]
fn parse_segment<B: Bytes>(bytes: &B, mut flow: Flow, offset: u32) -> Option<Packet> {
    let header = bytes.words::<{ TCP_UP_TO_FLAGS as usize / 4 }>(offset)?;
    set_ports(&mut flow, header[0]);
    let flags = (u32::from_be(header[3]) >> 16 & 0xff) as u8;
    flow.is_smtp().then_some(Packet::Segment(Segment { flow, flags, offset }))
}

/// A first fragment with a TCP header at `offset`; the packet ends at `end`.
#[inline(always)]
fn parse_fragment<B: Bytes>(bytes: &B, mut flow: Flow, offset: u32, end: u32) -> Option<Packet> {
    let short = Packet::ShortFragment(flow.version, flow.source);
    if offset + TCP_PORTS > end {
        return Some(short);
    }
    let Some(ports) = bytes.words::<1>(offset) else {
        return Some(short);
    };
    set_ports(&mut flow, ports[0]);
    flow.to_smtp().then_some(Packet::Fragment(flow.version, flow.source))
}

/// An error that concerns a TCP connection: unreachable, with "fragmentation needed" among its codes.
#[inline(always)]
fn parse_icmp_v4<B: Bytes>(bytes: &B, offset: u32) -> Option<Packet> {
    const UNREACHABLE: u32 = 3;
    let icmp = bytes.words::<1>(offset)?;
    if u32::from_be(icmp[0]) >> 24 != UNREACHABLE {
        return None;
    }
    let quoted = bytes.words::<5>(offset + 8)?;
    let first = u32::from_be(quoted[0]);
    let header_length = (first >> 24 & 0x0f) * 4;
    let protocol = protocol_v4(quoted[2]);
    if first >> 28 != 4 || header_length < 20 || protocol != TCP {
        return None;
    }
    let flow = Flow {
        version: IpVersion::V4,
        source: [quoted[3], 0, 0, 0],
        destination: [quoted[4], 0, 0, 0],
        source_port: 0,
        destination_port: 0,
    };
    quoted_flow(bytes, flow, offset + 8 + header_length)
}

/// As for IPv4: destination unreachable, packet too big, time exceeded.
#[inline(always)]
fn parse_icmp_v6<B: Bytes>(bytes: &B, offset: u32) -> Option<Packet> {
    const UNREACHABLE: u32 = 1;
    const TIME_EXCEEDED: u32 = 3;
    let icmp = bytes.words::<1>(offset)?;
    if !(UNREACHABLE..=TIME_EXCEEDED).contains(&(u32::from_be(icmp[0]) >> 24)) {
        return None;
    }
    // Our own packets have no extension headers, so neither has a quotation of one.
    let quoted = bytes.words::<10>(offset + 8)?;
    if (u32::from_be(quoted[1]) >> 8 & 0xff) as u8 != TCP {
        return None;
    }
    let flow = Flow {
        version: IpVersion::V6,
        source: [quoted[2], quoted[3], quoted[4], quoted[5]],
        destination: [quoted[6], quoted[7], quoted[8], quoted[9]],
        source_port: 0,
        destination_port: 0,
    };
    quoted_flow(bytes, flow, offset + 48)
}

#[inline(always)]
fn quoted_flow<B: Bytes>(bytes: &B, mut flow: Flow, offset: u32) -> Option<Packet> {
    let ports = bytes.words::<1>(offset)?;
    set_ports(&mut flow, ports[0]);
    flow.is_smtp().then_some(Packet::IcmpError(flow.reversed()))
}

/// The protocol in the third word of an IPv4 header.
#[inline(always)]
const fn protocol_v4(word: u32) -> u8 {
    (u32::from_be(word) >> 16 & 0xff) as u8
}

#[inline(always)]
fn set_ports(flow: &mut Flow, word: u32) {
    let word = u32::from_be(word);
    flow.source_port = ((word >> 16) as u16).to_be();
    flow.destination_port = ((word & 0xffff) as u16).to_be();
}

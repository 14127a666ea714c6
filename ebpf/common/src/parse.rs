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

/// What kind of packet it is, as far as steering cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None of our business. The other fields say nothing.
    Unrelated,
    /// A TCP packet with port 25 at one end.
    Segment,
    /// An ICMP error; the flow is the one on which the other end's answers to the quoted packet come.
    IcmpError,
    /// First fragment with a TCP header to port 25.
    Fragment,
    /// First fragment too short to show what it carries. No ports.
    ShortFragment,
    /// More extension headers than are walked. No ports.
    ExtensionHeaders,
    /// A frame behind two priority tags. No addresses.
    NestedTags,
}

/// The headers of a packet.
///
/// Not an enum with a payload for each kind: the compiler leaves undefined what a variant lacks, copies it
/// none the less, and the kernel's verifier refuses the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub kind: Kind,
    pub flow: Flow,
    /// The flags byte of the TCP header.
    pub flags: u8,
    /// Where the TCP header starts, in bytes from the IP header.
    pub offset: u32,
    /// It has IPv4 options or a routing header, which may say that it goes on from where it is addressed to.
    pub may_go_on: bool,
}

impl Packet {
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

    #[inline(always)]
    fn set_ports(&mut self, word: u32) {
        let word = u32::from_be(word);
        self.flow.source_port = ((word >> 16) as u16).to_be();
        self.flow.destination_port = ((word & 0xffff) as u16).to_be();
    }

    #[inline(always)]
    fn set_v4(&mut self, header: &[u32; 5]) {
        self.flow.source[0] = header[3];
        self.flow.destination[0] = header[4];
    }

    #[inline(always)]
    fn set_v6(&mut self, header: &[u32; 10]) {
        self.flow.source = [header[2], header[3], header[4], header[5]];
        self.flow.destination = [header[6], header[7], header[8], header[9]];
    }
}

/// Reads the headers of a packet of the given IP version.
#[inline(always)]
pub fn parse<B: Bytes>(bytes: &B, version: IpVersion) -> Packet {
    let flow = Flow { version, source: [0; 4], destination: [0; 4], source_port: 0, destination_port: 0 };
    let mut packet = Packet { kind: Kind::Unrelated, flow, flags: 0, offset: 0, may_go_on: false };
    let kind = match version {
        IpVersion::V4 => parse_v4(bytes, &mut packet),
        IpVersion::V6 => parse_v6(bytes, &mut packet),
    };
    packet.kind = kind;
    packet
}

/// Reads what follows a tag of VLAN 0 and is a tag itself: VLAN 0 is no VLAN, so the kernel takes both off and
/// the packet for the interface's own, but only after the program. A tag of a VLAN is for an interface of its own.
#[inline(always)]
pub fn parse_tag<B: Bytes>(bytes: &B) -> Packet {
    const VLAN: u32 = 0x0fff;
    let is_priority = bytes.words::<1>(0).is_some_and(|tag| u32::from_be(tag[0]) >> 16 & VLAN == 0);
    let kind = if is_priority { Kind::NestedTags } else { Kind::Unrelated };
    let (version, none) = (IpVersion::V4, [0; 4]);
    let flow = Flow { version, source: none, destination: none, source_port: 0, destination_port: 0 };
    Packet { kind, flow, flags: 0, offset: 0, may_go_on: false }
}

#[inline(always)]
fn parse_v4<B: Bytes>(bytes: &B, packet: &mut Packet) -> Kind {
    let Some(header) = bytes.words::<5>(0) else {
        return Kind::Unrelated;
    };
    let first = u32::from_be(header[0]);
    let header_length = (first >> 24 & 0x0f) * 4;
    let fragment = (u32::from_be(header[1]) & 0xffff) as u16;
    if first >> 28 != 4 || header_length < 20 || fragment & FRAGMENT_OFFSET_V4 != 0 {
        return Kind::Unrelated;
    }
    packet.set_v4(&header);
    packet.offset = header_length;
    packet.may_go_on = header_length > 20;
    let first_fragment = fragment & MORE_FRAGMENTS_V4 != 0;
    match protocol_v4(header[2]) {
        TCP if first_fragment => parse_fragment(bytes, packet, first & 0xffff),
        TCP => parse_segment(bytes, packet),
        ICMP if !first_fragment => parse_icmp_v4(bytes, packet),
        _ => Kind::Unrelated,
    }
}

#[inline(always)]
fn parse_v6<B: Bytes>(bytes: &B, packet: &mut Packet) -> Kind {
    let Some(header) = bytes.words::<10>(0) else {
        return Kind::Unrelated;
    };
    packet.set_v6(&header);
    let second = u32::from_be(header[1]);
    let end = 40 + (second >> 16);
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
            return Kind::ShortFragment;
        }
        let Some(extension) = bytes.words::<2>(offset) else {
            return if first_fragment { Kind::ShortFragment } else { Kind::Unrelated };
        };
        let word = u32::from_be(extension[0]);
        let length = word >> 16 & 0xff;
        packet.may_go_on |= next == ROUTING;
        offset += match next {
            FRAGMENT => {
                if (word & 0xffff) as u16 & FRAGMENT_OFFSET_V6 != 0 {
                    return Kind::Unrelated;
                }
                first_fragment = true;
                8
            }
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        next = (word >> 24) as u8;
    }
    packet.offset = offset;
    match next {
        TCP if first_fragment => parse_fragment(bytes, packet, end),
        TCP => parse_segment(bytes, packet),
        ICMPV6 if !first_fragment => parse_icmp_v6(bytes, packet),
        next if is_extension(next) => Kind::ExtensionHeaders,
        _ => Kind::Unrelated,
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
fn parse_segment<B: Bytes>(bytes: &B, packet: &mut Packet) -> Kind {
    let Some(header) = bytes.words::<{ TCP_UP_TO_FLAGS as usize / 4 }>(packet.offset) else {
        return Kind::Unrelated;
    };
    packet.set_ports(header[0]);
    packet.flags = (u32::from_be(header[3]) >> 16 & 0xff) as u8;
    if packet.flow.is_smtp() { Kind::Segment } else { Kind::Unrelated }
}

/// A first fragment with a TCP header; the packet ends at `end`.
#[inline(always)]
fn parse_fragment<B: Bytes>(bytes: &B, packet: &mut Packet, end: u32) -> Kind {
    if packet.offset + TCP_PORTS > end {
        return Kind::ShortFragment;
    }
    let Some(ports) = bytes.words::<1>(packet.offset) else {
        return Kind::ShortFragment;
    };
    packet.set_ports(ports[0]);
    if packet.flow.to_smtp() { Kind::Fragment } else { Kind::Unrelated }
}

/// An error that concerns a TCP connection: unreachable, with "fragmentation needed" among its codes.
#[inline(always)]
fn parse_icmp_v4<B: Bytes>(bytes: &B, packet: &mut Packet) -> Kind {
    const UNREACHABLE: u32 = 3;
    let quotation = packet.offset + 8;
    let (Some(icmp), Some(quoted)) = (bytes.words::<1>(packet.offset), bytes.words::<5>(quotation)) else {
        return Kind::Unrelated;
    };
    let first = u32::from_be(quoted[0]);
    let header_length = (first >> 24 & 0x0f) * 4;
    if u32::from_be(icmp[0]) >> 24 != UNREACHABLE
        || first >> 28 != 4
        || header_length < 20
        || protocol_v4(quoted[2]) != TCP
    {
        return Kind::Unrelated;
    }
    packet.set_v4(&quoted);
    quoted_flow(bytes, packet, quotation + header_length)
}

/// As for IPv4: destination unreachable, packet too big, time exceeded.
#[inline(always)]
fn parse_icmp_v6<B: Bytes>(bytes: &B, packet: &mut Packet) -> Kind {
    const UNREACHABLE: u32 = 1;
    const TIME_EXCEEDED: u32 = 3;
    let quotation = packet.offset + 8;
    let (Some(icmp), Some(quoted)) = (bytes.words::<1>(packet.offset), bytes.words::<10>(quotation)) else {
        return Kind::Unrelated;
    };
    // Our own packets have no extension headers, so neither has a quotation of one.
    let is_tcp = (u32::from_be(quoted[1]) >> 8 & 0xff) as u8 == TCP;
    if !is_tcp || !(UNREACHABLE..=TIME_EXCEEDED).contains(&(u32::from_be(icmp[0]) >> 24)) {
        return Kind::Unrelated;
    }
    packet.set_v6(&quoted);
    quoted_flow(bytes, packet, quotation + 40)
}

#[inline(always)]
fn quoted_flow<B: Bytes>(bytes: &B, packet: &mut Packet, offset: u32) -> Kind {
    let Some(ports) = bytes.words::<1>(offset) else {
        return Kind::Unrelated;
    };
    packet.set_ports(ports[0]);
    packet.flow = packet.flow.reversed();
    if packet.flow.is_smtp() { Kind::IcmpError } else { Kind::Unrelated }
}

/// The protocol in the third word of an IPv4 header.
#[inline(always)]
const fn protocol_v4(word: u32) -> u8 {
    (u32::from_be(word) >> 16 & 0xff) as u8
}

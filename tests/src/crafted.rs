//! Packets as no mail server sends them, byte by byte, and the cable to send them on.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::lab::Host;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;

pub const TCP: u8 = 6;
pub const IPIP: u8 = 4;
pub const IPV6_IN_IP: u8 = 41;
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const GRE: u8 = 47;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION_OPTIONS: u8 = 60;

/// "More fragments", in the third word of an IPv4 header.
pub const MORE: u16 = 0x2000;

/// An IEEE 802.1Q tag: of a customer, and of a provider (802.1ad).
pub const VLAN: u16 = 0x8100;
pub const PROVIDER_VLAN: u16 = 0x88a8;

const ETHERTYPE_V4: u16 = 0x0800;
const ETHERTYPE_V6: u16 = 0x86dd;

/// A host's end of a cable.
pub struct Cable {
    socket: OwnedFd,
    interface: LinkAddr,
    /// Destination and source.
    addresses: Vec<u8>,
}

impl Cable {
    /// From `eth0` of the host to the other end, whose interface it is told.
    pub fn between(host: &Host, other: &Host, interface: &str) -> Result<Self> {
        let addresses = [mac(other, interface)?, mac(host, "eth0")?].concat();
        host.in_network(|| {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            let is_ours = |name: &str| name == "eth0";
            let interface = getifaddrs()?
                .filter(|each| is_ours(&each.interface_name))
                .find_map(|each| each.address?.as_link_addr().copied());
            Ok(Self { socket, interface: interface.context("eth0 has no address")?, addresses })
        })
    }

    /// Sends an IP packet.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        self.send_tagged(&[], packet)
    }

    /// Sends an IP packet behind tags: each a type, and the VLAN's number.
    pub fn send_tagged(&self, tags: &[(u16, u16)], packet: &[u8]) -> Result<()> {
        let kind = if packet[0] >> 4 == 4 { ETHERTYPE_V4 } else { ETHERTYPE_V6 };
        let mut frame = self.addresses.clone();
        for (tag, vlan) in tags {
            frame.extend([tag.to_be_bytes(), vlan.to_be_bytes()].concat());
        }
        frame.extend(kind.to_be_bytes());
        frame.extend(packet);
        let sent = sendto(self.socket.as_raw_fd(), &frame, &self.interface, MsgFlags::empty())?;
        ensure!(sent == frame.len(), "sent {sent} of {} octets", frame.len());
        Ok(())
    }
}

fn mac(host: &Host, interface: &str) -> Result<Vec<u8>> {
    let shown = host.sh(&format!("ip -o link show dev {interface}"))?;
    let words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
    let address = words.skip(1).find(|word| word.contains(':')).context("no MAC address")?;
    address.split(':').map(|octet| Ok(u8::from_str_radix(octet, 16)?)).collect()
}

/// A TCP segment without options.
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20 + data.len());
    segment.extend([from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
    segment.extend(rand::random::<u32>().to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(data);
    let sum = checksum(&[pseudo_header(from.ip(), to.ip(), segment.len()), segment.clone()].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

fn pseudo_header(from: IpAddr, to: IpAddr, length: usize) -> Vec<u8> {
    let mut header = [octets(from), octets(to)].concat();
    header.extend(u32::try_from(length).unwrap_or_default().to_be_bytes());
    header.extend([0, 0, 0, TCP]);
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// An IP header before a payload.
#[derive(Debug, Clone, Copy)]
pub struct Ip<'a> {
    pub from: IpAddr,
    pub to: IpAddr,
    /// Of the payload; in IPv6 of the first extension header.
    pub protocol: u8,
    pub hops: u8,
    /// IPv4: flags and offset, and the number that fragments of one packet share.
    pub fragment: (u16, u16),
    /// IPv4: a multiple of four octets.
    pub options: &'a [u8],
}

impl Ip<'_> {
    pub fn new(from: IpAddr, to: IpAddr) -> Self {
        Self { from, to, protocol: TCP, hops: 64, fragment: (0, 0), options: &[] }
    }

    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = match self.from {
            IpAddr::V4(_) => self.v4(payload.len()),
            IpAddr::V6(_) => self.v6(payload.len()),
        };
        packet.extend(payload);
        packet
    }

    fn v4(&self, payload: usize) -> Vec<u8> {
        let header = 20 + self.options.len();
        let word = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
        let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap_or_default(), 0];
        bytes.extend(word(header + payload));
        bytes.extend([self.fragment.1.to_be_bytes(), self.fragment.0.to_be_bytes()].concat());
        bytes.extend([self.hops, self.protocol, 0, 0]);
        bytes.extend([octets(self.from), octets(self.to), self.options.to_vec()].concat());
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn v6(&self, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend([self.protocol, self.hops]);
        bytes.extend([octets(self.from), octets(self.to)].concat());
        bytes
    }
}

/// An IPv6 extension header of 8 octets (padding options, where it has options), then what follows it.
pub fn extension(next: u8, rest: &[u8]) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0], rest].concat()
}

/// A routing header with nothing left to visit.
pub fn routing(next: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[next, 0, kind, 0, 0, 0, 0, 0], rest].concat()
}

/// A segment routing header (RFC 8754): the packet is at `first`, and goes on to `last`.
pub fn segment_routing(next: u8, first: IpAddr, last: IpAddr, rest: &[u8]) -> Vec<u8> {
    [&[next, 4, 4, 1, 1, 0, 0, 0], octets(last).as_slice(), &octets(first), rest].concat()
}

/// An IPv4 option of 8 octets, with an end: the packet goes on to `last` from where it is (RFC 791).
pub fn source_route(last: IpAddr) -> Vec<u8> {
    [&[131, 7, 4], octets(last).as_slice(), &[0]].concat()
}

/// A fragment header; the offset in octets.
pub fn fragment(next: u8, offset: u16, more: bool, number: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes.extend(rest);
    bytes
}

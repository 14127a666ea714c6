//! Nanoseconds of a packet: made by the customer, received by the gateway before the call is over, so that the time of the call
//! is the time of both.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use weir_tests::lab::Lab;

const CUSTOMER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// To which the gateway has no way: there the packet ends.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
/// The first of 32,768 customers that nobody is.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 1, 128, 0);
/// Of a listener of the gateway's own, for comparison.
const OWN_PORT: u16 = 2600;

/// Whoever sends brings the IPv4 header along.
const IPPROTO_RAW: i32 = 255;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    OtherPort,
    Established,
    Syn,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::OtherPort, Self::Established, Self::Syn];

    pub fn name(self) -> &'static str {
        match self {
            Self::OtherPort => "not port 25, forwarded to nowhere",
            Self::Established => "of a connection that the gateway has",
            Self::Syn => "SYN, to a listener whose queue is full",
        }
    }
}

/// What customers send there is dropped, without weir.
pub const DROPPED_PORT: u16 = 4444;

pub fn prepare(lab: &Lab) -> Result<()> {
    lab.gateway.sh(&format!(
        "nft 'add table inet measure; add chain inet measure early {{ type filter hook prerouting priority 0; }}; \
         add rule inet measure early tcp dport {DROPPED_PORT} drop'"
    ))?;
    lab.gateway
        .sh(&format!("ip route add blackhole {NOWHERE}/32; ip route add {NOBODY}/17 via {CUSTOMER}"))?;
    // Answers to customers that nobody is end there.
    lab.customer.sh("sysctl -qw net.ipv4.ip_forward=0").map(drop)
}

/// Nanoseconds of a packet of each kind. What goes to port 25 when it is steered goes to a port of the gateway's own when
/// it is not: both are delivered there.
pub fn measure(lab: &Lab, steered: bool, count: u32) -> Result<[f64; Kind::ALL.len()]> {
    let target =
        if steered { SocketAddrV4::new(DESTINATION, 25) } else { SocketAddrV4::new(GATEWAY, OWN_PORT) };
    let _listener = lab.gateway.in_network(|| Ok(TcpListener::bind((GATEWAY, OWN_PORT))?))?;
    lab.customer.in_network(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
        let connection = TcpStream::connect(target)?;
        let SocketAddr::V4(own) = connection.local_addr()? else { unreachable!("an IPv4 connection") };
        let other = SocketAddrV4::new(NOWHERE, 443);
        let mut found = [0.0; Kind::ALL.len()];
        for (kind, found) in Kind::ALL.into_iter().zip(&mut found) {
            let packets: Vec<_> = match kind {
                Kind::OtherPort => vec![(segment(own, other, ACK), NOWHERE)],
                Kind::Established => vec![(segment(own, target, ACK), *target.ip())],
                Kind::Syn => (0..32_768)
                    .map(|number| {
                        let from = SocketAddrV4::new(Ipv4Addr::from(u32::from(NOBODY) + number), 40_000);
                        (segment(from, target, SYN), *target.ip())
                    })
                    .collect(),
            };
            *found = time(&raw, &packets, count)?;
        }
        Ok(found)
    })
}

/// Nanoseconds of one of them.
fn time(raw: &Socket, packets: &[(Vec<u8>, Ipv4Addr)], count: u32) -> Result<f64> {
    let begin = Instant::now();
    for ((packet, to), _) in packets.iter().cycle().zip(0..count) {
        let sent = raw.send_to(packet, &SocketAddrV4::new(*to, 0).into())?;
        ensure!(sent == packet.len(), "{sent} octets sent");
    }
    Ok(begin.elapsed().as_secs_f64() * 1e9 / f64::from(count))
}

/// A packet with an IPv4 and a TCP header and nothing in it. The kernel fills in the IPv4 checksum.
fn segment(from: SocketAddrV4, to: SocketAddrV4, flags: u8) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend([0x11; 8]);
    tcp.extend([0x50, flags, 0x40, 0, 0, 0, 0, 0]);
    let sum = checksum(from.ip(), to.ip(), &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(tcp);
    packet
}

/// RFC 9293, 3.1: over the addresses, the protocol, the length and the segment.
fn checksum(from: &Ipv4Addr, to: &Ipv4Addr, tcp: &[u8]) -> u16 {
    let [length_high, length_low] = u16::try_from(tcp.len()).unwrap_or_default().to_be_bytes();
    let header = [&from.octets()[..], &to.octets(), &[0, 6, length_high, length_low], tcp].concat();
    let sum: u32 =
        header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or_default()
}

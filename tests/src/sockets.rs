//! What the kernel still holds of a connection: whether its other end has read all that was sent.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Host;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IPPROTO_TCP: u8 = 6;
const NOT_FOUND: i32 = -2;

/// Of a netlink message, and of `struct inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
/// Asks for `struct tcp_info` (`INET_DIAG_INFO`) as well.
const WITH_INFO: u8 = 1 << 1;
/// Where the queue stands in `struct inet_diag_msg`, and what has come since the start in the `struct tcp_info` after it.
const QUEUE: usize = HEADER + 56;
const ATTRIBUTES: usize = HEADER + 72;
const INET_DIAG_INFO: u16 = 2;
const BYTES_RECEIVED: usize = 128;

/// Asks the kernel for single sockets of a host; its list of all is long, since all hosts share one.
pub struct Sockets(Socket);

impl Sockets {
    pub fn of(host: &Host) -> Result<Self> {
        let protocol = Some(Protocol::from(NETLINK_SOCK_DIAG));
        host.in_network(|| Ok(Self(Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, protocol)?)))
    }

    /// Octets that a program has read from a socket. `None`: it has closed it.
    pub fn read_from(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<u64>> {
        self.0.send(&request(local, remote)).context("ask for a socket")?;
        let mut answer = [0; 4096];
        let length = (&self.0).read(&mut answer)?;
        let answer = &answer[..length];
        let kind = u16::from_ne_bytes(field(answer, 4)?);
        if kind == NLMSG_ERROR {
            let error = i32::from_ne_bytes(field(answer, HEADER)?);
            ensure!(error == NOT_FOUND, "the kernel answers {error} to the question for a socket");
            return Ok(None);
        }
        ensure!(kind == SOCK_DIAG_BY_FAMILY, "an answer of kind {kind} to the question for a socket");
        let queue = u32::from_ne_bytes(field(answer, QUEUE)?);
        let received = u64::from_ne_bytes(field(info(answer)?, BYTES_RECEIVED)?);
        Ok(Some(received.saturating_sub(queue.into())))
    }
}

/// The attribute with `struct tcp_info`.
fn info(answer: &[u8]) -> Result<&[u8]> {
    let mut rest = answer.get(ATTRIBUTES..).unwrap_or_default();
    while !rest.is_empty() {
        let length = usize::from(u16::from_ne_bytes(field(rest, 0)?));
        let content = rest.get(4..length).context("a short attribute of a socket")?;
        if u16::from_ne_bytes(field(rest, 2)?) == INET_DIAG_INFO {
            return Ok(content);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    bail!("no tcp_info in the answer about a socket")
}

fn field<const LENGTH: usize>(message: &[u8], place: usize) -> Result<[u8; LENGTH]> {
    let octets = message.get(place..place + LENGTH).context("a short answer about a socket")?;
    Ok(octets.try_into()?)
}

fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    let length = u32::try_from(HEADER + REQUEST).unwrap_or_default();
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request.resize(HEADER, 0); // sequence number and sender
    request.extend_from_slice(&[if local.is_ipv4() { AF_INET } else { AF_INET6 }, IPPROTO_TCP, WITH_INFO, 0]);
    request.extend_from_slice(&u32::MAX.to_ne_bytes()); // any state
    request.extend_from_slice(&local.port().to_be_bytes());
    request.extend_from_slice(&remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        let mut octets = [0; 16];
        match address {
            IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => octets = address.octets(),
        }
        request.extend_from_slice(&octets);
    }
    request.extend_from_slice(&0_u32.to_ne_bytes()); // any interface
    request.extend_from_slice(&u64::MAX.to_ne_bytes()); // no cookie
    request
}

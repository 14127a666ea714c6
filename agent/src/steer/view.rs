//! What the kernel says of interfaces and routes; changes nothing.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;

pub(crate) use super::links::{Link, links};
pub(crate) use super::routing::Inspection;
use super::{Plan, SteerError};

const TCP: u8 = 6;
const SMTP: u16 = 25;

/// What the kernel would do with a packet to port 25.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Sends it out of the interface with this index.
    Out(u32),
    /// Takes it for its own.
    Local,
    /// Drops it: a blackhole route, or the like.
    Refused,
}

/// The way of a packet to port 25 of an address: of this host's own or, with a sender and the index of an interface,
/// of one that comes in there and is to be forwarded. As `ip route get`.
pub(crate) fn route(to: IpAddr, from: Option<(IpAddr, u32)>) -> io::Result<Route> {
    let mut message = RouteMessage::default();
    let length = if to.is_ipv4() { 32 } else { 128 };
    message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = length;
    message.attributes = vec![
        RouteAttribute::Destination(address(to)),
        RouteAttribute::IpProto(TCP),
        RouteAttribute::Dport(SMTP),
    ];
    if let Some((sender, interface)) = from {
        message.header.source_prefix_length = length;
        message.attributes.extend([RouteAttribute::Source(address(sender)), RouteAttribute::Iif(interface)]);
    }
    let answer = Netlink::open()?.ask(RouteNetlinkMessage::GetRoute(message))?;
    let RouteNetlinkMessage::NewRoute(route) = answer else {
        return Err(io::Error::other("the kernel answered what is no route"));
    };
    let out = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    Ok(match (route.header.kind, out) {
        (RouteType::Local, _) => Route::Local,
        (RouteType::Unicast, Some(index)) => Route::Out(index),
        _ => Route::Refused,
    })
}

/// Rules and routes that steering makes, and those of others beside them.
pub(crate) fn routing(plan: &Plan) -> Result<Inspection, SteerError> {
    plan.routing().inspect()
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

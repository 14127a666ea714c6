//! The interfaces that there are. A gateway may have thousands, and they are looked at every second: of the kernel's
//! long messages no more is read than is needed.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};

use super::attributes::{attributes, number_u32, text};
use super::netlink::Netlink;
use super::routing::Family;

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) is_up: bool,
    /// It has a carrier.
    pub(crate) is_running: bool,
    /// The bridge, bond or VRF that it belongs to.
    pub(crate) master: Option<u32>,
    /// For routing, its packets come in on `master`. (Not so in a VRF.)
    pub(crate) is_port: bool,
    /// Whether packets that come in are forwarded, if the kernel says so.
    pub(crate) forwards_v4: Option<bool>,
    pub(crate) forwards_v6: Option<bool>,
}

impl Link {
    /// It does not forward this family's packets.
    pub(super) fn refuses(&self, family: Family) -> bool {
        let forwards = match family {
            Family::V4 => self.forwards_v4,
            Family::V6 => self.forwards_v6,
        };
        forwards == Some(false)
    }
}

/// All of them.
pub(crate) fn links() -> io::Result<Vec<Link>> {
    let mut query = LinkMessage::default();
    query.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let mut links = Vec::new();
    Netlink::open()?.visit(&RouteNetlinkMessage::GetLink(query), |message| {
        // What was seen is not all there is: once more.
        match message {
            Some(message) => links.extend(link(message)),
            None => links.clear(),
        }
    })?;
    Ok(links)
}

// `struct ifinfomsg`, and the attributes that are read.
const INDEX: usize = 4;
const FLAGS: usize = 8;
const HEADER: usize = 16;
const NAME: u16 = 3;
const MASTER: u16 = 10;
const LINKINFO: u16 = 18;
const PORT_KIND: u16 = 4;
const AF_SPEC: u16 = 26;
const INET: u16 = 2;
const INET6: u16 = 10;
const INET_CONF: u16 = 1;
const INET6_CONF: u16 = 2;

fn link(message: &[u8]) -> Option<Link> {
    let flags = LinkFlags::from_bits_retain(number_u32(message, FLAGS)?);
    let mut link = Link {
        index: number_u32(message, INDEX)?,
        is_up: flags.contains(LinkFlags::Up),
        is_running: flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    for (kind, value) in attributes(message.get(HEADER..)?) {
        match kind {
            NAME => link.name = text(value),
            MASTER => link.master = number_u32(value, 0),
            LINKINFO => link.is_port = inner(value, PORT_KIND).is_some_and(|kind| text(kind) != "vrf"),
            AF_SPEC => {
                // The first of the settings, in both families.
                let forwards =
                    |family, settings| Some(number_u32(inner(inner(value, family)?, settings)?, 0)? != 0);
                link.forwards_v4 = forwards(INET, INET_CONF);
                link.forwards_v6 = forwards(INET6, INET6_CONF);
            }
            _ => {}
        }
    }
    Some(link)
}

fn inner(value: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(value).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::super::test_host::{ip, on_a_host};
    use super::*;

    #[test]
    fn what_there_is() {
        on_a_host(|| {
            ip("link add br0 type bridge");
            ip("link add port0 type veth peer name port1");
            ip("link set port0 master br0");
            std::fs::write("/proc/sys/net/ipv6/conf/inet0/forwarding", "0").unwrap();
            let links = links().unwrap();
            let of = |name: &str| links.iter().find(|link| link.name == name).unwrap();
            assert_eq!(of("lo").index, 1);
            assert!(of("cust0").is_up && !of("port0").is_up && !of("cust0").is_port);
            assert!(of("port0").is_port && of("port0").master == Some(of("br0").index));
            assert!(of("inet0").refuses(Family::V6) && !of("inet0").refuses(Family::V4));
            assert!(!of("cust0").refuses(Family::V6));
        });
    }
}

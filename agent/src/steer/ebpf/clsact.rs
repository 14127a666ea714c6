//! The clsact qdisc of an interface, which filters need on kernels without TCX.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};

use crate::steer::netlink::Netlink;

const KIND: &str = "clsact";

/// Whether the filter with this priority and handle is on the interface.
pub(super) fn has_filter(index: u32, priority: u16, handle: u32) -> io::Result<bool> {
    let is_it = |header: &TcHeader| {
        // The kernel keeps the protocol in the lower half.
        header.info >> 16 == u32::from(priority) && u32::from(header.handle) == handle
    };
    Ok(filters(&mut Netlink::open()?, index, TcHandle::MIN_INGRESS)?.iter().any(is_it))
}

/// How many filters run before those with this priority.
pub(super) fn filters_before(index: u32, priority: u16) -> io::Result<usize> {
    let is_before = |header: &&TcHeader| {
        // The kernel tells of a priority and of each filter in it.
        u32::from(header.handle) != 0 && header.info >> 16 < u32::from(priority)
    };
    Ok(filters(&mut Netlink::open()?, index, TcHandle::MIN_INGRESS)?.iter().filter(is_before).count())
}

/// Removes it, when no filter of anybody is in it: it was made for ours.
pub(super) fn remove_if_empty(index: u32) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    if !is_clsact(&mut netlink, index)? {
        return Ok(());
    }
    for direction in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        if !filters(&mut netlink, index, direction)?.is_empty() {
            return Ok(());
        }
    }
    let qdisc = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    let message = about(index, TcHandle::CLSACT, qdisc)?;
    netlink.request(RouteNetlinkMessage::DelQueueDiscipline(message), 0)
}

/// An `ingress` qdisc lies in the same place, and is somebody else's.
fn is_clsact(netlink: &mut Netlink, index: u32) -> io::Result<bool> {
    let query = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let found = netlink.dump(query)?.into_iter().any(|message| match message {
        RouteNetlinkMessage::NewQueueDiscipline(qdisc) => {
            u32::try_from(qdisc.header.index) == Ok(index)
                && qdisc.header.parent == TcHandle::CLSACT
                && qdisc.attributes.contains(&TcAttribute::Kind(KIND.into()))
        }
        _ => false,
    });
    Ok(found)
}

fn filters(netlink: &mut Netlink, index: u32, direction: u16) -> io::Result<Vec<TcHeader>> {
    let parent = TcHandle { major: TcHandle::CLSACT.major, minor: direction };
    let query = about(index, parent, TcHandle::UNSPEC)?;
    let found = netlink.dump(RouteNetlinkMessage::GetTrafficFilter(query))?;
    let headers = found.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewTrafficFilter(filter) => Some(filter.header),
        _ => None,
    });
    Ok(headers.collect())
}

fn about(index: u32, parent: TcHandle, handle: TcHandle) -> io::Result<TcMessage> {
    let index = i32::try_from(index).map_err(io::Error::other)?;
    let mut message = TcMessage::with_index(index);
    message.header.parent = parent;
    message.header.handle = handle;
    Ok(message)
}

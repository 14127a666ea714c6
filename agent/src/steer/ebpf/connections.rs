//! How many connections each source has, as the agent counts them and the program reads them.

use std::net::IpAddr;
use std::os::fd::AsFd;

use aya::maps::{HashMap, Map, MapData};
use weir_ebpf_common::names;

use super::program::{Program, refused};
use super::tables::unless_absent;
use crate::source::Source;
use crate::steer::{Connections, SteerError};

/// An IPv6 /64 with zeros behind it, or an IPv4 address in IPv6 clothes: what `source_key` makes of a packet.
type SourceKey = [u8; 16];

#[derive(Debug)]
struct Counts {
    map: HashMap<MapData, SourceKey, u32>,
    /// It did not take a count, and that was said.
    failed: bool,
}

impl Program {
    /// A way to the counts that needs nothing else of the program.
    pub(super) fn connections(&mut self) -> Result<Box<dyn Connections>, SteerError> {
        let copy = self.data(names::CONNECTIONS)?.fd().as_fd().try_clone_to_owned();
        let copy = copy.map_err(refused).and_then(|fd| MapData::from_fd(fd).map_err(refused))?;
        let map = HashMap::try_from(Map::HashMap(copy)).map_err(refused)?;
        Ok(Box::new(Counts { map, failed: false }))
    }
}

impl Connections for Counts {
    fn set(&mut self, source: Source, connections: usize) {
        let key = key(source);
        let count = u32::try_from(connections).unwrap_or(u32::MAX);
        let outcome = match count {
            0 => unless_absent(self.map.remove(&key)),
            _ => self.map.insert(key, count, 0).map_err(refused),
        };
        if let Err(error) = &outcome
            && !self.failed
        {
            tracing::warn!(%error, "limits.connections does not hold in the kernel, but the agent's own limits do");
        }
        self.failed = outcome.is_err();
    }
}

fn key(source: Source) -> SourceKey {
    match source.address() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(network) => network.octets(),
    }
}

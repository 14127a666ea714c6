//! What only the kernel knows, from another program's maps: buckets of tokens, how many connections exempt pairs made,
//! and how often rules were applied. All else in the maps the agent has filled itself.

use std::os::fd::{BorrowedFd, OwnedFd};

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, Map, MapData, MapError};
use weir_ebpf_common::{Exemption, Rule, names};

use super::program::{Program, absent};
use super::succession::Maps;
use crate::steer::SteerError;
use std::os::fd::AsFd;

/// By name.
pub(super) const INHERITED: [&str; 5] =
    [names::BUCKETS, names::EXEMPT_V4, names::EXEMPT_V6, names::RULES_V4, names::RULES_V6];

/// `BPF_EXIST`: the value of a key that is there.
const EXISTING: u64 = 2;

type Pairs<const OCTETS: usize> = HashMap<MapData, [[u8; OCTETS]; 2], [u32; Exemption::WORDS]>;
type Rules<const OCTETS: usize> = LpmTrie<MapData, [u8; OCTETS], [u32; Rule::WORDS]>;
type Buckets = HashMap<MapData, [u8; 16], u64>;

/// Maps of another program, where they are like ours.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    buckets: Option<Buckets>,
    pairs_v4: Option<Pairs<4>>,
    pairs_v6: Option<Pairs<16>>,
    rules_v4: Option<Rules<8>>,
    rules_v6: Option<Rules<20>>,
}

impl Inherited {
    pub(super) fn open(maps: Maps) -> Self {
        let mut all = Self::default();
        for (name, descriptor) in maps {
            match name.as_str() {
                names::BUCKETS => all.buckets = opened(descriptor),
                names::EXEMPT_V4 => all.pairs_v4 = opened(descriptor),
                names::EXEMPT_V6 => all.pairs_v6 = opened(descriptor),
                names::RULES_V4 => all.rules_v4 = opened(descriptor),
                names::RULES_V6 => all.rules_v6 = opened(descriptor),
                _ => {}
            }
        }
        all
    }
}

/// `None`: keys or values have another size, or it is another kind of map.
fn opened<T: TryFrom<Map, Error = MapError>>(descriptor: OwnedFd) -> Option<T> {
    let map = MapData::from_fd(descriptor).and_then(Map::from_map_data).and_then(T::try_from);
    map.inspect_err(|error| tracing::debug!(%error, "a map of another kind")).ok()
}

impl Program {
    pub(super) fn descriptor(&self, name: &'static str) -> Result<BorrowedFd<'_>, SteerError> {
        match self.map_named(name) {
            Some(Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data)) => Ok(data.fd().as_fd()),
            _ => Err(absent(name)),
        }
    }

    /// The names of those that could not be taken over.
    pub(super) fn fill_from(&mut self, old: &Inherited) -> Vec<&'static str> {
        let taken = [
            self.fill_buckets(old),
            self.fill_pairs(names::EXEMPT_V4, old.pairs_v4.as_ref()),
            self.fill_pairs(names::EXEMPT_V6, old.pairs_v6.as_ref()),
            self.fill_rules(names::RULES_V4, old.rules_v4.as_ref()),
            self.fill_rules(names::RULES_V6, old.rules_v6.as_ref()),
        ];
        INHERITED.into_iter().zip(taken).filter(|(_, taken)| taken.is_none()).map(|(name, _)| name).collect()
    }

    /// The tokens that were taken from the old program's buckets while this one was not yet in its place.
    pub(super) fn catch_up(&mut self, old: &Inherited) {
        let _ = self.fill_buckets(old);
    }

    /// A bucket is known by when it will be full again: the later one is the emptier.
    fn fill_buckets(&mut self, old: &Inherited) -> Option<()> {
        let mut own: HashMap<_, [u8; 16], u64> = self.map(names::BUCKETS).ok()?;
        for (source, full) in old.buckets.as_ref()?.iter().flatten() {
            if own.get(&source, 0).is_ok_and(|known| known >= full) {
                continue;
            }
            // A source that is forgotten has a full bucket: there may be no room for all.
            let _ = own.insert(source, full, 0);
        }
        Some(())
    }

    fn fill_pairs<const OCTETS: usize>(
        &mut self,
        name: &'static str,
        old: Option<&Pairs<OCTETS>>,
    ) -> Option<()>
    where
        [[u8; OCTETS]; 2]: Pod,
    {
        let mut own: HashMap<_, [[u8; OCTETS]; 2], [u32; Exemption::WORDS]> = self.map(name).ok()?;
        for (pair, words) in old?.iter().flatten() {
            // What is over meanwhile is not there.
            let _ = own.insert(pair, words, EXISTING);
        }
        Some(())
    }

    fn fill_rules<const OCTETS: usize>(
        &mut self,
        name: &'static str,
        old: Option<&Rules<OCTETS>>,
    ) -> Option<()>
    where
        [u8; OCTETS]: Pod,
    {
        let mut own: LpmTrie<_, [u8; OCTETS], [u32; Rule::WORDS]> = self.map(name).ok()?;
        for (prefix, words) in old?.iter().flatten() {
            let _ = own.insert(&prefix, words, EXISTING);
        }
        Some(())
    }
}

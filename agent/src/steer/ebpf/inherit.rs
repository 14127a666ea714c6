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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_ebpf_common::Side;

    use super::super::tests::{SYN, in_namespace, load, run, segment_v4};
    use super::*;
    use crate::config::WhenAgentDies;
    use crate::steer::{BootTime, Pair, Refusal, RuleKind, RuleTerms, Terms};

    fn copies(program: &Program, names: [&'static str; 5]) -> Maps {
        let copy = |(named, of): (&str, &'static str)| {
            (named.to_owned(), program.descriptor(of).unwrap().try_clone_to_owned().unwrap())
        };
        INHERITED.into_iter().zip(names).map(copy).collect()
    }

    fn set(program: &mut Program, source: u8, full: u64) {
        let mut buckets: HashMap<_, [u8; 16], u64> = program.map(names::BUCKETS).unwrap();
        buckets.insert([source; 16], full, 0).unwrap();
    }

    fn bucket(program: &mut Program, source: u8) -> Option<u64> {
        let buckets: HashMap<_, [u8; 16], u64> = program.map(names::BUCKETS).unwrap();
        buckets.get(&[source; 16], 0).ok()
    }

    #[test]
    fn what_only_the_kernel_knows_goes_over() {
        in_namespace(|| {
            let (mut old, mut new) = (load(WhenAgentDies::Closed), load(WhenAgentDies::Closed));
            let until = BootTime::now().after(Duration::from_secs(600));
            let rule = [("10.1.7.0/24".parse().unwrap(), RuleTerms { until, refusal: Refusal::Drop })];
            let pair = |last| {
                let (customer, destination) = ([10, 1, 0, last].into(), [192, 0, 2, 2].into());
                (Pair::V4 { customer, destination }, Terms { until, limited: false })
            };
            for program in [&mut old, &mut new] {
                program.set_rules(RuleKind::Blocked, &rule.into()).unwrap();
                program.exempt(&[pair(2)]).unwrap();
            }
            old.exempt(&[pair(3)]).unwrap();
            for customer in [[10, 1, 7, 2], [10, 1, 7, 3], [10, 1, 0, 2], [10, 1, 0, 3]] {
                run(&mut old, Side::Customer, &segment_v4(customer, 40_000, 25, SYN));
            }
            set(&mut old, 1, 500);
            set(&mut old, 2, 500);
            let inherited = Inherited::open(copies(&old, INHERITED));
            assert_eq!(new.fill_from(&inherited), [""; 0]);
            assert_eq!(new.applied(RuleKind::Blocked).unwrap(), [(rule[0].0, 2)].into());
            assert_eq!(new.passed(&[pair(2).0]).unwrap(), [(pair(2).0, 1)].into());
            assert!(new.passed(&[pair(3).0]).is_err(), "what this agent does not know stays away");
            // Taken from the old bucket meanwhile, and from the new.
            set(&mut old, 1, 700);
            set(&mut new, 2, 900);
            new.catch_up(&inherited);
            assert_eq!([1, 2, 3].map(|source| bucket(&mut new, source)), [Some(700), Some(900), None]);
        });
    }

    #[test]
    fn maps_of_another_layout_are_named_and_left() {
        in_namespace(|| {
            let (mut old, mut new) = (load(WhenAgentDies::Closed), load(WhenAgentDies::Closed));
            set(&mut old, 1, 500);
            let [buckets, pairs_v4, pairs_v6, rules_v4, rules_v6] = INHERITED;
            let others = copies(&old, [pairs_v4, buckets, rules_v6, rules_v6, rules_v4]);
            assert_eq!(new.fill_from(&Inherited::open(others)), INHERITED);
            let some = copies(&old, [buckets, pairs_v6, pairs_v6, rules_v4, rules_v4]);
            assert_eq!(new.fill_from(&Inherited::open(some)), [pairs_v4, rules_v6]);
            assert_eq!(bucket(&mut new, 1), Some(500));
            assert_eq!(new.fill_from(&Inherited::open(Vec::new())), INHERITED);
        });
    }
}

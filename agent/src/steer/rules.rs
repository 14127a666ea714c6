//! What the operator said of prefixes, for a while. Rules may lie within each other: the one with the longest prefix
//! says how, and one that lies within another holds as long as that does.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use weir_ebpf_common::{Refusal, RuleKind};

use super::BootTime;
use super::routing::Family;

/// Rules of one kind at a time.
pub const MAX_RULES: usize = weir_ebpf_common::MAX_RULES as usize;

/// Until when a rule holds, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleTerms {
    pub until: BootTime,
    /// Of a blocked customer's connections.
    pub refusal: Refusal,
}

/// The rules of one kind. None has bits behind its length.
pub type Rules = BTreeMap<IpNet, RuleTerms>;

/// The rules as they may stand in a table in which the longest prefix decides: whoever is in two of them must not be
/// in none when the longer one is over.
pub(super) fn effective(rules: &Rules) -> Rules {
    let mut around: Vec<(IpNet, BootTime)> = Vec::new();
    let mut effective = Rules::new();
    // In order of their first addresses, the shorter one first: what is around a rule comes before it.
    for (prefix, terms) in rules {
        while around.pop_if(|(outer, _)| !outer.contains(prefix)).is_some() {}
        let until = around.last().map_or(terms.until, |(_, until)| terms.until.max(*until));
        around.push((*prefix, until));
        effective.insert(*prefix, RuleTerms { until, ..*terms });
    }
    effective
}

/// Addresses from the first to the last for which the same holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
    pub(super) terms: RuleTerms,
}

/// The rules of one family as ranges of which none touches another's addresses.
pub(super) fn flatten(rules: &Rules, family: Family) -> Vec<Range> {
    let effective = effective(rules);
    let mut ranges = Flat { family, ranges: Vec::new(), next: Some(0), open: Vec::new() };
    for (prefix, terms) in effective.iter().filter(|(prefix, _)| family_of(prefix) == family) {
        let (first, last) = bounds(prefix);
        ranges.close_before(first);
        ranges.fill_until(first.checked_sub(1));
        ranges.next = Some(first);
        ranges.open.push((last, *terms));
    }
    ranges.close_all();
    ranges.ranges
}

struct Flat {
    family: Family,
    ranges: Vec<Range>,
    /// The first address that is in no range yet.
    next: Option<u128>,
    /// Rules around it, with their last addresses.
    open: Vec<(u128, RuleTerms)>,
}

impl Flat {
    /// The innermost rule's range goes on until there.
    fn fill_until(&mut self, last: Option<u128>) {
        if let (Some((_, terms)), Some(first), Some(last)) = (self.open.last(), self.next, last)
            && first <= last
        {
            let (first, last) = (self.address(first), self.address(last));
            self.ranges.push(Range { first, last, terms: *terms });
        }
    }

    fn close(&mut self, last: u128) {
        self.fill_until(Some(last));
        self.next = self.next.max(last.checked_add(1));
        self.open.pop();
    }

    fn close_before(&mut self, first: u128) {
        while let Some((last, _)) = self.open.last().copied().filter(|(last, _)| *last < first) {
            self.close(last);
        }
    }

    fn close_all(&mut self) {
        while let Some((last, _)) = self.open.last().copied() {
            self.close(last);
            if last == u128::MAX {
                // There is no address after it: those around end here as well.
                self.open.clear();
            }
        }
    }

    fn address(&self, bits: u128) -> IpAddr {
        match self.family {
            // Bits of an IPv4 prefix: there are no more than 32.
            Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from_bits(bits).into(),
        }
    }
}

fn bounds(prefix: &IpNet) -> (u128, u128) {
    match prefix {
        IpNet::V4(net) => (net.network().to_bits().into(), net.broadcast().to_bits().into()),
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
    }
}

pub(super) fn family_of(prefix: &IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(seconds: u64, refusal: Refusal) -> RuleTerms {
        RuleTerms { until: BootTime::START.after(std::time::Duration::from_secs(seconds)), refusal }
    }

    /// What holds for an address by the words of the rules: as long as any of them, the longest prefix says how.
    fn by_the_words(rules: &Rules, address: IpAddr) -> Option<RuleTerms> {
        let around = || rules.iter().filter(|(prefix, _)| prefix.contains(&address));
        let until = around().map(|(_, terms)| terms.until).max()?;
        let (_, longest) = around().max_by_key(|(prefix, _)| prefix.prefix_len())?;
        Some(RuleTerms { until, refusal: longest.refusal })
    }

    fn rule(family: Family) -> impl Strategy<Value = (IpNet, RuleTerms)> {
        // Near each other, and at both ends of what there is.
        let (bits, max) = match family {
            Family::V4 => (0u128..64, 32),
            Family::V6 => (0u128..64, 128),
        };
        (bits, 0..=7u8, any::<bool>(), 1u64..5, any::<bool>()).prop_map(
            move |(bits, longer, high, until, drops)| {
                let length = if longer == 7 { 0 } else { max - longer };
                let net: IpNet = match family {
                    Family::V4 => {
                        let bits = u32::try_from(bits).unwrap();
                        let address = Ipv4Addr::from_bits(if high { !bits } else { bits });
                        IpNet::new(address.into(), length).unwrap()
                    }
                    Family::V6 => {
                        let address = Ipv6Addr::from_bits(if high { !bits } else { bits });
                        IpNet::new(address.into(), length).unwrap()
                    }
                };
                (net.trunc(), terms(until, if drops { Refusal::Drop } else { Refusal::Reset }))
            },
        )
    }

    proptest! {
        #[test]
        fn ranges_and_longest_prefixes_say_what_the_rules_say(
            rules in prop::collection::vec(rule(Family::V4), 0..12),
            others in prop::collection::vec(rule(Family::V6), 0..12),
        ) {
            let rules: Rules = rules.into_iter().chain(others).collect();
            let longest = effective(&rules);
            for family in Family::ALL {
                let ranges = flatten(&rules, family);
                for pair in ranges.windows(2) {
                    prop_assert!(pair[0].first <= pair[0].last && pair[0].last < pair[1].first, "{ranges:?}");
                }
                for bits in (0u32..130).flat_map(|bits| [bits, !bits]) {
                    let address: IpAddr = match family {
                        Family::V4 => Ipv4Addr::from_bits(bits).into(),
                        Family::V6 if bits < 130 => Ipv6Addr::from_bits(bits.into()).into(),
                        Family::V6 => Ipv6Addr::from_bits(!u128::from(!bits)).into(),
                    };
                    let expected = by_the_words(&rules, address);
                    let range = ranges.iter().find(|range| (range.first..=range.last).contains(&address));
                    prop_assert_eq!(range.map(|range| range.terms), expected);
                    let found = longest.iter().filter(|(prefix, _)| prefix.contains(&address));
                    let found = found.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, terms)| *terms);
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}

//! What the operator said of prefixes, in the kernel: each rule is changed by itself.

use std::collections::BTreeMap;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use ipnet::IpNet;
use weir_ebpf_common::{Rule, RuleKind, names};

use super::program::{Program, refused};
use super::tables::{prefixed, unless_absent};
use crate::steer::rules::effective;
use crate::steer::{Rules, SteerError};

type Words = [u32; Rule::WORDS];

impl Program {
    /// Has these rules of the kind hold and no others. Those that stay as they are keep their counts.
    pub(super) fn set_rules(&mut self, kind: RuleKind, rules: &Rules) -> Result<(), SteerError> {
        let new = effective(rules);
        let old = self.rules.remove(&kind).unwrap_or_default();
        let outcome = self.change_rules(kind, &old, &new);
        // After an error the kernel may have some of both: all of them are looked at the next time.
        let known = if outcome.is_ok() { new } else { old.into_iter().chain(new).collect() };
        self.rules.insert(kind, known);
        outcome
    }

    /// First what is new, then what goes: whoever is in a rule before and after is in one all the time.
    fn change_rules(&mut self, kind: RuleKind, old: &Rules, new: &Rules) -> Result<(), SteerError> {
        for (prefix, terms) in new.iter().filter(|(prefix, terms)| old.get(*prefix) != Some(*terms)) {
            let words = Rule::new(terms.until.seconds(), terms.refusal).words();
            match prefix {
                IpNet::V4(net) => {
                    let key = prefixed(kind.word(), net.network().octets());
                    self.rules_v4()?.insert(&Key::new(32 + u32::from(net.prefix_len()), key), words, 0)
                }
                IpNet::V6(net) => {
                    let key = prefixed(kind.word(), net.network().octets());
                    self.rules_v6()?.insert(&Key::new(32 + u32::from(net.prefix_len()), key), words, 0)
                }
            }
            .map_err(refused)?;
        }
        for prefix in old.keys().filter(|prefix| !new.contains_key(*prefix)) {
            unless_absent(match prefix {
                IpNet::V4(net) => {
                    let key = prefixed(kind.word(), net.network().octets());
                    self.rules_v4()?.remove(&Key::new(32 + u32::from(net.prefix_len()), key))
                }
                IpNet::V6(net) => {
                    let key = prefixed(kind.word(), net.network().octets());
                    self.rules_v6()?.remove(&Key::new(32 + u32::from(net.prefix_len()), key))
                }
            })?;
        }
        Ok(())
    }

    /// How often each rule was applied.
    pub(super) fn applied(&mut self, kind: RuleKind) -> Result<BTreeMap<IpNet, u64>, SteerError> {
        let prefixes: Vec<IpNet> = self.rules.get(&kind).into_iter().flat_map(Rules::keys).copied().collect();
        let mut applied = BTreeMap::new();
        for prefix in prefixes {
            let found: Result<Words, MapError> = match prefix {
                IpNet::V4(net) => {
                    let key = prefixed(kind.word(), net.network().octets());
                    self.rules_v4()?.get(&Key::new(32 + u32::from(net.prefix_len()), key), 0)
                }
                IpNet::V6(net) => {
                    let key = prefixed(kind.word(), net.network().octets());
                    self.rules_v6()?.get(&Key::new(32 + u32::from(net.prefix_len()), key), 0)
                }
            };
            applied.insert(prefix, Rule::applied(found.map_err(refused)?).into());
        }
        Ok(applied)
    }

    fn rules_v4(&mut self) -> Result<LpmTrie<&mut MapData, [u8; 8], Words>, SteerError> {
        self.map(names::RULES_V4)
    }

    fn rules_v6(&mut self) -> Result<LpmTrie<&mut MapData, [u8; 20], Words>, SteerError> {
        self.map(names::RULES_V6)
    }
}

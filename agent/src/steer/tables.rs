//! What is configured for prefixes of customers and destinations. A reload replaces it whole.

use ipnet::IpNet;
use weir_ebpf_common::{Policy, Table};

use crate::config::{Config, Limit, WhenBeyond};
use crate::prefixes::Prefixes;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// Whose connections are intercepted.
    pub prefixes: Prefixes,
    /// Customers whose connections go straight none the less.
    pub exempt: Prefixes,
    /// Destinations to which all connections go straight.
    pub exempt_destinations: Prefixes,
    pub limits: Limits,
}

/// How many connections a source may make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub general: Limit,
    /// Customers with limits of their own.
    pub overrides: Vec<(Vec<IpNet>, Limit)>,
    pub beyond: WhenBeyond,
}

/// A prefix in a table, with the number of its policy.
pub(super) type Entry = (Table, IpNet, u32);

// Numbers of policies; those of the overrides follow.
const GENERAL: u32 = 0;
const EXEMPT: u32 = 1;

impl Tables {
    pub fn new(config: &Config) -> Self {
        let overrides = config.limits.overrides.iter();
        Self {
            prefixes: Prefixes::new(&config.customers.prefixes),
            exempt: Prefixes::new(&config.customers.exempt),
            exempt_destinations: Prefixes::new(&config.customers.exempt_destinations),
            limits: Limits {
                general: config.limits.general(),
                overrides: overrides
                    .map(|entry| (entry.prefixes.clone(), config.limits.overridden(entry)))
                    .collect(),
                beyond: config.limits.beyond,
            },
        }
    }

    /// The policies, each at the index that is its number.
    pub(super) fn policies(&self) -> Vec<Policy> {
        let resets = self.limits.beyond == WhenBeyond::Reset;
        let limited =
            |limit: &Limit| Policy::limited(limit.connections, limit.new_per_second, limit.burst, resets);
        let overrides = self.limits.overrides.iter().map(|(_, limit)| limited(limit));
        [limited(&self.limits.general), Policy::EXEMPT].into_iter().chain(overrides).collect()
    }

    /// All prefixes. Where one is there twice, what comes later holds.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        let all = |prefixes: &[IpNet], table, policy| {
            prefixes.iter().map(move |prefix| (table, *prefix, policy)).collect::<Vec<_>>()
        };
        let overrides = (EXEMPT + 1..).zip(&self.limits.overrides);
        let limited = overrides.flat_map(move |(policy, (prefixes, _))| {
            prefixes.iter().map(move |prefix| (Table::Customers, *prefix, policy))
        });
        all(self.prefixes.all(), Table::Customers, GENERAL)
            .into_iter()
            .chain(limited)
            .chain(all(self.exempt.all(), Table::Customers, EXEMPT))
            .chain(all(self.exempt_destinations.all(), Table::ExemptDestinations, EXEMPT))
    }
}

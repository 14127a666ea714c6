//! Scenarios on the real kernel with real mail servers. Needs root, `make build` and
//! `scripts/install-deps lab`; anything missing is a failure, not a skip.

/// A test for each back end out of functions that take one.
macro_rules! on_both_back_ends {
    ($($scenario:ident),+ $(,)?) => {
        mod ebpf {
            $(#[test]
            fn $scenario() -> anyhow::Result<()> {
                super::$scenario(weir_tests::components::Backend::Ebpf)
            })+
        }
        mod tproxy {
            $(#[test]
            fn $scenario() -> anyhow::Result<()> {
                super::$scenario(weir_tests::components::Backend::Tproxy)
            })+
        }
    };
}

mod around;
mod beside_router;
mod blocked;
mod budgets;
mod channel;
mod coexistence;
mod configuration;
mod corpus;
mod counters;
mod death;
mod delivery;
mod destination_tls;
mod docs;
mod doctor;
mod exempt;
mod faults;
mod filter_node;
mod foreign;
mod host_settings;
mod interfaces;
mod interop;
mod junos;
mod kill_under_load;
mod lab;
mod limits;
mod metrics;
mod mirror;
mod modes;
mod names;
mod narrow_link;
mod nat;
mod next_address;
mod node_tls;
mod nodes;
mod on_the_way;
mod outbreaks;
mod own_rules;
mod packages;
mod prefixes;
mod presets;
mod pressure;
mod privacy;
mod privileges;
mod quarantine;
mod recipients;
mod records;
mod release;
mod reload;
mod remains;
mod return_path;
mod scanners;
mod scope;
mod scripts;
mod session;
mod smuggling;
mod status;
mod take_over;
mod vagrant;
mod verdicts;

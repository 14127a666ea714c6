//! weir-agent: takes customers' connections to TCP port 25, relays them to their destinations from the
//! customers' own addresses, and lets filter nodes judge each message on the way.

mod bare_line_ends;
mod buffers;
mod busiest;
mod channel;
mod charge;
pub mod config;
pub mod control;
mod counters;
mod descriptors;
pub mod doctor;
mod drive;
mod failure;
mod handover;
mod interfaces;
mod metrics;
mod mirrors;
mod modes;
mod nodes;
mod orders;
mod places;
pub mod policy;
pub mod prefixes;
pub mod privacy;
pub mod privileges;
mod pulse;
mod relay;
mod reload;
mod reminder;
mod return_path;
pub mod router_config;
pub mod serve;
mod shared;
mod source;
mod spool;
pub mod steer;
mod stream;
mod suspects;
mod tls;
mod top;
pub mod transparent;
pub mod treatment;
mod wanted_tls;

/// For the fuzzer: plays the session that a tape of choices describes, and says which law it broke.
#[cfg(fuzzing)]
pub use relay::simulation::replay as simulate;

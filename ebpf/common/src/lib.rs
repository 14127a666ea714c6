//! What the kernel program and the agent share: the names of the maps and globals, the parser of
//! packet headers, and the decision what becomes of a packet.
//!
//! Parser and decision know no kernel helper. They see the packet and the host through the traits
//! [`Bytes`] and [`Host`], so the very source that runs in the kernel is unit-tested on the host.
//! All functions are `inline(always)`: the kernel's verifier then sees one flat program.
#![no_std]

#[cfg(test)]
extern crate std;

mod decide;
mod exempt;
mod heart;
mod parse;
mod policy;
mod release;
mod reset;
mod rule;
#[cfg(test)]
mod tests;
mod verdict;

pub use decide::{Handshake, Host, ListenerAssignment, Route, Side, WithoutListener, decide};
pub use exempt::{Exemption, MAX_EXEMPT, pair_v4, pair_v6};
pub use heart::is_alive;
pub use parse::{Bytes, Flow, IpVersion, Kind, MAX_EXTENSION_HEADERS, Packet, SMTP_PORT, parse, parse_tag};
pub use policy::{MAX_POLICIES, MAX_PREFIX_ENTRIES, Policy, Table, source_key};
pub use release::is_released;
pub use reset::{Reset, reset_v4, reset_v6};
pub use rule::{MAX_RULES, Refusal, Rule, RuleKind};
pub use verdict::{Action, Verdict};

/// Raised when a map holds something else than in the last version though keys and values have the same size: an agent
/// takes over what is in the maps of another only if both have the same number here.
pub const LAYOUT: u32 = 1;

/// Names of the maps, globals and programs in the object file.
pub mod names {
    /// LPM trie: what is configured for IPv4 prefixes. Key: the word of [`Table`](crate::Table), 4 bytes of address;
    /// value: the index in [`POLICIES`].
    pub const PREFIXES_V4: &str = "PREFIXES_V4";
    /// The same for IPv6. Key: the word, 16 bytes of address.
    pub const PREFIXES_V6: &str = "PREFIXES_V6";
    /// Array of [`Policy`](crate::Policy).
    pub const POLICIES: &str = "POLICIES";
    /// Array with one `u32`: the generation of the tables that holds.
    pub const GENERATION: &str = "GENERATION";
    /// LPM trie: what the operator said of IPv4 prefixes. Key: the word of [`RuleKind`](crate::RuleKind), 4 bytes of
    /// address; value: [`Rule`](crate::Rule).
    pub const RULES_V4: &str = "RULES_V4";
    /// The same for IPv6. Key: the word, 16 bytes of address.
    pub const RULES_V6: &str = "RULES_V6";
    /// Hash: connections that a source has, as the agent counts them. Key: [`source_key`](crate::source_key); value:
    /// `u32`. The program only reads it.
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// LRU hash: the sources' buckets of tokens for new connections. Key: as above; value: the `u64` of
    /// [`Policy::take_token`](crate::Policy::take_token).
    pub const BUCKETS: &str = "BUCKETS";
    /// Hash: exempt IPv4 pairs. Key: 4 bytes of the customer's address, 4 of the destination's; value:
    /// [`Exemption`](crate::Exemption).
    pub const EXEMPT_V4: &str = "EXEMPT_V4";
    /// Hash: exempt IPv6 pairs. Key: 16 bytes and 16 bytes.
    pub const EXEMPT_V6: &str = "EXEMPT_V6";
    /// Array with one `u32`: the second of CLOCK_BOOTTIME at which the release ends; 0: there is none.
    pub const RELEASED: &str = "RELEASED";
    /// Array with one `u64`: when the agent's heart beat last, in nanoseconds of CLOCK_MONOTONIC.
    pub const HEART: &str = "HEART";
    /// Array with one `u32`: how many new connections are still taken; `u32::MAX`: all.
    pub const ADMITTED: &str = "ADMITTED";
    /// Socket map with one entry, the agent's listener. The kernel empties it when the socket closes.
    pub const LISTENER: &str = "LISTENER";
    /// Per-CPU array of `u64`, indexed by [`Verdict`](crate::Verdict).
    pub const COUNTERS: &str = "COUNTERS";
    /// `u32`: the mark of steered packets.
    pub const MARK: &str = "MARK";
    /// `u32`: the bits of the mark that are ours.
    pub const MARK_MASK: &str = "MARK_MASK";
    /// `u32`: 1 where new connections are dropped while there is no listener.
    pub const CLOSED: &str = "CLOSED";
    /// Program for customers' interfaces.
    pub const CUSTOMER_PROGRAM: &str = "weir_customer";
    /// Program for interfaces towards the internet.
    pub const INTERNET_PROGRAM: &str = "weir_internet";
}

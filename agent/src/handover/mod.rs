//! One agent takes over from another without a gap: listener, links and the state in the kernel's maps go from the old
//! process (the owner) to the new one (the heir), and the old one stays until its last session is over.
//!
//! ```text
//! heir                                      owner
//! hello ──────────────────────────────────> (changes of policy wait from here on, and what is known is on the disk)
//!       <────────────────────────────────── offer, parts (descriptors), complete        or refused
//! (loads its program, fills its maps)
//! ready ──────────────────────────────────> (is not stopped from here on, and takes connections until the heir serves)
//!       <────────────────────────────────── sessions ..., yours (the claim)
//! taken ──────────────────────────────────>
//! (puts its program on the links)
//! serving ────────────────────────────────> (is no longer in charge, and drains)
//!       <────────────────────────────────── sessions, refusals ...: until the last session is over
//! stop  ──────────────────────────────────> (the heir stops, and so does this one)
//! ```
//!
//! Who is in charge: the owner until the heir has `taken`. Whether it has is decided by the kernel: an owner that does
//! not want to wait any longer ends the channel first and then looks whether `taken` came before, and an heir that could
//! not send it is not in charge. From `taken` until `serving` the owner takes back what it gave if the heir dies, and does
//! not end; it takes connections all the time, so that an heir that hangs keeps nobody waiting. An heir whose owner dies takes the claim, which is free then, and goes on; if it is not free the owner lives and has called
//! it off.
//!
//! The heir changes nothing on the host before `taken`, but for rules and routes that were missing.

mod after;
mod channel;
mod give;
mod process;
mod take;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Config, Mode};

#[cfg(test)]
use take::HandoverError;

pub(crate) use after::{Predecessor, Reporter};
pub(crate) use channel::{Channel, Line, bound, open};
pub(crate) use give::{Estate, keep_giving};
pub(crate) use take::{Heritage, Taken, ask, take};

/// Raised when agents of two versions could misunderstand each other.
pub(crate) const PROTOCOL: u32 = 1;

/// What an heir must not have otherwise: rules, marks and the sessions of the old agent depend on it.
const FIXED: [&str; 9] = [
    "steering.backend",
    "steering.customer_interfaces",
    "steering.internet_interfaces",
    "steering.listen_port",
    "steering.when_agent_dies",
    "steering.mark",
    "steering.table",
    "steering.pin_directory",
    "state.directory",
];

/// What the heir says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(crate) enum FromHeir {
    Hello { protocol: u32, version: String },
    Ready {},
    Taken {},
    Serving {},
    Stop {},
}

/// What the owner says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(crate) enum FromOwner {
    Refused {
        reason: String,
    },
    Offer(Offer),
    Parts {
        parts: Vec<Part>,
    },
    Complete {},
    Sessions {
        sources: Vec<Count>,
    },
    Refusals {
        sources: Vec<IpAddr>,
    },
    /// `proven`: as in the offer, which may be a minute old.
    Yours {
        #[serde(default)]
        proven: bool,
    },
}

/// What holds in the moment of the hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Last {
    /// The sessions that the owner still has.
    pub sessions: Vec<Count>,
    /// Answers come back from the internet.
    pub proven: bool,
}

/// How many sessions a source has.
pub(crate) type Count = (IpAddr, usize);

/// What the heir needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub protocol: u32,
    pub version: String,
    pub pid: u32,
    /// The settings of [`FIXED`].
    pub settings: Map<String, Value>,
    /// Address families that customers have had.
    pub families: Vec<u8>,
    /// [`weir_ebpf_common::LAYOUT`] of its maps.
    pub layout: u32,
    /// Answers come back from the internet.
    pub proven: bool,
    /// Agents before it that have sessions still.
    #[serde(default)]
    pub before: Vec<u32>,
    /// What the operator has switched for a while.
    pub modes: Vec<SwitchedMode>,
    /// Nodes that get no messages.
    pub drained: Vec<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwitchedMode {
    pub prefix: Option<IpNet>,
    pub mode: Mode,
    pub seconds_left: u64,
}

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Part {
    Listener {},
    /// The program's place on the interface with this index.
    Link {
        interface: u32,
        customer: bool,
    },
    /// A map with state that is nowhere else.
    Map {
        name: String,
    },
}

/// The settings of [`FIXED`] as they are here.
pub(crate) fn settings(config: &Config) -> Map<String, Value> {
    let all = serde_json::to_value(config).unwrap_or_default();
    let value = |key: &&str| {
        let (section, name) = key.split_once('.')?;
        Some(((*key).to_owned(), all[section][name].clone()))
    };
    FIXED.iter().filter_map(value).collect()
}

/// The settings that differ. What only one of the two knows does not.
fn differences(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    let differs = |(key, value): &(&String, &Value)| old.get(*key).is_some_and(|old| old != *value);
    new.iter().filter(differs).map(|(key, _)| key.clone()).collect()
}

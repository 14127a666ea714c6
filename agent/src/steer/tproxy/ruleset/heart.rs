//! The heartbeat: a set with one element, which the kernel itself drops when the agent is silent for too long.

use std::time::Duration;

use serde_json::{Value, json};

use super::{FAMILY, TABLE, matches};

/// Between two beats.
pub const BEAT: Duration = Duration::from_millis(150);

/// The longest that the agent may be silent.
pub const SILENCE: Duration = Duration::from_millis(500);

/// The same while the kernel takes a large table: it lets no beat through meanwhile. An agent that dies then takes its listener
/// with it: the path opens all the same.
pub const LONG_SILENCE: Duration = Duration::from_secs(60);

/// The same while another agent, which beats by itself then, takes what it is given.
pub const SHORT_SILENCE: Duration = Duration::from_secs(3);

/// The set.
pub const ALIVE: &str = "alive";

pub(super) fn set() -> Value {
    super::set(ALIVE, "inet_proto", &["timeout"])
}

/// Whether the agent lives.
pub(super) fn beats() -> Value {
    matches(&json!({ "meta": { "key": "l4proto" } }), &json!(format!("@{ALIVE}")))
}

/// A command for the first beat, which is there with the table.
pub fn first_beat() -> Value {
    json!({ "add": { "element": {
        "family": FAMILY, "table": TABLE, "name": ALIVE, "elem": [{ "elem": { "val": "tcp", "timeout": 1 } }],
    } } })
}

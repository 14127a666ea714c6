//! The heartbeat: a set with one element, which the kernel itself drops when the agent is silent for too long.

use std::time::Duration;

use serde_json::{Value, json};

use super::{FAMILY, TABLE, matches};

/// Between two beats.
pub const BEAT: Duration = Duration::from_millis(150);

/// The longest that the agent may be silent, in nft's words.
const SILENCE: &str = "500ms";

/// The same while the kernel takes a large table: it lets no beat through meanwhile.
const LONG_SILENCE: &str = "20s";

/// The same while another agent, which beats by itself then, takes what it is given.
const SHORT_SILENCE: &str = "3s";

const NAME: &str = "alive";

pub(super) fn set() -> Value {
    super::set(NAME, "inet_proto", &["timeout"])
}

/// Whether the agent lives.
pub(super) fn beats() -> Value {
    matches(&json!({ "meta": { "key": "l4proto" } }), &json!(format!("@{NAME}")))
}

/// A line of commands that says that it does, in nft's own language: JSON knows no part of a second. An element that is there
/// keeps its old time; what is not there can't be removed, what was just added can.
pub fn beat() -> String {
    beat_for(SILENCE)
}

/// The last one before a large table. An agent that dies meanwhile takes its listener with it: the path opens all the same.
pub fn long_beat() -> String {
    beat_for(LONG_SILENCE)
}

/// The last one of an agent that is about to hand over.
pub fn last_beat() -> String {
    beat_for(SHORT_SILENCE)
}

fn beat_for(silence: &str) -> String {
    let set = format!("element {FAMILY} {TABLE} {NAME}");
    format!("add {set} {{ tcp }}; delete {set} {{ tcp }}; add {set} {{ tcp timeout {silence} }}\n")
}

/// A command for the first beat, which is there with the table.
pub fn first_beat() -> Value {
    json!({ "add": { "element": {
        "family": FAMILY, "table": TABLE, "name": NAME, "elem": [{ "elem": { "val": "tcp", "timeout": 1 } }],
    } } })
}

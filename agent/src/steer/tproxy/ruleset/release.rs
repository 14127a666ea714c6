//! The release: a set with one element, which the kernel itself drops when its time is over.

use serde_json::{Value, json};

use super::{FAMILY, RELEASED, TABLE, accept, count, matches};
use crate::steer::BootTime;

/// The protocols whose new connections are released: there is but TCP.
const NAME: &str = "released_protocols";

pub(super) fn set() -> Value {
    super::set(NAME, "inet_proto", &["timeout"])
}

/// What is done with new connections while there is a release.
pub(super) fn rule() -> [Value; 3] {
    let protocol = json!({ "meta": { "key": "l4proto" } });
    [matches(&protocol, &json!(format!("@{NAME}"))), count(RELEASED), accept()]
}

/// Commands that put this end in place of an earlier one, if there was one.
pub fn release(until: Option<BootTime>, now: BootTime) -> Vec<Value> {
    let change = |command: &str, element: Value| json!({ command: { "element": { "family": FAMILY, "table": TABLE, "name": NAME, "elem": [element] } } });
    // What is not there can't be removed, what was just added can.
    let mut commands = vec![change("add", json!("tcp")), change("delete", json!("tcp"))];
    // A timeout of 0 would be none at all.
    commands.extend(until.map(|until| {
        let timeout = until.seconds_since(now).max(1);
        change("add", json!({ "elem": { "val": "tcp", "timeout": timeout } }))
    }));
    commands
}

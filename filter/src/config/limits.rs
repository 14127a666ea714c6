//! `[limits]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much one source may send: an IPv4 address, or an IPv6 /64, because a customer with one has
/// them all. What is refused does not count, so a customer's retries never lock him out.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Messages a minute from one source; further ones are deferred with 451. 0: no limit.
    pub messages_per_minute: u64,
    /// Messages an hour from one source; further ones are deferred with 451. 0: no limit.
    pub messages_per_hour: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages_per_minute: 100, messages_per_hour: 1000 }
    }
}

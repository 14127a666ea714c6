//! `[limits]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::seconds;

/// How much may be sent, by both presets. A source is an IPv4 address, or an IPv6 /64, because a customer with one has
/// them all. What is refused does not count, so a customer's retries never lock him out. 0: no limit.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Messages a minute from one source; further ones are deferred with 451.
    pub messages_per_minute: u64,
    /// Messages an hour from one source; further ones are deferred with 451.
    pub messages_per_hour: u64,
    /// Messages a minute from all sources of one customer (see `[customers]`); further ones are deferred with 451.
    pub customer_messages_per_minute: u64,
    /// Messages an hour from all sources of one customer; further ones are deferred with 451.
    pub customer_messages_per_hour: u64,
    /// Spam in a day that makes a source suspect. 0: none ever is.
    pub suspect_after: u64,
    /// Messages a minute from a source that is suspect; further ones are deferred with 451.
    pub suspect_messages_per_minute: u64,
    /// Messages an hour from a source that is suspect; further ones are deferred with 451.
    pub suspect_messages_per_hour: u64,
    /// Recipients an hour from one source, each of a message counted; further messages are deferred with 451.
    pub recipients_per_hour: u64,
    /// Messages an hour of one customer with one sender domain; further ones are deferred with 451. The sender is what the
    /// customer says it is: this bounds his own customers, not him.
    pub sender_domain_messages_per_hour: u64,
    /// Seconds in which bulk mail and spam are counted.
    pub class_window: u64,
    /// Bulk mail of one source in `class_window`; further messages that look like it are deferred with 451.
    pub bulk_messages: u64,
    /// Spam of one source in `class_window`; further messages that look like it are deferred with 451. Spam counts as bulk
    /// mail, too.
    pub spam_messages: u64,
    /// Bulk mail of one customer with one sender domain in `class_window`; further ones are deferred with 451.
    pub sender_domain_bulk_messages: u64,
    /// Spam of one customer with one sender domain in `class_window`; further ones are deferred with 451.
    pub sender_domain_spam_messages: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages_per_minute: 100,
            messages_per_hour: 1000,
            customer_messages_per_minute: 500,
            customer_messages_per_hour: 5000,
            suspect_after: 100,
            suspect_messages_per_minute: 10,
            suspect_messages_per_hour: 100,
            recipients_per_hour: 0,
            sender_domain_messages_per_hour: 0,
            class_window: 28_800,
            bulk_messages: 600,
            spam_messages: 200,
            sender_domain_bulk_messages: 0,
            sender_domain_spam_messages: 0,
        }
    }
}

impl Limits {
    pub(super) fn check(&self, problems: &mut Problems) {
        seconds(problems, "limits.class_window", self.class_window);
    }
}

//! The engine's limits, from the configuration.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{BareLf, Config, DestinationTls, EarlyTalkers, LongLines, OnConnectFailure};

/// Longest command line, CRLF counted. RFC 5321 section 4.5.3.1.4 asks for 512 and more with extensions;
/// ORCPT, ENVID and long paths together fit in this.
pub const COMMAND_LINE: usize = 4096;
/// Commands sent to the destination and not answered.
pub const MAX_AWAITED: usize = 128;
/// Octets of the customer's that wait to be read as commands.
pub const INBOX: usize = 64 * 1024;
/// The span over which the minimum data rate is a mean.
pub const RATE_WINDOW: Duration = Duration::from_secs(60);
/// A destination that waits for the verdict hears NOOP after so long a silence, so that it does not give up.
pub const NOOP_AFTER: Duration = Duration::from_secs(120);
/// At most so many in a session.
pub const MAX_NOOPS: u32 = 5;
/// Octets of most messages that people write; so many are one read or two.
const STRAIGHT_AFTER: u64 = 16 * 1024;
/// Octets handed to the spool that it has not taken.
pub const UNSTORED: u64 = 512 * 1024;

#[derive(Debug, Clone)]
pub struct Settings {
    pub hostname: Arc<str>,
    pub ask_recipients: bool,
    pub verdict_budget: Duration,
    pub node_connect_timeout: Duration,
    pub node_reply_timeout: Duration,
    /// In bypass, octets of a message after which it goes straight on. A shorter one is still refused for what it is, and nothing of it
    /// has been sent: the session goes on.
    pub straight_after: u64,
    pub max_message_size: u64,
    pub max_line_length: u64,
    pub bare_lf: BareLf,
    pub long_lines: LongLines,
    pub max_messages: u32,
    pub min_data_rate: u64,
    pub early_talkers: EarlyTalkers,
    pub on_connect_failure: OnConnectFailure,
    pub max_recipients: usize,
    pub max_errors: u32,
    pub destination_tls: DestinationTls,
    pub auth_in_clear: bool,
    pub connect_timeout: Duration,
    pub reply_timeout: Duration,
    pub end_of_data_timeout: Duration,
    pub idle_timeout: Duration,
    pub session_timeout: Duration,
}

impl Settings {
    pub fn new(config: &Config, hostname: Arc<str>) -> Self {
        let (filter, relay) = (&config.filter, &config.relay);
        Self {
            hostname,
            ask_recipients: filter.ask_recipients,
            verdict_budget: Duration::from_secs(filter.verdict_budget),
            node_connect_timeout: Duration::from_secs(filter.connect_timeout),
            node_reply_timeout: Duration::from_secs(filter.reply_timeout),
            straight_after: STRAIGHT_AFTER,
            max_message_size: relay.max_message_size,
            max_line_length: relay.max_line_length,
            bare_lf: relay.bare_lf,
            long_lines: relay.long_lines,
            max_messages: relay.max_messages,
            min_data_rate: relay.min_data_rate,
            early_talkers: relay.early_talkers,
            on_connect_failure: relay.on_connect_failure,
            max_recipients: relay.max_recipients,
            max_errors: relay.max_errors,
            destination_tls: relay.destination_tls,
            auth_in_clear: relay.auth_in_clear,
            connect_timeout: Duration::from_secs(relay.connect_timeout),
            reply_timeout: Duration::from_secs(relay.reply_timeout),
            end_of_data_timeout: Duration::from_secs(relay.end_of_data_timeout),
            idle_timeout: Duration::from_secs(relay.idle_timeout),
            session_timeout: Duration::from_secs(relay.session_timeout),
        }
    }
}

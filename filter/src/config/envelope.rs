use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is checked of HELO and envelope by both presets (docs/dns.md), beside what the destination checks itself. A name server
/// that does not answer never has a message refused. Replies are 550 with the enhanced codes of RFC 3463 and RFC 7505.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Envelope {
    /// The customer's server has said who it is, with EHLO or HELO. What does not fit into XCLIENT (255 octets) counts as not said.
    pub helo_required: Check,
    /// Sender and recipients are written as RFC 5321 section 4.1.2 has it: no source routes, quotes where they are needed, 64 octets
    /// before the @ and 255 behind it.
    pub strict_syntax: Check,
    /// The sender's domain has a dot, or is an address in brackets. Bounces pass.
    pub sender_fqdn: Check,
    /// The sender's domain has an MX or an address, and does not say that it takes no mail. Bounces and addresses in brackets pass;
    /// what has no domain, or none that can exist, does not.
    pub sender_domain_exists: Check,
    /// The same of each recipient's domain; `postmaster` passes.
    pub recipient_fqdn: Check,
    /// The same of the domains of the recipients, of 50 at most; `postmaster` passes.
    pub recipient_domain_exists: Check,
}

impl Envelope {
    /// Whether name servers are asked for domains.
    pub(super) fn asks_for_names(&self) -> bool {
        [self.sender_domain_exists, self.recipient_domain_exists].iter().any(|check| *check != Check::Off)
    }
}

/// What becomes of a message that does not pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Nobody looks.
    #[default]
    Off,
    /// Nothing but a line in the log, and a count in `status`.
    Log,
    /// 550
    Reject,
}

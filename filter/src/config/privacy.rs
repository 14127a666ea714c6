//! `[privacy]`.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

/// Whose content is not looked at, and where it is written down what operators do. docs/privacy.md says what is stored.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// Prefixes of customers whose messages meet the limits only: their content is neither scanned nor stored, and they do
    /// not count as bulk for that.
    #[schemars(with = "Vec<String>", example = ["10.1.7.0/24"])]
    pub no_content: Vec<IpNet>,
    /// The audit log: a line of JSON for each action of an operator (who, when, what), written before it is done. What
    /// cannot be written down is not done. The file only grows; to rotate it, move it away. Empty: none.
    pub audit_log: PathBuf,
}

impl Default for Privacy {
    fn default() -> Self {
        Self { no_content: Vec::new(), audit_log: PathBuf::from("/var/lib/weir-filter/filter-audit.jsonl") }
    }
}

impl Privacy {
    /// Whether nobody is to look at what this customer writes.
    pub fn keeps_content_closed(&self, customer: IpAddr) -> bool {
        let customer = customer.to_canonical();
        self.no_content.iter().any(|prefix| prefix.contains(&customer))
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        if !self.audit_log.as_os_str().is_empty() && !self.audit_log.is_absolute() {
            problems.add("privacy.audit_log", "must be an absolute path, or empty");
        }
    }
}

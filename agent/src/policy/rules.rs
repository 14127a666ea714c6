//! The rules as they are in their file.
//!
//! ```json
//! {
//!   "version": 1,
//!   "rules": [
//!     {"kind": "exempt_pair", "customer": "10.1.0.2", "destination": "192.0.2.25",
//!      "until": 1795305600, "by": "operator", "reason": "insists on TLS"},
//!     {"kind": "blocked", "prefix": "10.1.7.0/24", "refusal": "reset", "until": 1795305600, "reason": "a bot"},
//!     {"kind": "exempt_customer", "prefix": "10.1.8.0/24", "until": 1795305600, "reason": ""},
//!     {"kind": "exempt_destination", "prefix": "192.0.2.0/24", "until": 1795305600, "reason": ""}
//!   ]
//! }
//! ```
//!
//! `until` is in seconds since 1970.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Author, Exemption, MAX_DURATION, Pairs, PrefixRule, PrefixRules, file, time};
use crate::steer::{BootTime, Pair, Refusal, RuleKind};

pub(super) const NAME: &str = "policy.json";

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    rules: Vec<Line>,
}

/// A rule. What is not known here (of a later version, say) makes the whole file unreadable: half a policy is
/// none.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    ExemptPair { customer: IpAddr, destination: IpAddr, until: u64, by: Author, reason: String },
    Blocked { prefix: IpNet, refusal: HowRefused, until: u64, reason: String },
    ExemptCustomer { prefix: IpNet, until: u64, reason: String },
    ExemptDestination { prefix: IpNet, until: u64, reason: String },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HowRefused {
    Drop,
    Reset,
    Tell,
}

impl From<HowRefused> for Refusal {
    fn from(how: HowRefused) -> Self {
        match how {
            HowRefused::Drop => Self::Drop,
            HowRefused::Reset => Self::Reset,
            HowRefused::Tell => Self::Tell,
        }
    }
}

impl From<Refusal> for HowRefused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Drop => Self::Drop,
            Refusal::Reset => Self::Reset,
            Refusal::Tell => Self::Tell,
        }
    }
}

/// What the last run kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) pairs: Pairs,
    pub(super) rules: PrefixRules,
    /// The file, if it could not be read.
    pub(super) lost: Option<PathBuf>,
}

/// The rules that are not over.
pub(super) fn load(path: &Path) -> Kept {
    let there = path.exists();
    let kept = file::load(path, |document| read(document).map(Some));
    kept.unwrap_or_else(|| Kept { lost: there.then(|| path.to_owned()), ..Kept::default() })
}

fn read(document: Document) -> Result<Kept, String> {
    if document.version != VERSION {
        return Err(format!("version {} is not known, only {VERSION} is", document.version));
    }
    let (boot, wall) = (BootTime::now(), time::unix(BootTime::now()));
    // A clock that was wrong when the file was written must not exempt anybody for longer than one may.
    let moment = |until: u64| {
        let left = Duration::from_secs(until.saturating_sub(wall)).min(MAX_DURATION);
        (!left.is_zero()).then(|| boot.after(left))
    };
    let mut kept = Kept::default();
    for line in document.rules {
        let (kind, prefix, refusal, until, reason) = match line {
            Line::ExemptPair { customer, destination, until, by, reason } => {
                let pair = Pair::new(customer, destination)
                    .ok_or_else(|| format!("{customer} and {destination} are of two families"))?;
                if let Some(until) = moment(until) {
                    kept.pairs.insert(pair, Exemption { until, by, reason });
                }
                continue;
            }
            Line::Blocked { prefix, refusal, until, reason } => {
                (RuleKind::Blocked, prefix, refusal.into(), until, reason)
            }
            Line::ExemptCustomer { prefix, until, reason } => {
                (RuleKind::ExemptCustomer, prefix, Refusal::Drop, until, reason)
            }
            Line::ExemptDestination { prefix, until, reason } => {
                (RuleKind::ExemptDestination, prefix, Refusal::Drop, until, reason)
            }
        };
        if let Some(until) = moment(until) {
            let rules = kept.rules.entry(kind).or_default();
            rules.insert(prefix.trunc(), PrefixRule { until, refusal, reason });
        }
    }
    Ok(kept)
}

pub(super) fn save(path: &Path, pairs: &Pairs, rules: &PrefixRules) -> io::Result<()> {
    let pairs = pairs.iter().map(|(pair, exemption)| Line::ExemptPair {
        customer: pair.customer(),
        destination: pair.destination(),
        until: time::unix(exemption.until),
        by: exemption.by,
        reason: exemption.reason.clone(),
    });
    let rules =
        rules.iter().flat_map(|(kind, rules)| rules.iter().map(|(prefix, rule)| line(*kind, *prefix, rule)));
    file::replace(path, &Document { version: VERSION, rules: pairs.chain(rules).collect() })
}

fn line(kind: RuleKind, prefix: IpNet, rule: &PrefixRule) -> Line {
    let (until, reason) = (time::unix(rule.until), rule.reason.clone());
    match kind {
        RuleKind::Blocked => Line::Blocked { prefix, refusal: rule.refusal.into(), until, reason },
        RuleKind::ExemptCustomer => Line::ExemptCustomer { prefix, until, reason },
        RuleKind::ExemptDestination => Line::ExemptDestination { prefix, until, reason },
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_on_privacy_describes_the_file() {
        crate::privacy::tests::describes::<super::Line>(super::NAME);
    }
}

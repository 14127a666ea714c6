//! The rules as they are in their file.
//!
//! ```json
//! {
//!   "version": 1,
//!   "rules": [
//!     {"kind": "exempt_pair", "customer": "10.1.0.2", "destination": "192.0.2.25",
//!      "until": 1795305600, "by": "operator", "reason": "insists on TLS"}
//!   ]
//! }
//! ```
//!
//! `until` is in seconds since 1970.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Author, Exemption, MAX_DURATION, Pairs, file, time};
use crate::steer::{BootTime, Pair};

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
}

/// The rules that are not over.
pub(super) fn load(path: &Path) -> Pairs {
    file::load(path, read)
}

fn read(document: Document) -> Result<Pairs, String> {
    if document.version != VERSION {
        return Err(format!("version {} is not known, only {VERSION} is", document.version));
    }
    let (boot, wall) = (BootTime::now(), time::unix(BootTime::now()));
    let mut pairs = Pairs::new();
    for line in document.rules {
        let Line::ExemptPair { customer, destination, until, by, reason } = line;
        let pair = Pair::new(customer, destination)
            .ok_or_else(|| format!("{customer} and {destination} are of two families"))?;
        // A clock that was wrong when the file was written must not exempt anybody for longer than one may.
        let left = Duration::from_secs(until.saturating_sub(wall)).min(MAX_DURATION);
        if !left.is_zero() {
            pairs.insert(pair, Exemption { until: boot.after(left), by, reason });
        }
    }
    Ok(pairs)
}

pub(super) fn save(path: &Path, pairs: &Pairs) -> io::Result<()> {
    let rules = pairs.iter().map(|(pair, exemption)| Line::ExemptPair {
        customer: pair.customer(),
        destination: pair.destination(),
        until: time::unix(exemption.until),
        by: exemption.by,
        reason: exemption.reason.clone(),
    });
    file::replace(path, &Document { version: VERSION, rules: rules.collect() })
}

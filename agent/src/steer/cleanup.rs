//! Removes whatever an agent of any configuration has left on this host.

use std::fmt;
use std::path::Path;

use super::claim::Claim;
use super::{SteerError, blocking, ebpf, routing, tproxy};
use crate::config::Config;

/// `steering.pin_directory`, where no configuration says otherwise.
const PIN_DIRECTORY: &str = "/sys/fs/bpf/weir";

/// What was removed, in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub removed: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.removed.is_empty() {
            return write!(formatter, "nothing of weir's was on this host");
        }
        write!(formatter, "removed: {}", self.removed.join("\nremoved: "))
    }
}

/// Removes everything of ours: pinned programs, tc filters, nft table, rules and routes, whichever back
/// end made them, also those that drop customers' connections in `closed`. The configuration is needed only for a
/// pin directory of its own. Refused while an agent is steering: it would go on marking packets
/// that nothing delivers, and soon put back what is missing.
pub async fn cleanup(config: Option<&Config>) -> Result<Report, SteerError> {
    let pin_directory =
        config.map_or_else(|| Path::new(PIN_DIRECTORY), |config| &config.steering.pin_directory).to_owned();
    blocking(move || remove_all(&pin_directory)).await
}

pub(super) fn remove_all(pin_directory: &Path) -> Result<Report, SteerError> {
    let _claim = Claim::to_steer()?;
    // First what marks or drops packets, then what delivers marked ones.
    let mut removed = ebpf::remove_pins(pin_directory)?;
    removed.extend(ebpf::remove_filters(&[]));
    removed.extend(ebpf::remove_links(&[]));
    removed.extend(tproxy::remove_table()?);
    removed.extend(routing::remove_all()?);
    Ok(Report { removed })
}

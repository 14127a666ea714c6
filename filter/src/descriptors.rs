//! File descriptors: as many as the system lets a node have, and how many it needs.

use tracing::warn;
use weir_daemon::host::raise_open_files;

use crate::config::Config;

/// Files that are open whatever happens: listeners, the counters' file, the log.
const OWN_FILES: u64 = 64;

/// A connection, and perhaps a file in the spool.
const PER_SESSION: u64 = 2;

/// Raises the soft limit to the hard one.
pub fn raise(config: &Config) {
    let needed = needed(config);
    match raise_open_files() {
        Ok(limit) if limit >= needed => {}
        Ok(limit) => {
            warn!(limit, needed, "smtp.max_sessions is more than the limit of open files allows");
        }
        Err(error) => warn!(%error, "the limit of open files is not known"),
    }
}

/// The limit that is enough for `smtp.max_sessions`.
pub(crate) fn needed(config: &Config) -> u64 {
    let sessions = (config.smtp.max_sessions as u64).saturating_mul(PER_SESSION);
    sessions.saturating_add(scans(config)).saturating_add(OWN_FILES)
}

/// Connections to scanners at a time.
fn scans(config: &Config) -> u64 {
    let spamassassin = config.spamassassin.as_ref().map_or(0, |section| section.concurrency);
    let rspamd = config.rspamd.as_ref().map_or(0, |section| section.concurrency);
    let clamav = config.clamav.as_ref().map_or(0, |section| section.concurrency);
    let icap = config.icap.as_ref().map_or(0, |section| section.concurrency * section.engines.len());
    (spamassassin + rspamd + clamav + icap) as u64
}

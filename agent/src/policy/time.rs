//! Times as people write them.

use std::time::{SystemTime, UNIX_EPOCH};

pub use weir_daemon::time::{duration as parse, left};

use crate::steer::BootTime;

/// Seconds since 1970 of a moment, as the clock on the wall will show it if nobody sets it.
pub fn unix(moment: BootTime) -> u64 {
    let (now, wall) = (BootTime::now(), SystemTime::now());
    let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    (wall + moment.since(now)).saturating_sub(now.since(moment)).as_secs()
}

/// `2026-11-21T06:00:00Z`
pub fn rfc3339(moment: BootTime) -> String {
    weir_daemon::time::rfc3339(unix(moment))
}

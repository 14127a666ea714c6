//! File descriptors: as many as the system lets us have, and no more sessions than they are enough for.
//! Without one left the agent could reach no filter node, and a spammer could bring that about.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use crate::config::{Filter, Relay};

/// Customer, destination, filter node, spool file; and a former filter node that is being closed.
const PER_SESSION: u64 = 5;

/// Mirror node, spool file; and a former mirror node that is being closed.
const PER_MIRROR: u64 = 3;

/// The listener, kernel objects, the control socket, probes, logs.
const RESERVE: u64 = 128;

/// Raises the soft limit to the hard one, and returns how many sessions fit, at most `relay.max_sessions`, beside
/// the messages that may be mirrored at a time.
pub fn sessions(relay: &Relay, filter: &Filter) -> usize {
    let wanted = relay.max_sessions;
    let mirrored = filter.mirror.as_ref().map_or(0, |mirror| mirror.max_in_flight);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(hard)
    });
    match limit {
        Ok(limit) => {
            let fit = fitting(limit, mirrored);
            if fit < wanted {
                warn!(wanted, fit, limit, "relay.max_sessions is more than the limit of open files allows");
            }
            wanted.min(fit)
        }
        Err(error) => {
            warn!(%error, "the limit of open files is not known");
            wanted
        }
    }
}

/// Sessions that fit below a limit of open files.
pub(crate) fn fitting(limit: u64, mirrored: usize) -> usize {
    let reserve = PER_MIRROR.saturating_mul(mirrored as u64).saturating_add(RESERVE);
    usize::try_from((limit.saturating_sub(reserve) / PER_SESSION).max(1)).unwrap_or(usize::MAX)
}

/// The limit of open files below which so many sessions fit.
pub(crate) fn needed(sessions: usize, mirrored: usize) -> u64 {
    let reserve = PER_MIRROR.saturating_mul(mirrored as u64).saturating_add(RESERVE);
    PER_SESSION.saturating_mul(sessions as u64).saturating_add(reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_leave_a_reserve() {
        assert_eq!(fitting(1024, 0), 179);
        assert_eq!(fitting(1024, 50), 149);
        assert_eq!(fitting(needed(10_000, 50), 50), 10_000);
        assert_eq!((fitting(0, 0), fitting(1024, usize::MAX)), (1, 1));
    }
}

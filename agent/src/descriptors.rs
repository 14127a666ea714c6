//! File descriptors: as many as the system lets us have, and no more sessions than they are enough for.
//! Without one left the agent could reach no filter node, and a spammer could bring that about.

use tracing::warn;
use weir_daemon::host::raise_open_files;

use crate::config::{Filter, Node, Place, Relay};

/// Customer, destination, filter node, spool file; and a former filter node that is being closed.
const PER_SESSION: u64 = 5;

/// Mirror node, spool file; and a former mirror node that is being closed.
const PER_MIRROR: u64 = 3;

/// The listener, kernel objects, the control socket, probes, logs.
const RESERVE: u64 = 128;

/// A connection that is kept ready, and one that is being closed.
const PER_WARM: u64 = 2;

/// Addresses that a node's name may have without the reserve being too small.
const PER_NAME: usize = 8;

/// Descriptors that are no session's: those of messages that are mirrored, and of connections that are kept ready.
pub(crate) fn reserve(filter: &Filter) -> u64 {
    let mirrored = filter.mirror.as_ref().map_or(0, |mirror| mirror.max_in_flight);
    let addresses = |node: &Node| if matches!(node.place, Place::Name(_)) { PER_NAME } else { 1 };
    let nodes: usize = filter.nodes.iter().map(addresses).sum();
    let warm = filter.warm_connections.saturating_mul(nodes);
    let mirrors = PER_MIRROR.saturating_mul(mirrored as u64);
    PER_WARM.saturating_mul(warm as u64).saturating_add(mirrors).saturating_add(RESERVE)
}

/// Raises the soft limit to the hard one, and returns how many sessions fit, at most `relay.max_sessions`, beside
/// the reserve.
pub fn sessions(relay: &Relay, filter: &Filter) -> usize {
    let (wanted, reserve) = (relay.max_sessions, reserve(filter));
    match raise_open_files() {
        Ok(limit) => {
            let fit = fitting(limit, reserve);
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
pub(crate) fn fitting(limit: u64, reserve: u64) -> usize {
    usize::try_from((limit.saturating_sub(reserve) / PER_SESSION).max(1)).unwrap_or(usize::MAX)
}

/// The limit of open files below which so many sessions fit.
pub(crate) fn needed(sessions: usize, reserve: u64) -> u64 {
    PER_SESSION.saturating_mul(sessions as u64).saturating_add(reserve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn sessions_leave_a_reserve() {
        assert_eq!((fitting(1024, 128), fitting(1024, 278)), (179, 149));
        assert_eq!(fitting(needed(10_000, 278), 278), 10_000);
        assert_eq!((fitting(0, 0), fitting(1024, u64::MAX)), (1, 1));
    }

    #[test]
    fn the_reserve_is_for_all_that_is_no_session() {
        let text = weir_daemon::reference::example::<Config>();
        let mut filter = weir_daemon::config::parse::<Config>("agent.toml", &text).unwrap().filter;
        (filter.mirror, filter.warm_connections) = (None, 0);
        assert_eq!(reserve(&filter), RESERVE);
        filter.warm_connections = 4;
        filter.nodes = ["10.3.0.11:25", "filter.provider.test:25"].map(|node| node.parse().unwrap()).to_vec();
        assert_eq!(reserve(&filter), RESERVE + 2 * 4 * 9);
        filter.warm_connections = usize::MAX;
        assert_eq!(reserve(&filter), u64::MAX);
    }
}

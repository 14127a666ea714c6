//! Counts in sliding windows: `rate(namespace, key, limit, seconds)`.
//!
//! With a limit: if the sum over the last `seconds` and the new weight together are within it, the
//! weight is counted and the answer is yes; else nothing is counted, so that retries of what was
//! refused never lock anybody out. With limit 0 nothing is counted and the sum is told.

mod file;
mod memory;
mod once;
mod packed;
mod series;
mod shared;
mod shown;
mod store;

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

#[cfg(test)]
pub(crate) use file::TABLES;
pub use file::{File, FileError, SAVE_INTERVAL};
pub use memory::{Memory, Usage};
pub use once::Once;
pub use shared::{Shared, State};
pub use shown::Shown;
pub use store::Store;

/// A window is kept in this many buckets: a refusal lasts at most `seconds / BUCKETS` too long.
pub const BUCKETS: u64 = 60;

/// Milliseconds since 1970 on a clock that never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub namespace: &'a str,
    pub key: &'a str,
    /// 0 asks for the sum and counts nothing.
    pub limit: u64,
    pub seconds: u64,
    pub weight: u64,
    /// The message that is counted, where it may be told a second time: to another node after this one has died.
    pub message: Option<&'a str>,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Within the limit, and counted.
    pub within: bool,
    /// Sum over the window after this call.
    pub sum: u64,
}

/// The store of counts cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the counters cannot be reached")]
pub struct Away;

/// A store of counts. Asynchronous, since a store that several nodes share is across the network.
pub trait Counters: Send + Sync {
    fn rate(&self, ask: Ask<'_>, now: Moment) -> impl Future<Output = Result<Answer, Away>> + Send;
}

/// Whose messages are counted together: an IPv4 address, or an IPv6 /64, because a customer with one
/// address of it has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        }
    }
}

impl Source {
    /// All addresses of it.
    pub fn prefix(self) -> IpNet {
        let length = if self.0.is_ipv4() { 32 } else { 64 };
        IpNet::new_assert(self.0, length)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

/// The time for counters: starts at the system's time, then runs by the monotonic clock, so that a
/// corrected system clock neither empties nor freezes a window.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started_at: u64,
    started: Instant,
}

impl Clock {
    pub fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started_at: milliseconds(since_1970.as_millis()), started: Instant::now() }
    }

    pub fn now(&self) -> Moment {
        Moment(self.started_at.saturating_add(milliseconds(self.started.elapsed().as_millis())))
    }
}

fn milliseconds(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;

//! Pairs of a customer and a destination whose new connections are not steered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Pairs at a time, of both families together.
pub const MAX_EXEMPT: usize = weir_ebpf_common::MAX_EXEMPT as usize;

/// New connections that a pair with a limit may make in an hour.
pub const PER_HOUR: u32 = 60;

/// A customer and a destination, of the same family: no packet has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pair {
    V4 { customer: Ipv4Addr, destination: Ipv4Addr },
    V6 { customer: Ipv6Addr, destination: Ipv6Addr },
}

impl Pair {
    /// `None` for addresses of two families. IPv4 addresses in IPv6 clothes are made IPv4 addresses.
    pub fn new(customer: IpAddr, destination: IpAddr) -> Option<Self> {
        match (customer.to_canonical(), destination.to_canonical()) {
            (IpAddr::V4(customer), IpAddr::V4(destination)) => Some(Self::V4 { customer, destination }),
            (IpAddr::V6(customer), IpAddr::V6(destination)) => Some(Self::V6 { customer, destination }),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    pub fn customer(&self) -> IpAddr {
        match *self {
            Self::V4 { customer, .. } => customer.into(),
            Self::V6 { customer, .. } => customer.into(),
        }
    }

    pub fn destination(&self) -> IpAddr {
        match *self {
            Self::V4 { destination, .. } => destination.into(),
            Self::V6 { destination, .. } => destination.into(),
        }
    }
}

/// How long a pair is exempt, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub until: BootTime,
    /// Whether new connections are steered when there were [`PER_HOUR`] in the last hour.
    pub limited: bool,
}

/// A moment of CLOCK_BOOTTIME, by which the kernel program tells the time: nobody sets it, and it goes on while the
/// machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Comes before all others.
    #[cfg(test)]
    pub(super) const START: Self = Self(Duration::ZERO);

    /// Does not come.
    pub(super) const NEVER: Self = Self(Duration::MAX);

    pub fn now() -> Self {
        // The clock is there since Linux 2.6.39.
        Self(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
    }

    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// Time from `earlier` to this moment; zero if it comes first.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// In seconds, rounded up.
    pub(super) fn seconds(self) -> u32 {
        u32::try_from(rounded_up(self.0)).unwrap_or(u32::MAX)
    }

    /// As `since`, in seconds, rounded up.
    pub(super) fn seconds_since(self, earlier: Self) -> u64 {
        rounded_up(self.since(earlier))
    }
}

fn rounded_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

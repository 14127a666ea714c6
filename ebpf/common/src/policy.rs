//! What is configured for prefixes: two generations of it, of which one holds.
//!
//! The agent fills the generation that does not hold, and then has it hold with one store: a packet, which asks
//! once which one holds, sees one of them whole.

use crate::{Flow, IpVersion};

/// Policies in the array, half of them for each generation.
pub const MAX_POLICIES: u32 = 2048;

/// Entries of each table of prefixes, both generations together. The kernel takes memory for those that there are.
pub const MAX_PREFIX_ENTRIES: u32 = 1 << 22;

/// The tables that are one trie in the kernel: the first word of its keys, network byte order, says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Customers' prefixes, each with the number of its policy.
    Customers,
    /// Destinations to which all connections go straight.
    ExemptDestinations,
}

impl Table {
    #[inline(always)]
    pub const fn word(self, generation: u32) -> u32 {
        let table = match self {
            Self::Customers => 0,
            Self::ExemptDestinations => 1,
        };
        (generation << 8 | table).to_be()
    }
}

/// What becomes of the new connections of a prefix. Words only, so that agent and program agree on its bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// 1 where they go straight.
    exempt: u32,
    /// Connections that one source may have at a time; 0: as many as he likes.
    connections: u32,
    /// Nanoseconds from one new connection of a source to the next, in the long run; 0: no limit.
    interval: u32,
    /// New connections of a source that may come at once.
    burst: u32,
    /// 1 where what is beyond the limits is reset, not dropped.
    resets: u32,
}

impl Policy {
    /// Its size, in words.
    pub const WORDS: usize = 5;

    pub const EXEMPT: Self = Self { exempt: 1, ..Self::STEERED };

    /// How often a blocked customer is told why.
    pub const TOLD: Self = Self::limited(0, 1, 1, false);

    /// Without limits.
    pub const STEERED: Self = Self { exempt: 0, connections: 0, interval: 0, burst: 0, resets: 0 };

    /// Connections at a time (0: no limit), new connections a second (0: no limit), and how many may come at once.
    pub const fn limited(connections: u32, per_second: u32, burst: u32, resets: bool) -> Self {
        let interval = match 1_000_000_000u32.checked_div(per_second) {
            Some(interval) => interval,
            None => 0,
        };
        Self { exempt: 0, connections, interval, burst, resets: resets as u32 }
    }

    /// As it is in the map.
    pub const fn words(self) -> [u32; Self::WORDS] {
        [self.exempt, self.connections, self.interval, self.burst, self.resets]
    }

    #[inline(always)]
    pub const fn is_exempt(&self) -> bool {
        self.exempt != 0
    }

    #[inline(always)]
    pub const fn has_limits(&self) -> bool {
        self.connections != 0 || self.interval != 0
    }

    /// Whether a source that has so many connections may have another.
    #[inline(always)]
    pub const fn allows(&self, connections: u32) -> bool {
        self.connections == 0 || connections < self.connections
    }

    #[inline(always)]
    pub const fn limits_rate(&self) -> bool {
        self.interval != 0
    }

    #[inline(always)]
    pub const fn resets(&self) -> bool {
        self.resets != 0
    }

    /// Takes a token for a connection at `now` (nanoseconds of CLOCK_BOOTTIME), if there is one: `full` is the moment
    /// at which the source's bucket will be full again, 0 for a source that has none yet.
    ///
    /// Two processors that do this for one source in the same moment may count one connection for two.
    #[inline(always)]
    pub const fn take_token(&self, full: &mut u64, now: u64) -> bool {
        let from = if *full > now { *full } else { now };
        let room = self.interval as u64 * self.burst.saturating_sub(1) as u64;
        // A bucket filled under a policy that is no more may be further from full than this one can be.
        if from - now > room {
            return false;
        }
        *full = from + self.interval as u64;
        true
    }
}

/// Whom limits are for: an IPv4 address, in IPv6 clothes, or an IPv6 /64. Network byte order.
#[inline(always)]
pub const fn source_key(flow: &Flow) -> [u32; 4] {
    match flow.version {
        IpVersion::V4 => [0, 0, 0xffffu32.to_be(), flow.source[0]],
        IpVersion::V6 => [flow.source[0], flow.source[1], 0, 0],
    }
}

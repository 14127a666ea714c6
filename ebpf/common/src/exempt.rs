//! Exempt pairs: new connections of one customer to one destination that pass untouched.

use crate::Flow;

/// Pairs that each of the maps has room for.
pub const MAX_EXEMPT: u32 = 100_000;

/// A third of an hour: a connection counts against the limit for 60 to 80 minutes.
const SLOT_SECONDS: u32 = 20 * 60;

/// Until when a pair is exempt, and how often. Words only, so that agent and program agree on its bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exemption {
    /// The second of CLOCK_BOOTTIME at which it ends.
    until: u32,
    /// New connections in any hour; 0: as many as there are.
    per_hour: u32,
    /// The slot in which the last connection was made.
    slot: u32,
    /// Connections in that slot and in the three before it.
    made: [u32; 4],
    /// Connections that passed.
    passed: u32,
}

impl Exemption {
    /// Its size, in words.
    pub const WORDS: usize = 8;

    pub const fn new(until: u32, per_hour: u32) -> Self {
        Self { until, per_hour, slot: 0, made: [0; 4], passed: 0 }
    }

    /// As it is in the map.
    pub const fn words(self) -> [u32; Self::WORDS] {
        let [a, b, c, d] = self.made;
        [self.until, self.per_hour, self.slot, a, b, c, d, self.passed]
    }

    /// How many connections the exemption with these words let pass.
    pub const fn passed(words: [u32; Self::WORDS]) -> u32 {
        words[7]
    }

    /// Whether a connection that is opened now (in seconds of CLOCK_BOOTTIME) passes; if it does, it counts.
    ///
    /// Two processors that do this for one pair in the same moment may count one connection for two.
    #[inline(always)]
    pub fn admit(&mut self, now: u32) -> bool {
        if now >= self.until {
            return false;
        }
        if self.per_hour == 0 {
            self.passed = self.passed.wrapping_add(1);
            return true;
        }
        let slot = now / SLOT_SECONDS;
        let [a, b, c, d] = self.made;
        let [a, b, c, d] = match slot.wrapping_sub(self.slot) {
            0 => [a, b, c, d],
            1 => [0, a, b, c],
            2 => [0, 0, a, b],
            3 => [0, 0, 0, a],
            _ => [0; 4],
        };
        let admitted = a + b + c + d < self.per_hour;
        self.passed = self.passed.wrapping_add(admitted as u32);
        self.slot = slot;
        self.made = [if admitted { a + 1 } else { a }, b, c, d];
        admitted
    }
}

/// The key of an IPv4 pair: customer and destination, in network byte order.
#[inline(always)]
pub const fn pair_v4(flow: &Flow) -> [u32; 2] {
    [flow.source[0], flow.destination[0]]
}

/// The key of an IPv6 pair.
#[inline(always)]
pub const fn pair_v6(flow: &Flow) -> [u32; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (flow.source, flow.destination);
    [a, b, c, d, e, f, g, h]
}

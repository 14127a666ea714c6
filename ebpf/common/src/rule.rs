//! What holds for prefixes for a while, on the operator's word.

use core::cell::Cell;

/// Rules that each of the tries has room for.
pub const MAX_RULES: u32 = 100_000;

/// What a rule is about. The first word of its key in the trie, network byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleKind {
    /// Customers whose new connections are refused.
    Blocked,
    /// Customers whose new connections go straight.
    ExemptCustomer,
    /// Destinations to which new connections go straight.
    ExemptDestination,
}

impl RuleKind {
    pub const ALL: [Self; 3] = [Self::Blocked, Self::ExemptCustomer, Self::ExemptDestination];

    #[inline(always)]
    pub const fn word(self) -> u32 {
        let kind: u32 = match self {
            Self::Blocked => 0,
            Self::ExemptCustomer => 1,
            Self::ExemptDestination => 2,
        };
        kind.to_be()
    }
}

/// How a new connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// No answer.
    Drop,
    /// The customer is told at once.
    Reset,
    /// The connection goes to the agent, which says why; one a second of a source, and the others are dropped.
    Tell,
}

/// Until when a rule holds, and how often it did. Words only, so that agent and program agree on its bytes.
#[repr(C)]
#[derive(Debug)]
pub struct Rule {
    /// The second of CLOCK_BOOTTIME at which it ends.
    until: u32,
    /// For a blocked customer: 1 where his SYN is answered with a reset, 2 where the agent tells him.
    how: u32,
    /// SYNs for which it was applied.
    applied: Cell<u32>,
}

impl Rule {
    /// Its size, in words.
    pub const WORDS: usize = 3;

    pub const fn new(until: u32, refusal: Refusal) -> Self {
        let how = match refusal {
            Refusal::Drop => 0,
            Refusal::Reset => 1,
            Refusal::Tell => 2,
        };
        Self { until, how, applied: Cell::new(0) }
    }

    /// As it is in the map.
    pub const fn words(&self) -> [u32; Self::WORDS] {
        [self.until, self.how, self.applied.get()]
    }

    /// How often the rule with these words was applied.
    pub const fn applied(words: [u32; Self::WORDS]) -> u32 {
        words[2]
    }

    /// Whether it holds now, in seconds of CLOCK_BOOTTIME.
    #[inline(always)]
    pub const fn holds(&self, now: u32) -> bool {
        now < self.until
    }

    /// Counts that it was applied. Two processors that do this for one rule in the same moment may count one for two.
    #[inline(always)]
    pub fn count(&self) {
        self.applied.set(self.applied.get().wrapping_add(1));
    }

    #[inline(always)]
    pub const fn refusal(&self) -> Refusal {
        match self.how {
            0 => Refusal::Drop,
            1 => Refusal::Reset,
            _ => Refusal::Tell,
        }
    }
}

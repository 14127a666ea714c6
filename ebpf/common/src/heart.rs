//! The agent's heartbeat: while it is hung, new connections are treated as while it is dead.

/// The longest that the agent may be silent, in nanoseconds. With what it takes to notice a hung agent in its own
/// process, new connections go their other way within a second.
pub const SILENCE: u64 = 500_000_000;

/// Whether the agent is alive. `last`: its last heartbeat, 0 before the first; both in nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub const fn is_alive(last: u64, now: u64) -> bool {
    now.wrapping_sub(last) < SILENCE || last > now
}

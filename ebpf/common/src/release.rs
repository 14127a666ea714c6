//! The release: for a while all customers' new connections pass untouched, whether or not the agent lives.

/// Whether the release lasts. Both in seconds of CLOCK_BOOTTIME; `until` 0: there is none.
#[inline(always)]
pub const fn is_released(until: u32, now: u32) -> bool {
    now < until
}

//! How much of the processor a script has had. Only what it runs itself counts, not what it waits for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mlua::VmState;
use nix::time::{ClockId, clock_gettime};

/// After this long without a pause a script is suspended, so that the messages behind it get their turn.
const SLICE: u64 = 5_000_000;

/// The time a script has used, in nanoseconds. One thread at a time runs it; the atomics are for its way from one to
/// the next.
#[derive(Debug)]
pub(super) struct Meter {
    limit: AtomicU64,
    /// Used before the present slice.
    used: AtomicU64,
    /// This thread's own time when the slice began.
    began: AtomicU64,
    /// The coarse clock when this thread's own time was last asked for, which costs a system call.
    tick: AtomicU64,
    exhausted: AtomicBool,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            limit: AtomicU64::new(u64::MAX),
            used: AtomicU64::new(0),
            began: AtomicU64::new(0),
            tick: AtomicU64::new(0),
            exhausted: AtomicBool::new(false),
        }
    }

    /// For a new call.
    pub(super) fn reset(&self, limit: Duration) {
        self.limit.store(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.used.store(0, Relaxed);
        self.exhausted.store(false, Relaxed);
    }

    /// The script goes on, on this thread.
    pub(super) fn begin(&self) {
        self.began.store(now(ClockId::CLOCK_THREAD_CPUTIME_ID), Relaxed);
        self.tick.store(now(ClockId::CLOCK_MONOTONIC_COARSE), Relaxed);
    }

    /// The script is suspended, or has ended.
    pub(super) fn end(&self) {
        self.used.fetch_add(self.slice(), Relaxed);
    }

    /// Whether the limit was met. It stays so for the rest of the call, whatever the script does.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Relaxed) || self.used.load(Relaxed) > self.limit.load(Relaxed)
    }

    /// Called again and again while a script runs. Where it can be suspended it is, which no `pcall` of it can catch;
    /// where it cannot (a pattern, a comparison), an error takes it to where it can.
    pub(super) fn interrupt(&self) -> mlua::Result<VmState> {
        if self.exhausted.load(Relaxed) {
            return Err(mlua::Error::runtime("the script has used up its time"));
        }
        let tick = now(ClockId::CLOCK_MONOTONIC_COARSE);
        if self.tick.swap(tick, Relaxed) == tick {
            return Ok(VmState::Continue);
        }
        let slice = self.slice();
        if self.used.load(Relaxed).saturating_add(slice) > self.limit.load(Relaxed) {
            self.exhausted.store(true, Relaxed);
            return Ok(VmState::Yield);
        }
        Ok(if slice > SLICE { VmState::Yield } else { VmState::Continue })
    }

    fn slice(&self) -> u64 {
        now(ClockId::CLOCK_THREAD_CPUTIME_ID).saturating_sub(self.began.load(Relaxed))
    }
}

/// Nanoseconds. Neither clock can fail on Linux; one that did would only make the wall's limit the one that holds.
fn now(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        let (seconds, nanoseconds) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
        seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
    })
}

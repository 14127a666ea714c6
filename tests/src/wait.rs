//! Waiting for conditions, never for time to pass.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Seconds until the conditions of a test are given up: generous, because a loaded machine is slow and a
/// condition that holds ends the wait at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How many times as long everything takes, as whoever runs the tests on an emulated machine says.
pub const SLOWNESS: &str = "WEIR_SLOWNESS";

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Asks until there is an answer; `what` names it in the error when `limit` has passed.
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let limit = patient(limit);
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if start.elapsed() >= limit {
            bail!("waited {:.1} s in vain for {what}", limit.as_secs_f64());
        }
        // Whoever is waited for has half of the time at least.
        thread::sleep(POLL_INTERVAL.max(asked.elapsed()));
    }
}

/// The limit for this machine.
pub fn patient(limit: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    let said = || std::env::var(SLOWNESS).ok().and_then(|times| times.parse().ok());
    limit * *TIMES.get_or_init(|| said().unwrap_or(1))
}

/// Asks until the condition holds.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, limit, || Ok(holds()?.then_some(())))
}

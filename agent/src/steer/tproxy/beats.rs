//! What tells the kernel that the agent is alive, and what else tells it something: one at a time.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::kernel::Kernel;
use super::ruleset::{LONG_SILENCE, SILENCE};

/// Shared by the heart, which beats, and by who changes the table.
#[derive(Debug, Clone, Default)]
pub(super) struct Beats(Arc<Mutex<Option<Kernel>>>);

/// While there is one, the heart is still.
pub(super) struct Held<'a>(MutexGuard<'a, Option<Kernel>>);

impl Beats {
    /// The heart's. Who changes the table has said already that the agent is alive.
    pub(super) fn beat(&self) {
        if let Ok(mut kernel) = self.0.try_lock()
            // What it minds, above all that there is no table, is found out and said by the check of each second.
            && let Err(error) = tell(&mut kernel, SILENCE)
        {
            tracing::debug!(%error, "no heartbeat");
        }
    }

    /// The heart is still, and nothing was said.
    pub(super) fn hold(&self) -> Held<'_> {
        Held(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The agent is alive for so long, whatever comes.
    pub(super) fn say(&self, silence: Duration) -> io::Result<()> {
        self.hold().say(silence)
    }

    /// For a change, with the heart still: nft turns down what is changed between its look at the table and its own change, and
    /// while the kernel takes a large set it takes no beat.
    pub(super) fn hold_for_long(&self) -> io::Result<Held<'_>> {
        let mut held = self.hold();
        held.say(LONG_SILENCE)?;
        Ok(held)
    }

    /// With what the kernel is asked by its own messages.
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&mut Kernel) -> io::Result<T>) -> io::Result<T> {
        with(&mut self.hold().0, ask)
    }
}

impl Held<'_> {
    pub(super) fn say(&mut self, silence: Duration) -> io::Result<()> {
        tell(&mut self.0, silence)
    }
}

fn tell(kernel: &mut Option<Kernel>, silence: Duration) -> io::Result<()> {
    with(kernel, |kernel| kernel.beat(silence))
}

/// After an error answers may be left: the next one has a socket of its own.
fn with<T>(kernel: &mut Option<Kernel>, work: impl FnOnce(&mut Kernel) -> io::Result<T>) -> io::Result<T> {
    let mut open = match kernel.take() {
        Some(open) => open,
        None => Kernel::open()?,
    };
    let done = work(&mut open)?;
    *kernel = Some(open);
    Ok(done)
}

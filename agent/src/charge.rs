//! Whether this agent is in charge: only then does it change what is in the kernel and on the disk. While another is
//! about to take over nothing is changed, so that the other finds what holds.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

#[derive(Debug, Default)]
pub struct Charge(RwLock<State>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ours,
    Offered,
    Left,
}

/// Why nothing is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotInCharge {
    #[error("another agent is about to take over: try again in a moment")]
    Offered,
    #[error("another agent has taken over: ask that one")]
    Left,
}

/// To be held while something is changed.
#[derive(Debug)]
pub struct Held<'a>(#[expect(dead_code, reason = "held")] RwLockReadGuard<'a, State>);

impl Charge {
    /// # Errors
    /// If nothing may be changed now.
    pub fn change(&self) -> Result<Held<'_>, NotInCharge> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Ours => Ok(Held(state)),
            State::Offered => Err(NotInCharge::Offered),
            State::Left => Err(NotInCharge::Left),
        }
    }

    /// Waits until what is being changed is done.
    pub(crate) fn offer(&self) {
        self.set(State::Offered);
    }

    pub(crate) fn take_back(&self) {
        self.set(State::Ours);
    }

    pub(crate) fn leave(&self) {
        self.set(State::Left);
    }

    fn set(&self, state: State) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_not_changed() {
        let charge = Charge::default();
        drop(charge.change().unwrap());
        charge.offer();
        assert_eq!(charge.change().unwrap_err(), NotInCharge::Offered);
        charge.take_back();
        drop(charge.change().unwrap());
        charge.leave();
        assert_eq!(charge.change().unwrap_err(), NotInCharge::Left);
    }
}

//! Whose each source was when it was last looked up.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::bounded::Bounded;
use crate::rate::Source;

/// Sources remembered; beyond it the one that was noted first goes.
const CAPACITY: usize = 200_000;

#[derive(Debug)]
pub(super) struct Owners(Mutex<Bounded<Source, Option<Box<str>>>>);

impl Default for Owners {
    fn default() -> Self {
        Self(Mutex::new(Bounded::new(CAPACITY)))
    }
}

impl Owners {
    /// Notes the owner; whether it was somebody else.
    pub(super) fn note(&self, source: Source, id: Option<&str>) -> bool {
        let mut owners = self.lock();
        match owners.get(&source) {
            Some(owner) if owner.as_deref() == id => false,
            before => {
                let changed = before.is_some();
                owners.insert(source, id.map(Box::from));
                changed
            }
        }
    }

    pub(super) fn forget(&self, source: Source) {
        self.lock().remove(&source);
    }

    pub(super) fn of(&self, id: &str) -> Vec<Source> {
        let owners = self.lock();
        let theirs = owners.iter().filter(|(_, owner)| owner.as_deref() == Some(id));
        theirs.map(|(source, _)| *source).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Bounded<Source, Option<Box<str>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

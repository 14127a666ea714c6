//! What kinds of files a message holds, by their content: in its parts, and in archives within them.
//!
//! Archives are opened here, with bounds on everything that their maker chooses. What could not be seen is a class as
//! well, so that nothing passes for harmless because nobody could look.

mod class;
mod dig;
mod gzip;
mod inspector;
mod kind;
mod names;
mod sevenz;
mod tar;
mod zip;

use std::collections::BTreeSet;

use crate::content::{Content, Watch};
pub use class::Class;
pub use inspector::{Counts, Inspector};
pub use names::Patterns;

/// What may be spent on one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Archives within each other that are opened. 0: none is.
    pub depth: usize,
    /// Files in all archives of a message.
    pub members: usize,
    /// Octets unpacked in all.
    pub unpacked: u64,
    /// Octets unpacked for each octet packed, of one file, once it is larger than [`RATIO_FLOOR`].
    pub ratio: u64,
}

/// Archives within each other that a script may ask for.
pub const MAX_DEPTH: usize = 10;

/// A file may be packed as tightly as can be while it is not larger than this.
pub const RATIO_FLOOR: u64 = 10 * 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 2, members: 1000, unpacked: 100 * 1024 * 1024, ratio: 250 }
    }
}

/// A file, or what kept one from being seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub class: Class,
    /// What it is within its class: `elf`, `zip`; for what was not seen, why.
    pub kind: &'static str,
    /// The part of the message; empty for the message as a whole.
    pub part: String,
    /// The name of the file, after those of the archives that it is in: `a.zip/b/c.exe`. Empty if it has none.
    pub path: String,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.class.name(), self.kind)?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        if !self.part.is_empty() {
            write!(f, " in part {}", self.part)?;
        }
        Ok(())
    }
}

/// The files of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    found: Vec<Found>,
}

impl Files {
    /// Looks at every part. Never fails: what could not be seen is among what was found.
    pub fn look(content: &Content, limits: Limits, banned: &Patterns, watch: &Watch) -> Self {
        Self { found: dig::message(content, limits, banned, watch) }
    }

    /// Of a message that nobody looked at.
    pub fn unseen(why: &'static str) -> Self {
        let found = Found { class: Class::OutOfTime, kind: why, part: String::new(), path: String::new() };
        Self { found: vec![found] }
    }

    pub fn found(&self) -> &[Found] {
        &self.found
    }

    pub fn classes(&self) -> BTreeSet<&'static str> {
        self.found.iter().map(|found| found.class.name()).collect()
    }

    /// Whether there is one of this class or kind: `executable`, `elf`.
    pub fn has(&self, class: &str) -> bool {
        self.first(class).is_some()
    }

    pub fn first(&self, class: &str) -> Option<&Found> {
        self.found.iter().find(|found| found.class.name() == class || found.kind == class)
    }

    /// The first of one of these classes.
    pub fn first_of(&self, classes: &[Class]) -> Option<&Found> {
        self.found.iter().find(|found| classes.contains(&found.class))
    }

    /// The first thing that kept something from being seen.
    pub fn unscannable(&self) -> Option<&Found> {
        self.found.iter().find(|found| found.class.is_unscannable())
    }
}

#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod tests;

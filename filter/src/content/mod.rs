//! What is in a message: its headers, and the parts of its body as a reader would see them.
//!
//! The structure is walked here, with bounds on everything that a sender chooses; mail-parser reads what is inside a
//! header (encoded words, parameters, character sets), one field at a time. It has no bound on parts, gives no name
//! for a folded `filename=`, and leaves base64 as it is when one octet of it is wrong.

mod header;
mod part;
mod reader;
mod transfer;
mod walk;
mod watch;

use bytes::Bytes;

pub use header::{Address, Headers};
pub use part::Part;
pub use reader::{Counts, Opened, Reader};
pub use watch::{SHORT, Stopped, Watch, work_on};

/// What of a message is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Octets of the message, and as many again of what had to be decoded.
    pub octets: usize,
    pub parts: usize,
    /// Multiparts and messages within each other.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { octets: 64 * 1024 * 1024, parts: 1000, depth: 10 }
    }
}

/// Why not all of a message could be seen, or not for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    TooBig,
    TooManyParts,
    TooDeep,
    /// Readers will differ about what is in this part.
    BrokenEncoding,
    OutOfTime,
}

impl Trouble {
    pub fn name(self) -> &'static str {
        match self {
            Self::TooBig => "too-big",
            Self::TooManyParts => "too-many-parts",
            Self::TooDeep => "too-deep",
            Self::BrokenEncoding => "broken-encoding",
            Self::OutOfTime => "out-of-time",
        }
    }
}

/// A trouble, and the part that has it: `1.2` is the second part of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub trouble: Trouble,
    pub part: String,
}

/// A message as it reads.
#[derive(Debug, Clone, Default)]
pub struct Content {
    headers: Headers,
    parts: Vec<Part>,
    troubles: Vec<Found>,
}

impl Content {
    /// Reads a message. Never fails: what is wrong with it is among [`Self::troubles`].
    pub fn read(message: &Bytes, limits: Limits, watch: &Watch) -> Self {
        walk::message(message, limits, watch)
    }

    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The parts that hold something, in order; multiparts and attached messages are what is in them.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn troubles(&self) -> &[Found] {
        &self.troubles
    }

    pub fn has(&self, trouble: Trouble) -> bool {
        self.troubles.iter().any(|found| found.trouble == trouble)
    }

    /// Octets of all parts, decoded.
    pub fn octets(&self) -> usize {
        self.parts.iter().map(|part| part.data.len()).sum()
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod traps;

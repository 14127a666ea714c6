//! The slow channel to the filter nodes, beside mail: who is blocked is fetched, and what destinations answered is
//! reported.

mod blocked;
mod link;
mod outcomes;
#[cfg(test)]
mod tests;

pub use blocked::{Blocked, Turned};
pub(crate) use link::watch;
pub use link::{Link, links, status};
pub use outcomes::Outcomes;

//! The interoperability matrix: who sends what to whom, and how what is said through weir differs from what is said
//! without it.

mod case;
mod customer;
mod destination;
mod difference;
mod servers;
mod table;
mod transcript;
mod wire;

pub use case::Case;
pub use customer::{Customer, Customers};
pub use destination::Destination;
pub use difference::{Difference, compare};
pub use servers::{exim, opensmtpd};
pub use table::{Outcome, markdown};
pub use transcript::Transcript;
pub use wire::{Connection, Wire};

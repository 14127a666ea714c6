//! Filter nodes that are not weir's own: real programs, configured so that their 250 delivers nothing. docs/nodes.md
//! gives the same configurations.

mod amavis;
mod haraka;
mod policy;
mod postfix;

pub use amavis::{Amavis, SINK_PORT};
pub use haraka::Haraka;
pub use policy::{Policy, Request};
pub use postfix::PostfixNode;

/// Where each listens for the agent, on the addresses of a node of the lab.
pub const PORT: u16 = 10025;

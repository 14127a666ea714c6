//! The parser and the decision against packets and hosts made up here.

mod decide;
mod exempt;
mod packets;
mod parse;
mod policy;
mod reset;

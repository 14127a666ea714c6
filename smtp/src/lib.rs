//! SMTP as weir speaks it (RFC 5321), without I/O, clock or runtime.
//!
//! Everything here is a value or a small automaton that is fed bytes. The property that all of it
//! keeps: however an input is split into chunks, the events that come out are the same.
//!
//! | module | what it knows |
//! |---|---|
//! | [`line`] | where a line of commands or replies ends |
//! | [`command`] | what a customer asks for |
//! | [`reply`] | what a server answers, multi-line and enhanced codes included |
//! | [`extension`] | which EHLO keywords are relayed, and why the others are not |
//! | [`data`] | where a message ends (only CRLF.CRLF), dot-unstuffing and stuffing |
//! | [`bdat`] | what is in a message that is framed by its length |
//! | [`envelope`] | reverse-path, forward-paths and their parameters |
//! | [`xclient`], [`xforward`], [`xtext`] | telling a filter node who the customer is |

pub mod bdat;
pub mod command;
pub mod data;
pub mod envelope;
pub mod extension;
pub mod line;
pub mod reply;
pub mod xclient;
pub mod xforward;
pub mod xtext;

pub use command::Command;
pub use envelope::Envelope;
pub use reply::Reply;

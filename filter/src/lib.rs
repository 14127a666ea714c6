//! The filter node: takes messages from weir-agent (or another proxy that speaks XCLIENT), judges
//! each at its end of data, and answers accept, defer or reject. It has no way to send mail.
//!
//! | module | what it does |
//! |---|---|
//! | [`serve`] | SMTP: a session without I/O, and its driver |
//! | [`body`] | a message's body, in memory or in an unlinked file |
//! | [`content`] | a message's headers and parts, decoded, within bounds |
//! | [`files`] | what kinds of files are in it, and in archives within it |
//! | [`outbreak`] | the same message from several customers at once |
//! | [`inside`] | the three above, as this node is configured |
//! | [`message`], [`facts`] | what is known of a message, and what is found out on demand |
//! | [`policy`] | the verdict |
//! | [`rate`] | counts in sliding windows |
//! | [`reputation`] | how good somebody's mail has been |
//! | [`events`] | what was judged, kept for a while |
//! | [`scan`] | scanners, with their limits in one place |
//! | [`customers`] | whose address it is |
//! | [`dns`] | names and lists in the DNS |
//! | [`envelope`] | whether HELO and envelope are as they should be |
//! | [`maps`] | what the operator says of senders, recipients and customers |
//! | [`fetch`] | HTTP requests of scripts |
//! | [`outside`] | the four above, as this node is configured |
//! | [`together`] | several questions at the same time |
//! | [`blocks`] | who is blocked |
//! | [`quarantine`] | samples for one who has the key |
//! | [`channel`] | what agents and the node say to each other beside mail |
//! | [`bounded`] | what is remembered of the last so many |
//! | [`config`], [`control`], [`status`], [`metrics`], [`doctor`] | what the operator says and sees |

pub mod blocks;
pub mod body;
pub mod bounded;
pub mod channel;
pub mod config;
pub mod content;
pub mod control;
pub mod customers;
pub mod descriptors;
pub mod dns;
pub mod doctor;
pub mod envelope;
pub mod events;
pub mod facts;
pub mod fetch;
pub mod files;
pub mod inside;
pub mod maps;
pub mod message;
pub mod metrics;
pub mod outbreak;
pub mod outside;
pub mod policy;
pub mod privacy;
pub mod quarantine;
pub mod rate;
pub mod reputation;
pub mod scan;
pub mod serve;
pub mod status;
pub mod together;

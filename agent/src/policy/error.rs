//! Why a rule was not made or removed, for the operator who asked for it.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::release::MAX_DURATION as MAX_RELEASE;
use super::{MAX_DURATION, MAX_REASON};
use crate::steer::{MAX_EXEMPT, MAX_RULES, RuleKind, SteerError};

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(
        "{customer} is IPv{} and {destination} IPv{}: no connection is between the two; name the address of the same \
         family",
        version(.customer), version(.destination)
    )]
    Families { customer: IpAddr, destination: IpAddr },

    #[error("{customer} is in none of customers.prefixes: its mail is not intercepted in the first place")]
    NoCustomer { customer: IpAddr },

    #[error("{seconds} s is no duration of such a rule: 1 s to {} d", MAX_DURATION.as_secs() / 86_400)]
    Duration { seconds: u64 },

    #[error("the reason must be one line of at most {MAX_REASON} characters")]
    Reason,

    #[error(
        "{MAX_EXEMPT} pairs are exempt already, and there is room for no more: end some with `weir-agent unexempt`, or \
         leave customers out of customers.prefixes"
    )]
    Full,

    #[error("{customer} to {destination} is not exempt (see `weir-agent list`)")]
    NotExempt { customer: IpAddr, destination: IpAddr },

    #[error("{prefix} has bits behind its length; {} is meant?", prefix.trunc())]
    Bits { prefix: IpNet },

    #[error(
        "{prefix} has nothing in common with customers.prefixes: nobody's mail from there is intercepted"
    )]
    NoCustomers { prefix: IpNet },

    #[error("{prefix} is everybody: `weir-agent release` lets all new connections go straight for a while")]
    Everybody { prefix: IpNet },

    #[error(
        "there are {MAX_RULES} such rules already, and room for no more: end some, or make one of several"
    )]
    RulesFull,

    #[error("{prefix} is not {} (see `weir-agent list`)", match kind {
        RuleKind::Blocked => "blocked",
        RuleKind::ExemptCustomer => "an exempt customer",
        RuleKind::ExemptDestination => "an exempt destination",
    })]
    NoRule { kind: RuleKind, prefix: IpNet },

    #[error("{}: {source}: what is not written there is forgotten with the next start", path.display())]
    File { path: PathBuf, source: io::Error },

    #[error("{seconds} s is no duration of a release: 1 s to {} d; for longer stop the agent", MAX_RELEASE.as_secs() / 86_400)]
    ReleaseDuration { seconds: u64 },

    #[error("nothing is released: customers' new connections are intercepted")]
    NotReleased,

    #[error(transparent)]
    Steering(#[from] SteerError),
}

fn version(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

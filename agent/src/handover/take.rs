//! The heir's part: asks, gets ready, and takes charge, or ends with an error and the old agent goes on.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tracing::{info, warn};

use super::channel::{Channel, Line};
use super::{FromHeir, FromOwner, Last, Offer, PROTOCOL, Part, differences, settings};
use crate::config::Config;
use crate::steer::{Claim, SteerError};

/// For one answer of the owner's. It may have a policy to write to a slow disk.
const ANSWER: Duration = Duration::from_secs(30);

/// Why an agent does not take over. The running one goes on.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("the running agent cannot be asked: {0}")]
    Unreachable(io::Error),
    #[error("the running agent says no: {reason}")]
    Refused { reason: String },
    #[error(
        "{}: not as the running agent (process {pid}) has it, whose sessions and rules depend on it; give it the same value, \
         or stop that agent and start this one without --take-over",
        keys.join(", ")
    )]
    Settings { keys: Vec<String>, pid: u32 },
    #[error("the running agent does not answer: {0}")]
    Silent(io::Error),
    #[error("the running agent has called it off, and goes on (its log says why)")]
    CalledOff,
    #[error("the running agent said what is not understood here: {0}")]
    Misunderstood(String),
}

/// What the owner gives.
#[derive(Debug)]
pub(crate) struct Heritage {
    pub offer: Offer,
    pub listener: OwnedFd,
    /// Links and maps.
    pub parts: Vec<(Part, OwnedFd)>,
}

/// In charge.
#[derive(Debug)]
pub(crate) struct Taken {
    pub claim: Claim,
    /// `None`: the owner has died before it said so.
    pub last: Option<Last>,
}

/// Asks the agent that listens on this name; `None` if there is none.
///
/// # Errors
/// If it says no, or differs where it must not.
pub(crate) fn ask(name: &str, config: &Config) -> Result<Option<(Channel, Heritage)>, HandoverError> {
    let channel = match Channel::connect(name) {
        Ok(channel) => channel,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(HandoverError::Unreachable(error)),
    };
    let heritage = heritage(&channel)?;
    let (pid, version) = (heritage.offer.pid, &heritage.offer.version);
    let keys = differences(&heritage.offer.settings, &settings(config));
    if !keys.is_empty() {
        return Err(HandoverError::Settings { keys, pid });
    }
    info!(pid, version, "taking over from the running agent");
    Ok(Some((channel, heritage)))
}

pub(super) fn heritage(channel: &impl Line) -> Result<Heritage, HandoverError> {
    let hello = FromHeir::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").into() };
    // If it has gone already it may have said why.
    let _ = channel.send(&hello, &[]);
    let (mut offer, mut listener, mut all) = (None, None, Vec::new());
    loop {
        let (said, descriptors) = channel.receive(ANSWER).map_err(HandoverError::Silent)?;
        match said {
            FromOwner::Refused { reason } => return Err(HandoverError::Refused { reason }),
            FromOwner::Offer(said) => offer = Some(said),
            FromOwner::Parts { parts } => {
                for (part, descriptor) in parts.into_iter().zip(descriptors) {
                    match part {
                        Part::Listener {} => listener = Some(descriptor),
                        Part::Link { .. } | Part::Map { .. } => all.push((part, descriptor)),
                    }
                }
            }
            FromOwner::Complete {} => break,
            other => return Err(HandoverError::Misunderstood(format!("{other:?}"))),
        }
    }
    match (offer, listener) {
        (Some(offer), Some(listener)) => Ok(Heritage { offer, listener, parts: all }),
        _ => Err(HandoverError::Misunderstood("an offer without a listener".into())),
    }
}

/// Takes charge, with all that it needs ready. `claim_again`: takes the claim if it is free, which it is if the owner
/// has died.
///
/// # Errors
/// If it is not in charge, and the owner is.
pub(crate) fn take(
    channel: &impl Line,
    claim_of: impl Fn(OwnedFd) -> Claim,
    claim_again: impl Fn() -> Result<Claim, SteerError>,
) -> Result<Taken, HandoverError> {
    let orphaned = || {
        let claim = claim_again().map_err(|_| HandoverError::CalledOff)?;
        warn!("the agent before has died, and its sessions with it: this one is in charge");
        Ok(Taken { claim, last: None })
    };
    if channel.send(&FromHeir::Ready {}, &[]).is_err() {
        return orphaned();
    }
    let mut sessions = Vec::new();
    let (claim, proven) = loop {
        match channel.receive(ANSWER) {
            Ok((FromOwner::Sessions { sources }, _)) => sessions.extend(sources),
            Ok((FromOwner::Yours { proven }, descriptors)) => match descriptors.into_iter().next() {
                Some(descriptor) => break (claim_of(descriptor), proven),
                None => return Err(HandoverError::Misunderstood("no claim".into())),
            },
            Ok((FromOwner::Refused { reason }, _)) => return Err(HandoverError::Refused { reason }),
            Ok((other, _)) => return Err(HandoverError::Misunderstood(format!("{other:?}"))),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return orphaned(),
            Err(error) => return Err(HandoverError::Silent(error)),
        }
    };
    if channel.send(&FromHeir::Taken {}, &[]).is_err() {
        // It is free only when nobody has it.
        drop(claim);
        return orphaned();
    }
    Ok(Taken { claim, last: Some(Last { sessions, proven }) })
}

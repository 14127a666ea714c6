//! The owner's part: gives what it has to an heir, or goes on as if nobody had asked.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{debug, info, warn};

use super::channel::{Channel, Line, MAX_DESCRIPTORS};
use super::{FromHeir, FromOwner, Last, Offer, PROTOCOL, Part};
use crate::steer::Claim;

/// For the first word.
const HELLO: Duration = Duration::from_secs(2);

/// Until the heir is ready: it may have a million prefixes to load. The agent intercepts meanwhile, and only changes of
/// the policy wait.
const PREPARATION: Duration = Duration::from_secs(60);

/// For `taken`. The heir has nothing to do for it; `tproxy` holds out so long without a heartbeat.
pub(super) const ANSWER: Duration = Duration::from_millis(1500);

/// For `serving`, while this agent takes the connections that come in. It may be a large table that the heir makes.
const SETTLING: Duration = Duration::from_secs(20);

/// Between two looks at an heir that cannot be heard.
const LOOK: Duration = Duration::from_millis(100);

/// Sources in one packet.
const CHUNK: usize = 1000;

/// After a failed accept the next waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What is given, and by whom it is kept meanwhile.
pub(crate) trait Estate {
    /// From now on nothing changes that the heir reads, until it is called off.
    ///
    /// # Errors
    /// Why not.
    fn offer(&mut self) -> Result<(Offer, Vec<(Part, OwnedFd)>), String>;

    /// Is not stopped from now on, until it is called off. It goes on to accept: an heir that hangs is no reason to wait.
    ///
    /// # Errors
    /// Why not.
    fn hold(&mut self) -> Result<Last, String>;

    /// All is as it was. `touched`: the heir may have changed something on the host, and is dead.
    fn call_off(&mut self, touched: bool);
}

/// Listens for heirs for ever, until there is one: then `left` is called with the channel to it.
///
/// # Errors
/// If nobody can connect.
pub(crate) fn keep_giving<E: Estate + Send + 'static>(
    claim: Claim,
    mut estate: E,
    left: impl FnOnce(E, Channel) + Send + 'static,
) -> io::Result<()> {
    super::open(&claim)?;
    let work = move || {
        loop {
            let channel = match Channel::accept(&claim) {
                Ok(channel) => channel,
                Err(error) => {
                    debug!(%error, "who wanted to take over was not heard");
                    // A stranger keeps nobody else waiting.
                    if error.kind() != ErrorKind::PermissionDenied {
                        thread::sleep(ACCEPT_PAUSE);
                    }
                    continue;
                }
            };
            match give(&channel, claim.as_fd(), &mut estate) {
                Ok(()) => {
                    drop(claim);
                    return left(estate, channel);
                }
                Err(reason) => warn!(reason, "another agent did not take over: this one goes on"),
            }
        }
    };
    thread::Builder::new().name("hand-over".into()).spawn(work).map(drop)
}

/// One heir, from its first word on.
///
/// # Errors
/// Why it is not in charge: all is as it was.
pub(super) fn give(
    channel: &impl Line,
    claim: BorrowedFd<'_>,
    estate: &mut impl Estate,
) -> Result<(), String> {
    hear(channel)?;
    let (offer, parts) = estate.offer().map_err(|reason| refuse(channel, reason))?;
    info!(version = offer.version, "another agent is about to take over");
    let outcome = prepare(channel, offer, &parts)
        .map_err(|reason| (reason, false))
        .and_then(|()| pass(channel, claim, estate));
    outcome.map_err(|(reason, touched)| {
        channel.end();
        estate.call_off(touched);
        reason
    })
}

/// The first word.
fn hear(channel: &impl Line) -> Result<(), String> {
    let said = channel.receive(HELLO).map_err(|error| format!("it said nothing: {error}"))?.0;
    let FromHeir::Hello { protocol, version } = said else {
        return Err(refuse(channel, "the first word is no hello".into()));
    };
    if protocol != PROTOCOL {
        let own = env!("CARGO_PKG_VERSION");
        let reason = format!(
            "weir-agent {own}, which runs, hands over by protocol {PROTOCOL}, and {version} by {protocol}: stop the one, \
             start the other"
        );
        return Err(refuse(channel, reason));
    }
    Ok(())
}

fn refuse(channel: &impl Line, reason: String) -> String {
    // It may have gone already.
    let _ = channel.send(&FromOwner::Refused { reason: reason.clone() }, &[]);
    reason
}

fn prepare(channel: &impl Line, offer: Offer, parts: &[(Part, OwnedFd)]) -> Result<(), String> {
    say(channel, &FromOwner::Offer(offer))?;
    for parts in parts.chunks(MAX_DESCRIPTORS) {
        let descriptors: Vec<_> = parts.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
        let parts = parts.iter().map(|(part, _)| part.clone()).collect();
        channel.send(&FromOwner::Parts { parts }, &descriptors).map_err(|error| words(&error))?;
    }
    say(channel, &FromOwner::Complete {})?;
    match channel.receive(PREPARATION) {
        Ok((FromHeir::Ready {}, _)) => Ok(()),
        Ok((other, _)) => Err(format!("it said {other:?} in place of ready")),
        Err(error) => Err(format!("it did not get ready: {}", words(&error))),
    }
}

/// From `ready` on. An error says too whether the heir may have changed something.
fn pass(channel: &impl Line, claim: BorrowedFd<'_>, estate: &mut impl Estate) -> Result<(), (String, bool)> {
    let untouched = |reason| (reason, false);
    let Last { sessions, proven } = estate.hold().map_err(|reason| untouched(refuse(channel, reason)))?;
    for sources in sessions.chunks(CHUNK) {
        say(channel, &FromOwner::Sessions { sources: sources.to_vec() }).map_err(untouched)?;
    }
    channel.send(&FromOwner::Yours { proven }, &[claim]).map_err(|error| untouched(words(&error)))?;
    let has_ended = match taken(channel) {
        None => return Err(untouched("it did not take what it was given".into())),
        Some(Taken::Heard) => {
            channel.receive::<FromHeir>(SETTLING).is_err_and(|error| error.kind() == ErrorKind::UnexpectedEof)
        }
        Some(Taken::Late) => ends_unheard(channel),
    };
    // If it said nothing it is in charge, and hung: its own heart decides.
    if has_ended { Err(("it died as it took over".into(), true)) } else { Ok(()) }
}

/// The heir is in charge.
enum Taken {
    Heard,
    /// It can be told something, and say nothing.
    Late,
}

/// Whether the heir is in charge. After this it is so or will never be.
fn taken(channel: &impl Line) -> Option<Taken> {
    if matches!(channel.receive(ANSWER), Ok((FromHeir::Taken {}, _))) {
        return Some(Taken::Heard);
    }
    // From here on it can send nothing, and so take nothing; what it sent before counts.
    channel.hear_no_more();
    loop {
        match channel.receive(Duration::ZERO) {
            Ok((FromHeir::Taken {}, _)) => return Some(Taken::Late),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::InvalidData => {}
            Err(_) => return None,
        }
    }
}

/// Whether the heir ends before it can be expected to serve.
fn ends_unheard(channel: &impl Line) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < SETTLING {
        match channel.send(&FromOwner::Sessions { sources: Vec::new() }, &[]) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return true,
            Ok(()) | Err(_) => thread::sleep(LOOK),
        }
    }
    false
}

fn say(channel: &impl Line, message: &impl Serialize) -> Result<(), String> {
    channel.send(message, &[]).map_err(|error| words(&error))
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => "it has ended".into(),
        ErrorKind::TimedOut => "it takes too long".into(),
        _ => error.to_string(),
    }
}

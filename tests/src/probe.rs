//! Questions that scenarios ask again and again, from the customer's side.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::lab::Host;
use crate::smtp::Client;
use crate::wait::{PATIENCE, patient};

/// SpamAssassin's test string, in a message.
pub const GTUBE: &[u8] = b"From: sender@customer.test\nTo: user@destination.test\nSubject: cheap\n\
    Date: Sat, 21 Nov 2026 00:00:00 +0000\nMessage-ID: <gtube@customer.test>\n\n\
    XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\n";

/// A message nobody minds.
pub const HAM: &[u8] = b"From: sender@customer.test\nTo: user@destination.test\nSubject: the minutes\n\
    Date: Sat, 21 Nov 2026 00:00:00 +0000\nMessage-ID: <ham@customer.test>\n\n\
    Here are the minutes of yesterday's meeting.\n.\n..\nRegards\n";

const PROBE_PATIENCE: Duration = Duration::from_millis(500);

/// Which way a connection to port 25 takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the destination itself, which offers STARTTLS.
    Straight,
    /// Through weir, which removes STARTTLS.
    Intercepted,
}

/// The way of a new connection. The destination must be one that offers STARTTLS.
pub fn way(host: &Host, from: IpAddr, to: IpAddr) -> Result<Way> {
    way_within(host, from, to, PATIENCE)
}

/// As `way`, for a destination that answers within this time.
pub fn way_within(host: &Host, from: IpAddr, to: IpAddr, patience: Duration) -> Result<Way> {
    let mut client = Client::connect_within(host, from, SocketAddr::new(to, 25), patience)?;
    let extensions = client.greet("program.customer.test")?;
    client.command("QUIT")?;
    Ok(if extensions.announces("STARTTLS") { Way::Straight } else { Way::Intercepted })
}

/// Time from now until new connections take this way.
pub fn time_until(way: Way, host: &Host, from: IpAddr, to: IpAddr) -> Result<Duration> {
    time_until_by(patient(PROBE_PATIENCE), way, host, from, to)
}

/// As `time_until`, with connections that wait for an answer for so long.
pub fn time_until_by(probe: Duration, way: Way, host: &Host, from: IpAddr, to: IpAddr) -> Result<Duration> {
    let start = Instant::now();
    let mut last = String::new();
    while start.elapsed() < patient(PATIENCE) {
        match way_within(host, from, to, probe) {
            Ok(found) if found == way => return Ok(start.elapsed()),
            Ok(found) => last = format!("{found:?}"),
            Err(error) => last = format!("{error:#}"),
        }
    }
    bail!("no connection {from} to {to} took the way {way:?} in {} s; the last: {last}", PATIENCE.as_secs())
}

/// Whether connection attempts get no answer at all (as opposed to a refusal).
pub fn is_dropped(host: &Host, from: IpAddr, to: IpAddr) -> Result<bool> {
    // Longer than the first retransmission of a SYN, which comes after one second.
    let patience = Duration::from_millis(1_500);
    match Client::connect_within(host, from, SocketAddr::new(to, 25), patience) {
        Ok(_) => Ok(false),
        Err(error) => {
            let timed_out = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::TimedOut;
            if error.chain().any(|cause| cause.downcast_ref().is_some_and(timed_out)) {
                return Ok(true);
            }
            Err(error)
        }
    }
}

/// Whether connection attempts are refused at once, with a reset.
pub fn is_reset(host: &Host, from: IpAddr, to: IpAddr) -> Result<bool> {
    let start = Instant::now();
    match Client::connect_within(host, from, SocketAddr::new(to, 25), PATIENCE) {
        Ok(_) => Ok(false),
        Err(error) => {
            let refused = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::ConnectionRefused;
            let is_refused = error.chain().any(|cause| cause.downcast_ref().is_some_and(refused));
            // Before the SYN would be sent again.
            Ok(is_refused && start.elapsed() < Duration::from_secs(1))
        }
    }
}

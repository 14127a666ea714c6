//! What can go wrong, whose side it is on, and what the customer is told: one table.
//!
//! Everything that may pass is a 4xx, so that the customer's server keeps the message and tries again;
//! 5xx only where trying again cannot help.

use std::fmt;
use std::io;

use nix::libc;
use tokio_rustls::rustls;
use weir_smtp::Reply;

/// Whose doing a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Customer,
    Destination,
    Filter,
    Agent,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Destination => "destination",
            Self::Filter => "filter",
            Self::Agent => "agent",
        }
    }
}

/// Why a connection could not be made or was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Refused,
    Unreachable,
    TimedOut,
    Reset,
    /// No descriptors, no memory, no port left.
    Exhausted,
    /// TLS was not agreed on, and why.
    Tls(&'static str),
    Other,
}

impl Cause {
    pub fn of(error: &io::Error) -> Self {
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) {
            return Self::Exhausted;
        }
        if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            return Self::Tls(untrusted(error));
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Self::Reset
            }
            io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => Self::Exhausted,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::Reset => "connection reset",
            Self::Exhausted => "out of ports, descriptors or memory",
            Self::Tls(reason) => reason,
            Self::Other => "connection failed",
        })
    }
}

/// What an operator can do something about, in his words.
fn untrusted(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Bad;
    let rustls::Error::InvalidCertificate(bad) = error else {
        return match error {
            rustls::Error::InvalidMessage(_) => "it does not speak TLS after STARTTLS",
            rustls::Error::AlertReceived(_) => "it broke off the handshake",
            _ => "no agreement in the handshake",
        };
    };
    match bad {
        // An authority of the same name with another key makes a bad signature.
        Bad::UnknownIssuer | Bad::BadSignature => "its certificate is not signed by filter.tls.ca_file",
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            "its certificate is for another name than filter.tls.server_name, or the node's own in filter.nodes"
        }
        Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired",
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => "its certificate is not valid yet",
        _ => "its certificate will not do",
    }
}

/// Everything that ends a message or a session other than by the destination's or the filter's own reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The destination could not be reached.
    Connect(Cause),
    /// The destination closed or reset the connection.
    DestinationLost,
    /// The destination did not answer in time.
    DestinationSilent,
    /// The destination sent what is no reply, or one that nothing asked for.
    DestinationGarbage,
    /// No filter node could be reached.
    FilterUnavailable,
    /// Filter nodes were reached, and none gave a verdict.
    FilterFailed,
    /// All filter nodes have as many messages as they may.
    FilterBusy,
    /// No verdict within the budget.
    FilterSilent,
    /// Two nodes failed while they had the message.
    Suspect,
    /// Nodes failed on earlier messages of this customer's, and he has to wait.
    Suspected,
    /// Every node lacks an extension that the message needs.
    FilterLacks(&'static str),
    /// The spool could not be written.
    SpoolFull,
    MessageTooLarge(u64),
    LineTooLong(u64),
    BareCr,
    Nul,
    BareLf,
    EarlyTalker,
    CustomerIdle,
    CustomerSlow,
    TooManyMessages,
    SessionTooLong,
    TooManyErrors,
    /// A BDAT that cannot be read: where its chunk ends is not known.
    ChunkUnreadable,
    Overload,
    /// The customer has as many sessions as he may.
    CustomerOverload,
    /// All sessions together hold as much as they may.
    BuffersFull,
    Stopping,
    /// The provider has blocked the customer.
    Blocked,
}

impl Failure {
    pub fn side(self) -> Side {
        match self {
            Self::Connect(_) | Self::DestinationLost | Self::DestinationSilent | Self::DestinationGarbage => {
                Side::Destination
            }
            Self::FilterUnavailable
            | Self::FilterFailed
            | Self::FilterBusy
            | Self::FilterSilent
            | Self::FilterLacks(_)
            | Self::Suspect
            | Self::Suspected => Side::Filter,
            Self::MessageTooLarge(_)
            | Self::LineTooLong(_)
            | Self::BareCr
            | Self::Nul
            | Self::BareLf
            | Self::EarlyTalker
            | Self::CustomerSlow
            | Self::TooManyMessages
            | Self::CustomerIdle
            | Self::SessionTooLong
            | Self::ChunkUnreadable
            | Self::CustomerOverload
            | Self::Blocked
            | Self::TooManyErrors => Side::Customer,
            Self::SpoolFull | Self::Overload | Self::BuffersFull | Self::Stopping => Side::Agent,
        }
    }

    /// What the customer is told. `about` is the destination's address or the message's id.
    pub fn reply(self, about: &dyn fmt::Display) -> Reply {
        let (code, status) = self.code_and_status();
        Reply::enhanced(code, status, format!("{self} ({about})"))
    }

    fn code_and_status(self) -> (u16, &'static str) {
        match self {
            Self::Connect(Cause::Exhausted) | Self::Overload | Self::BuffersFull | Self::Stopping => {
                (421, "4.3.2")
            }
            Self::Connect(_) => (421, "4.4.1"),
            Self::DestinationLost
            | Self::DestinationSilent
            | Self::CustomerIdle
            | Self::CustomerSlow
            | Self::SessionTooLong => (421, "4.4.2"),
            Self::TooManyMessages => (421, "4.5.3"),
            Self::EarlyTalker => (554, "5.5.1"),
            Self::DestinationGarbage => (421, "4.5.0"),
            Self::TooManyErrors | Self::CustomerOverload => (421, "4.7.0"),
            Self::Blocked => (421, "4.7.1"),
            Self::ChunkUnreadable => (421, "4.5.2"),
            Self::FilterUnavailable
            | Self::FilterFailed
            | Self::FilterBusy
            | Self::FilterSilent
            | Self::Suspect
            | Self::Suspected => (451, "4.7.1"),
            Self::SpoolFull => (452, "4.3.1"),
            Self::MessageTooLarge(_) => (552, "5.3.4"),
            Self::LineTooLong(_) | Self::BareCr | Self::BareLf | Self::Nul => (550, "5.6.0"),
            Self::FilterLacks(_) => (554, "5.6.3"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(cause) => write!(f, "destination not reached: {cause}"),
            Self::DestinationLost => f.write_str("destination closed the connection"),
            Self::DestinationSilent => f.write_str("destination did not answer in time"),
            Self::DestinationGarbage => f.write_str("destination sent what is no SMTP reply"),
            Self::FilterUnavailable => f.write_str("mail filter not available, try later"),
            Self::FilterFailed => f.write_str("mail filter failed, try later"),
            Self::FilterBusy => f.write_str("mail filter has too much to do, try later"),
            Self::FilterSilent => f.write_str("mail filter gave no verdict in time, try later"),
            Self::Suspect => f.write_str("mail filter failed twice on this message, try later"),
            Self::Suspected => {
                f.write_str("mail filter failed on earlier messages of this customer, try later")
            }
            Self::SpoolFull => f.write_str("no space for the message, try later"),
            Self::MessageTooLarge(limit) => write!(f, "message larger than {limit} octets"),
            Self::LineTooLong(limit) => write!(f, "message has a line longer than {limit} octets"),
            Self::FilterLacks(what) => write!(f, "mail filter does not take {what}"),
            Self::Nul => f.write_str("message has a NUL (RFC 5322 section 4.1)"),
            Self::BareCr => f.write_str("message has a CR without LF (RFC 5321 section 2.3.8)"),
            Self::BareLf => f.write_str("message has an LF without CR (RFC 5321 section 2.3.8)"),
            Self::EarlyTalker => f.write_str("spoke before it was asked to"),
            Self::CustomerSlow => f.write_str("message received too slowly"),
            Self::TooManyMessages => f.write_str("too many messages in one session, open another"),
            Self::CustomerIdle => f.write_str("nothing received for too long"),
            Self::SessionTooLong => f.write_str("session open for too long"),
            Self::TooManyErrors => f.write_str("too many errors"),
            Self::ChunkUnreadable => f.write_str("size of a chunk cannot be read (RFC 3030 section 2)"),
            Self::CustomerOverload => f.write_str("too many connections from you, try later"),
            Self::Overload => f.write_str("too many connections, try later"),
            Self::BuffersFull => f.write_str("too much mail under way, try later"),
            Self::Stopping => f.write_str("service is stopping, try again"),
            Self::Blocked => f.write_str("your mail is blocked by your provider"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_trying_again_cannot_mend_is_permanent() {
        for failure in [
            Failure::Connect(Cause::Refused),
            Failure::DestinationLost,
            Failure::FilterUnavailable,
            Failure::Suspect,
            Failure::SpoolFull,
            Failure::Stopping,
        ] {
            assert_eq!(failure.reply(&"x").code() / 100, 4, "{failure}");
            assert_ne!(failure.side(), Side::Customer);
        }
        let reply = Failure::MessageTooLarge(10).reply(&"id-1");
        assert_eq!(reply.to_bytes(), b"552 5.3.4 message larger than 10 octets (id-1)\r\n");
    }
}

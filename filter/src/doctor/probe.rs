//! Messages whose outcome is known.

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use weir_smtp::data::Findings;
use weir_smtp::envelope::{Envelope, Mailbox, Path};

use crate::body::Body;
use crate::message::{Customer, Message, Transaction};
use crate::scan::received;

/// Of a network that nobody has (RFC 5737), with names that nobody has (RFC 2606).
const CUSTOMER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// SpamAssassin's and rspamd's test for spam. In two pieces, as below, lest scanners take this program for what it looks for.
const GTUBE: [&str; 2] = ["XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"];

/// The test file of virus engines.
const EICAR: [&str; 2] = [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"];

/// Which a scanner has to find, or nothing in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Harmless,
    Spam,
    Virus,
}

pub(super) fn message(kind: Kind) -> Message {
    let [first, second] = match kind {
        Kind::Harmless => ["This is a test of weir-filter's doctor, ", "and harmless."],
        Kind::Spam => GTUBE,
        Kind::Virus => EICAR,
    };
    let text = format!(
        "From: <doctor@weir.example>\r\n\
         To: <doctor@weir.example>\r\n\
         Subject: test of a scanner\r\n\
         Message-ID: <doctor@weir.example>\r\n\
         Date: {}\r\n\
         \r\n\
         {first}{second}\r\n",
        received::date(SystemTime::now())
    );
    let mailbox = || Mailbox { path: Path::new(&b"doctor@weir.example"[..]), parameters: Vec::new() };
    let mut envelope = Envelope::new(mailbox());
    envelope.recipients.push(mailbox());
    let customer = Customer {
        address: IpAddr::V4(CUSTOMER),
        port: None,
        helo: Some("weir.example".into()),
        protocol: None,
        destination: None,
    };
    let findings = Findings { size: text.len() as u64, ..Findings::default() };
    let transaction = Transaction { id: "doctor".into(), customer, envelope, findings };
    Message { transaction, body: Body::Memory(text.into()) }
}

//! Parameters of MAIL and RCPT that the announced extensions define.

use weir_smtp::envelope::Mailbox;

/// SIZE (RFC 1870), 8BITMIME (RFC 6152), BINARYMIME (RFC 3030), SMTPUTF8 (RFC 6531), DSN (RFC 3461).
const MAIL: [&str; 5] = ["SIZE", "BODY", "SMTPUTF8", "RET", "ENVID"];
const RCPT: [&str; 2] = ["NOTIFY", "ORCPT"];

pub(super) fn unknown_in_mail(sender: &Mailbox) -> Option<String> {
    unknown(sender, &MAIL)
}

pub(super) fn unknown_in_rcpt(recipient: &Mailbox) -> Option<String> {
    unknown(recipient, &RCPT)
}

fn unknown(mailbox: &Mailbox, known: &[&str]) -> Option<String> {
    let mut parameters = mailbox.parameters.iter();
    let unknown = parameters.find(|parameter| !known.iter().any(|keyword| parameter.is(keyword)))?;
    Some(String::from_utf8_lossy(unknown.as_bytes()).chars().take(64).collect())
}

//! Commands (RFC 5321 section 4.1): which verb, and for MAIL and RCPT which path and parameters.

use crate::envelope::{Mailbox, Parameter, Path};

/// One command line, understood as far as a relay must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Ehlo(Vec<u8>),
    Helo(Vec<u8>),
    Mail(Mailbox),
    Rcpt(Mailbox),
    Data,
    /// `size` octets follow the line, whatever the answer.
    Bdat {
        size: u64,
        last: bool,
    },
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    StartTls,
    Auth,
    Etrn,
    Turn,
    Xclient(Vec<u8>),
    Xforward(Vec<u8>),
    Unknown(Vec<u8>),
}

/// A known verb with arguments that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("{verb} needs {wanted}")]
    Syntax { verb: &'static str, wanted: &'static str },
}

impl Command {
    /// `line` is without its end.
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        let end = line.iter().position(|octet| is_space(*octet)).unwrap_or(line.len());
        let (verb, rest) = line.split_at(end);
        let rest = rest.trim_ascii();
        let command = match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" => Self::Ehlo(argument("EHLO", "a domain or address literal", rest)?),
            b"HELO" => Self::Helo(argument("HELO", "a domain or address literal", rest)?),
            b"MAIL" => Self::Mail(mailbox("MAIL", b"FROM:", "FROM:<address>", rest)?),
            b"RCPT" => Self::Rcpt(mailbox("RCPT", b"TO:", "TO:<address>", rest)?),
            b"BDAT" => bdat(rest)?,
            b"DATA" => bare("DATA", Self::Data, rest)?,
            b"RSET" => bare("RSET", Self::Rset, rest)?,
            b"QUIT" => bare("QUIT", Self::Quit, rest)?,
            b"NOOP" => Self::Noop,
            b"VRFY" => Self::Vrfy,
            b"EXPN" => Self::Expn,
            b"HELP" => Self::Help,
            b"STARTTLS" => Self::StartTls,
            b"AUTH" => Self::Auth,
            b"ETRN" => Self::Etrn,
            b"TURN" | b"ATRN" => Self::Turn,
            b"XCLIENT" => Self::Xclient(rest.to_vec()),
            b"XFORWARD" => Self::Xforward(rest.to_vec()),
            _ => Self::Unknown(verb.to_vec()),
        };
        Ok(command)
    }
}

fn is_space(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

fn argument(verb: &'static str, wanted: &'static str, rest: &[u8]) -> Result<Vec<u8>, CommandError> {
    if rest.is_empty() { Err(CommandError::Syntax { verb, wanted }) } else { Ok(rest.to_vec()) }
}

fn bare(verb: &'static str, command: Command, rest: &[u8]) -> Result<Command, CommandError> {
    if rest.is_empty() { Ok(command) } else { Err(CommandError::Syntax { verb, wanted: "no argument" }) }
}

fn bdat(rest: &[u8]) -> Result<Command, CommandError> {
    let error = CommandError::Syntax { verb: "BDAT", wanted: "a chunk size, and perhaps LAST" };
    let mut words = rest.split(|octet| is_space(*octet)).filter(|word| !word.is_empty());
    let size = words.next().filter(|word| word.iter().all(u8::is_ascii_digit)).ok_or(error)?;
    let size = std::str::from_utf8(size).ok().and_then(|digits| digits.parse().ok()).ok_or(error)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return Err(error),
    };
    if words.next().is_some() { Err(error) } else { Ok(Command::Bdat { size, last }) }
}

/// `FROM:<path> parameters`. Spaces after the colon and a path without brackets are common enough
/// to be understood; a path ends where its brackets say, quoted strings respected.
fn mailbox(
    verb: &'static str,
    label: &[u8],
    wanted: &'static str,
    rest: &[u8],
) -> Result<Mailbox, CommandError> {
    let error = CommandError::Syntax { verb, wanted };
    let labelled = rest.split_at_checked(label.len()).filter(|(head, _)| head.eq_ignore_ascii_case(label));
    let rest = labelled.ok_or(error)?.1.trim_ascii_start();
    let (path, tail) = split_path(rest).ok_or(error)?;
    if !tail.first().is_none_or(|octet| is_space(*octet)) {
        return Err(error);
    }
    let words = tail.split(|octet| is_space(*octet)).filter(|word| !word.is_empty());
    let parameters = words.map(Parameter::parse).collect::<Option<Vec<_>>>().ok_or(error)?;
    let said_before = |(at, parameter): (usize, &Parameter)| {
        parameters[..at].iter().any(|before| before.keyword().eq_ignore_ascii_case(parameter.keyword()))
    };
    if parameters.iter().enumerate().any(said_before) {
        return Err(CommandError::Syntax { verb, wanted: "each parameter once" });
    }
    Ok(Mailbox { path: Path::new(path), parameters })
}

fn split_path(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(inner) = text.strip_prefix(b"<") else {
        let end = text.iter().position(|octet| is_space(*octet)).unwrap_or(text.len());
        let (path, tail) = text.split_at(end);
        let plain = !path.is_empty() && !path.iter().any(|octet| matches!(octet, b'<' | b'>' | b'"' | b'\\'));
        return plain.then_some((path, tail));
    };
    let (mut quoted, mut escaped) = (false, false);
    for (at, octet) in inner.iter().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some((&inner[..at], &inner[at + 1..])),
            b'<' if !quoted => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mail(line: &str) -> Mailbox {
        match Command::parse(line.as_bytes()) {
            Ok(Command::Mail(mailbox) | Command::Rcpt(mailbox)) => mailbox,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn paths_and_parameters_are_kept_as_they_are() {
        let mailbox = mail("mail from:<\"a> b\"@Example.org>  SIZE=10 body=8BITMIME SMTPUTF8");
        assert_eq!(mailbox.path, Path::new("\"a> b\"@Example.org"));
        assert_eq!(mailbox.path.domain().as_deref(), Some("example.org"));
        assert_eq!(mailbox.size(), Some(10));
        assert_eq!(mailbox.parameter("BODY").unwrap().as_bytes(), b"body=8BITMIME");
        assert!(mailbox.parameter("smtputf8").is_some());
        assert!(mail("MAIL FROM:<>").path.is_null());
        assert_eq!(mail("RCPT TO: a@b NOTIFY=NEVER").path, Path::new("a@b"));
        assert_eq!(mail("RCPT TO:<@relay,@other:a@b>").path, Path::new("@relay,@other:a@b"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_a_syntax_error() {
        for line in [
            "MAIL <a@b>",
            "MAIL FROM:",
            "MAIL FROM:<a@b",
            "MAIL FROM:<a@b>SIZE=1",
            "RCPT TO:<a@b> <c@d>",
            "RCPT TO:<a<b>",
            "RCPT TO:a@b>",
            "RCPT TO:<a@b> =x",
            "RCPT TO:<a@b> X=",
            "MAIL FROM:<a@b> BODY=7BIT body=BINARYMIME",
            "DATA now",
            "BDAT",
            "BDAT -1",
            "BDAT 99999999999999999999",
            "BDAT 1 FIRST",
            "BDAT 1 LAST x",
            "EHLO",
        ] {
            assert!(Command::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn verbs() {
        assert_eq!(Command::parse(b"data "), Ok(Command::Data));
        assert_eq!(Command::parse(b"BDAT 86 last"), Ok(Command::Bdat { size: 86, last: true }));
        assert_eq!(Command::parse(b"NOOP anything"), Ok(Command::Noop));
        assert_eq!(Command::parse(b"EHLO mx.example "), Ok(Command::Ehlo(b"mx.example".to_vec())));
        assert_eq!(Command::parse(b"XYZZY a"), Ok(Command::Unknown(b"XYZZY".to_vec())));
        assert_eq!(Command::parse(b""), Ok(Command::Unknown(Vec::new())));
    }

    proptest! {
        #[test]
        fn nothing_panics(line: Vec<u8>) {
            let _ = Command::parse(&line);
        }

        #[test]
        fn a_path_never_holds_what_would_end_it(line in "(MAIL FROM:|RCPT TO:)[<>\"\\\\a@ ,=]{0,16}") {
            if let Ok(Command::Mail(mailbox) | Command::Rcpt(mailbox)) = Command::parse(line.as_bytes()) {
                let mut again = b"MAIL FROM:<".to_vec();
                again.extend_from_slice(mailbox.path.as_bytes());
                again.extend_from_slice(b">");
                for parameter in &mailbox.parameters {
                    again.push(b' ');
                    again.extend_from_slice(parameter.as_bytes());
                }
                prop_assert_eq!(Command::parse(&again), Ok(Command::Mail(mailbox)));
            }
        }
    }
}

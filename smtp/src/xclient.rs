//! XCLIENT: telling a filter node who the customer is.
//!
//! Postfix's XCLIENT_README is the specification: one command of at most 512 octets, `NAME=value` pairs in
//! [xtext](crate::xtext), values of at most 255 octets before encoding. The server resets
//! itself to the state after connect, so everything is said in one command.

use std::net::{IpAddr, SocketAddr};

use crate::xtext;

/// Longest command, its CRLF counted.
pub const MAX_COMMAND: usize = 512;
/// Longest value before it is encoded.
pub const MAX_VALUE: usize = 255;
/// Keyword of a server that takes XCLIENT after XCLIENT, outside of transactions: each begins the session of another
/// customer, and what was said of the one before is forgotten, also if the command is refused: no mail is taken before one is
/// taken. So what follows may be said with it, in one group. weir's own: in keywords that begin with an X the two sides
/// may agree on what they like (RFC 5321 section 2.2.2).
pub const REPEATED: &str = "XCLIENT-REPEATED";
/// A value that is not known.
pub const UNAVAILABLE: &str = "[UNAVAILABLE]";

/// How the customer greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Smtp,
    Esmtp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Smtp => "SMTP",
            Self::Esmtp => "ESMTP",
        }
    }
}

/// Who the customer is and whom he meant to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub customer: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: Protocol,
    pub helo: Vec<u8>,
}

/// The node does not take what it must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("XCLIENT without {0}")]
pub struct NotAnnounced(pub &'static str);

impl Identity {
    /// The command, without CRLF, with the attributes that the node announced behind `XCLIENT`.
    /// Without ADDR all mail would be taken as the agent's own, so that is an error.
    pub fn command(&self, announced: &[u8]) -> Result<String, NotAnnounced> {
        let takes = |name: &str| is_announced(announced, name);
        if !takes("ADDR") {
            return Err(NotAnnounced("ADDR"));
        }
        let with_helo = |helo: &str| {
            let mut command = String::from("XCLIENT");
            for (name, value) in self.attributes(helo) {
                if takes(name) {
                    command.push_str(&format!(" {name}={value}"));
                }
            }
            command
        };
        let command = with_helo(&self.helo_value());
        if command.len() + 2 <= MAX_COMMAND { Ok(command) } else { Ok(with_helo(UNAVAILABLE)) }
    }

    /// The customer's own name as the value of an attribute.
    pub(crate) fn helo_value(&self) -> String {
        let fits = (1..=MAX_VALUE).contains(&self.helo.len());
        if fits { xtext::encode(&self.helo) } else { UNAVAILABLE.into() }
    }

    fn attributes(&self, helo: &str) -> [(&'static str, String); 8] {
        [
            ("NAME", UNAVAILABLE.into()),
            ("REVERSE_NAME", UNAVAILABLE.into()),
            ("ADDR", address(self.customer.ip())),
            ("PORT", self.customer.port().to_string()),
            ("PROTO", self.protocol.name().into()),
            ("HELO", helo.into()),
            ("DESTADDR", address(self.destination.ip())),
            ("DESTPORT", self.destination.port().to_string()),
        ]
    }
}

/// Is `name` among the attributes behind a keyword of EHLO?
pub(crate) fn is_announced(announced: &[u8], name: &str) -> bool {
    announced.split(|octet| *octet == b' ').any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
}

/// `10.1.0.2` or `IPV6:fd01::2`.
pub(crate) fn address(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("IPV6:{address}"),
    }
}

/// The value of an attribute, as a server reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Unavailable,
    Text(Vec<u8>),
}

/// Why the arguments of XCLIENT or XFORWARD are refused with 501.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    #[error("attributes are missing")]
    Missing,
    #[error("attribute {0}: NAME=value in xtext expected")]
    Malformed(String),
    #[error("attribute {0}: value longer than {MAX_VALUE} octets")]
    TooLong(String),
    #[error("attribute {0} is not known here")]
    Unknown(String),
    #[error("attribute {0}: bad value")]
    Value(&'static str),
}

/// Splits `NAME=value NAME=value`; names come back in upper case. For XCLIENT and XFORWARD.
pub fn split_attributes(arguments: &[u8]) -> Result<Vec<(String, Value)>, AttributeError> {
    let words = arguments.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
    let attributes = words.map(split_attribute).collect::<Result<Vec<_>, _>>()?;
    if attributes.is_empty() { Err(AttributeError::Missing) } else { Ok(attributes) }
}

fn split_attribute(word: &[u8]) -> Result<(String, Value), AttributeError> {
    let malformed = || AttributeError::Malformed(word.escape_ascii().to_string());
    let at = memchr::memchr(b'=', word).ok_or_else(malformed)?;
    let (name, value) = (&word[..at], &word[at + 1..]);
    let name = String::from_utf8(name.to_ascii_uppercase()).map_err(|_| malformed())?;
    if value.eq_ignore_ascii_case(UNAVAILABLE.as_bytes()) || value.eq_ignore_ascii_case(b"[TEMPUNAVAIL]") {
        return Ok((name, Value::Unavailable));
    }
    match xtext::decode(value).filter(|text| !text.is_empty()) {
        None => Err(malformed()),
        Some(text) if text.len() > MAX_VALUE => Err(AttributeError::TooLong(name)),
        Some(text) => Ok((name, Value::Text(text))),
    }
}

/// What one XCLIENT command said. Attributes that it did not name are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xclient {
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    pub protocol: Option<Protocol>,
    pub helo: Option<Vec<u8>>,
    pub destination_address: Option<IpAddr>,
    pub destination_port: Option<u16>,
}

/// The attributes that [`Xclient::parse`] takes, as announced in EHLO.
pub const ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO DESTADDR DESTPORT";

impl Xclient {
    pub fn parse(arguments: &[u8]) -> Result<Self, AttributeError> {
        let mut said = Self::default();
        for (name, value) in split_attributes(arguments)? {
            let text = match value {
                Value::Unavailable => None,
                Value::Text(text) => Some(text),
            };
            match (name.as_str(), text) {
                ("ADDR", Some(text)) => said.address = Some(parse_address("ADDR", &text)?),
                ("PORT", Some(text)) => said.port = Some(parse("PORT", &text)?),
                ("PROTO", Some(text)) => said.protocol = Some(parse_protocol(&text)?),
                ("HELO", Some(text)) => said.helo = Some(text),
                ("DESTADDR", Some(text)) => {
                    said.destination_address = Some(parse_address("DESTADDR", &text)?);
                }
                ("DESTPORT", Some(text)) => said.destination_port = Some(parse("DESTPORT", &text)?),
                ("NAME", _) | ("ADDR" | "PORT" | "PROTO" | "HELO" | "DESTADDR" | "DESTPORT", None) => {}
                _ => return Err(AttributeError::Unknown(name)),
            }
        }
        Ok(said)
    }
}

fn parse<T: std::str::FromStr>(name: &'static str, text: &[u8]) -> Result<T, AttributeError> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok()).ok_or(AttributeError::Value(name))
}

fn parse_address(name: &'static str, text: &[u8]) -> Result<IpAddr, AttributeError> {
    let is_v6 = text.split_at_checked(5).filter(|(head, _)| head.eq_ignore_ascii_case(b"IPV6:"));
    match is_v6 {
        Some((_, text)) => parse(name, text).map(IpAddr::V6),
        None => parse(name, text).map(IpAddr::V4),
    }
}

fn parse_protocol(text: &[u8]) -> Result<Protocol, AttributeError> {
    [Protocol::Smtp, Protocol::Esmtp]
        .into_iter()
        .find(|protocol| text.eq_ignore_ascii_case(protocol.name().as_bytes()))
        .ok_or(AttributeError::Value("PROTO"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(helo: &[u8]) -> Identity {
        Identity {
            customer: "10.1.0.2:40001".parse().unwrap(),
            destination: "[fd02::2]:25".parse().unwrap(),
            protocol: Protocol::Esmtp,
            helo: helo.to_vec(),
        }
    }

    #[test]
    fn what_is_announced_is_said_in_one_command() {
        let postfix = b"NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT";
        assert_eq!(
            identity(b"mail+1.example").command(postfix).unwrap(),
            "XCLIENT NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE] ADDR=10.1.0.2 PORT=40001 PROTO=ESMTP \
             HELO=mail+2B1.example DESTADDR=IPV6:fd02::2 DESTPORT=25"
        );
        assert_eq!(identity(b"x").command(b"addr helo").unwrap(), "XCLIENT ADDR=10.1.0.2 HELO=x");
        assert_eq!(identity(b"x").command(b"NAME PORT"), Err(NotAnnounced("ADDR")));
    }

    #[test]
    fn a_helo_that_does_not_fit_is_unavailable() {
        for helo in [vec![b'a'; 256], vec![b'+'; 200], vec![]] {
            let command = identity(&helo).command(ATTRIBUTES.as_bytes()).unwrap();
            assert!(command.contains(" HELO=[UNAVAILABLE] ") && command.len() <= MAX_COMMAND - 2);
        }
    }

    #[test]
    fn bad_attributes_are_refused() {
        for bad in [
            "",
            "ADDR",
            "ADDR=",
            "ADDR=fd02::2",
            "ADDR=IPV6:10.1.0.2",
            "ADDR=10.1.0",
            "PORT=65536",
            "PROTO=LMTP",
            "LOGIN=me",
            "HELO=a=b",
            "HELO=a+b",
            "FOO=1",
        ] {
            assert!(Xclient::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = format!("HELO={}", "a".repeat(256));
        assert_eq!(Xclient::parse(long.as_bytes()), Err(AttributeError::TooLong("HELO".into())));
    }

    proptest! {
        #[test]
        fn the_node_reads_what_the_agent_said(helo in proptest::collection::vec(any::<u8>(), 1..120), port: u16, v6: u128, v4: u32) {
            let identity = Identity {
                customer: SocketAddr::new(IpAddr::V6(v6.into()), port),
                destination: SocketAddr::new(IpAddr::V4(v4.into()), 25),
                protocol: Protocol::Smtp,
                helo: helo.clone(),
            };
            let command = identity.command(ATTRIBUTES.as_bytes()).unwrap();
            let said = Xclient::parse(&command.as_bytes()["XCLIENT ".len()..]).unwrap();
            prop_assert_eq!(said.address.unwrap(), IpAddr::V6(v6.into()).to_canonical());
            prop_assert_eq!(said.destination_address.unwrap(), identity.destination.ip());
            prop_assert_eq!((said.port, said.destination_port), (Some(port), Some(25)));
            prop_assert_eq!(said.protocol, Some(Protocol::Smtp));
            if let Some(said) = said.helo {
                prop_assert_eq!(said, helo);
            } else {
                prop_assert!(command.contains("HELO=[UNAVAILABLE]"));
            }
        }

        #[test]
        fn nothing_panics(arguments: Vec<u8>) {
            let _ = Xclient::parse(&arguments);
        }
    }
}

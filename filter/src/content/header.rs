//! The header of a message or of a part.

use std::ops::Range;

use bytes::Bytes;
use mail_parser::MessageParser;

/// Fields that are looked at; further ones are as if they were not there.
const MAX_FIELDS: usize = 2000;

/// Octets of a field that are decoded.
const MAX_VALUE: usize = 64 * 1024;

/// A mailbox, as in `From: Name <address>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address {
    pub name: Option<String>,
    pub address: Option<String>,
}

/// The fields of a header, in their order.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    raw: Bytes,
    fields: Vec<Field>,
}

#[derive(Debug, Clone)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

impl Headers {
    /// The header in front of a message.
    pub fn of(message: &Bytes) -> Self {
        Self::split(message).0
    }

    /// Takes the header from the front of `entity`. The rest is its body.
    pub(super) fn split(entity: &Bytes) -> (Self, Bytes) {
        let mut fields: Vec<Field> = Vec::new();
        let mut at = 0;
        let mut folds = false;
        while at < entity.len() {
            let end = memchr::memchr(b'\n', &entity[at..]).map_or(entity.len(), |length| at + length + 1);
            let line = trim_end(&entity[at..end]);
            if line.is_empty() {
                at = end;
                break;
            }
            if matches!(line[0], b' ' | b'\t') {
                if let Some(last) = fields.last_mut().filter(|_| folds) {
                    last.value.end = at + line.len();
                }
            } else if let Some(colon) = memchr::memchr(b':', line).filter(|_| fields.len() < MAX_FIELDS) {
                let name = at..at + line[..colon].trim_ascii_end().len();
                fields.push(Field { name, value: at + colon + 1..at + line.len() });
                folds = true;
            } else {
                folds = false;
            }
            at = end;
        }
        (Self { raw: entity.slice(..at), fields }, entity.slice(at..))
    }

    /// The names of the fields, as they were written.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().map(|field| &self.raw[field.name.clone()])
    }

    /// The fields called `name`, from the first to the last, as they came: folded, and with their encoded words.
    pub fn raw<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        let mine = move |field: &&Field| self.raw[field.name.clone()].eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().filter(mine).map(|field| self.raw[field.value.clone()].trim_ascii())
    }

    /// The first field called `name`, as it reads: unfolded, its encoded words (RFC 2047) decoded.
    pub fn get(&self, name: &str) -> Option<String> {
        self.raw(name).next().map(decoded)
    }

    pub fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = String> + 'h {
        self.raw(name).map(decoded)
    }

    pub fn subject(&self) -> Option<String> {
        self.get("Subject")
    }

    /// The first mailbox of `From`.
    pub fn from(&self) -> Option<Address> {
        let field = one_field("From", self.raw("From").next()?);
        let header = MessageParser::new().parse_headers(&field)?;
        let first = header.from()?.first()?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Address { name: owned(first.name()), address: owned(first.address()) })
    }

    /// With its angle brackets off.
    pub fn message_id(&self) -> Option<String> {
        let raw = String::from_utf8_lossy(&unfolded(self.raw("Message-ID").next()?)).into_owned();
        let inner = raw.split_once('<').map_or(raw.as_str(), |(_, rest)| rest);
        let id = inner.split_once('>').map_or(inner, |(id, _)| id).trim();
        (!id.is_empty()).then(|| id.to_owned())
    }

    /// Which script of a web server made the message; the sender can write what he likes.
    pub fn php_script(&self) -> Option<String> {
        self.get("X-PHP-Originating-Script")
    }

    pub fn octets(&self) -> usize {
        self.raw.len()
    }
}

/// A field with parameters: `Content-Type`, `Content-Disposition`.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters {
    /// In small letters: `text/plain`, `attachment`.
    pub(super) value: String,
    parameters: Vec<(String, String)>,
}

impl Parameters {
    pub(super) fn read(raw: &[u8]) -> Self {
        let field = one_field("Content-Type", raw);
        let header = MessageParser::new().with_mime_headers().parse_headers(&field);
        let read = header.as_ref().and_then(|header| header.header("Content-Type")?.as_content_type());
        let Some(read) = read else { return Self::default() };
        let value = match read.subtype() {
            Some(subtype) => format!("{}/{subtype}", read.ctype()),
            None => read.ctype().to_owned(),
        };
        let parameters = read.attributes().unwrap_or_default().iter();
        let parameters =
            parameters.map(|one| (one.name.to_ascii_lowercase(), one.value.to_string())).collect();
        Self { value: value.to_ascii_lowercase(), parameters }
    }

    pub(super) fn get<'p>(&'p self, name: &'p str) -> Option<&'p str> {
        self.all(name).next()
    }

    pub(super) fn all<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> {
        self.parameters.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn decoded(raw: &[u8]) -> String {
    let field = one_field("Subject", raw);
    let header = MessageParser::new().with_minimal_headers().parse_headers(&field);
    header.and_then(|header| header.subject().map(str::to_owned)).unwrap_or_default()
}

/// A header of one field that is not folded.
fn one_field(name: &str, value: &[u8]) -> Vec<u8> {
    let value = unfolded(&value[..value.len().min(MAX_VALUE)]);
    [name.as_bytes(), b": ", &value, b"\r\n\r\n"].concat()
}

/// Without its line ends (RFC 5322 section 2.2.3).
fn unfolded(value: &[u8]) -> Vec<u8> {
    value.iter().copied().filter(|octet| !b"\r\n".contains(octet)).collect()
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

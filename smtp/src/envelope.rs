//! What MAIL and RCPT say (RFC 5321 section 4.1.2), octet by octet: weir judges paths and parameters, it
//! never rewrites them.

use std::fmt;

/// Reverse-path or forward-path: what stands between `<` and `>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Path(Vec<u8>);

impl Path {
    pub fn new(text: impl Into<Vec<u8>>) -> Self {
        Self(text.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The null reverse-path `<>` of bounces.
    pub fn is_null(&self) -> bool {
        self.0.is_empty()
    }

    /// What follows the last `@`, in lower case.
    pub fn domain(&self) -> Option<String> {
        let at = memchr::memrchr(b'@', &self.0)?;
        let domain = String::from_utf8_lossy(&self.0[at + 1..]).to_lowercase();
        (!domain.is_empty()).then_some(domain)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", String::from_utf8_lossy(&self.0))
    }
}

/// `KEYWORD` or `KEYWORD=value`.
#[derive(Clone, PartialEq, Eq)]
pub struct Parameter {
    text: Vec<u8>,
}

impl Parameter {
    /// `None`: the keyword is not one (RFC 5321 section 4.1.2, esmtp-keyword), or the value is empty.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let parameter = Self { text: text.to_vec() };
        let keyword = parameter.keyword();
        let named = keyword.first().is_some_and(u8::is_ascii_alphanumeric)
            && keyword.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-');
        (named && parameter.value() != Some(b"")).then_some(parameter)
    }

    pub fn keyword(&self) -> &[u8] {
        self.text.split(|octet| *octet == b'=').next().unwrap_or_default()
    }

    pub fn value(&self) -> Option<&[u8]> {
        memchr::memchr(b'=', &self.text).map(|at| &self.text[at + 1..])
    }

    pub fn is(&self, keyword: &str) -> bool {
        self.keyword().eq_ignore_ascii_case(keyword.as_bytes())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

/// A path and the parameters that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    pub path: Path,
    pub parameters: Vec<Parameter>,
}

impl Mailbox {
    pub fn parameter(&self, keyword: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.is(keyword))
    }

    /// The number in `SIZE=` (RFC 1870).
    pub fn size(&self) -> Option<u64> {
        let digits = self.parameter("SIZE")?.value()?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Whether the body is declared to be anything but lines (RFC 3030 section 3).
    pub fn is_binary(&self) -> bool {
        let declared = self.parameter("BODY").and_then(Parameter::value);
        declared.is_some_and(|value| value.eq_ignore_ascii_case(b"BINARYMIME"))
    }
}

/// Who sends a message, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub sender: Mailbox,
    pub recipients: Vec<Mailbox>,
}

impl Envelope {
    pub fn new(sender: Mailbox) -> Self {
        Self { sender, recipients: Vec::new() }
    }
}

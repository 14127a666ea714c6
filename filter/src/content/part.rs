//! One part of a message, decoded.

use std::borrow::Cow;

use bytes::Bytes;
use mail_parser::decoders::charsets::map::charset_decoder;

/// A leaf of the message's structure.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Where it is: `1.2` is the second part of the first.
    pub path: String,
    /// What the sender says it is, in small letters: `application/pdf`.
    pub media: String,
    /// Every name that a reader could give it, the likeliest first.
    pub names: Vec<String>,
    /// To be kept apart from the text, as the sender says.
    pub attachment: bool,
    pub(super) charset: Option<String>,
    pub data: Bytes,
    /// Its encoding is not kept to, so that readers will differ about its data.
    pub broken: bool,
}

impl Part {
    pub fn name(&self) -> Option<&str> {
        self.names.first().map(String::as_str)
    }

    pub fn is_text(&self) -> bool {
        self.media.starts_with("text/")
    }

    /// Text that is read as the message itself, not a file.
    pub fn is_body(&self) -> bool {
        self.is_text() && !self.attachment && self.names.is_empty()
    }

    /// Its first `limit` octets as text, by its character set. What cannot be read is replaced.
    pub fn text(&self, limit: usize) -> Cow<'_, str> {
        let octets = &self.data[..self.data.len().min(limit)];
        let name = self.charset.as_deref().unwrap_or_default();
        match charset_decoder(name.as_bytes()) {
            Some(decode) if !name.eq_ignore_ascii_case("utf-8") => Cow::Owned(decode(octets)),
            _ => String::from_utf8_lossy(octets),
        }
    }
}

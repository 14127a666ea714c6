//! Replies (RFC 5321 section 4.2): a code, one or more lines of text, perhaps an enhanced status code
//! (RFC 3463). Text is kept octet by octet, so that a reply is passed on as it came.

use std::fmt;

use crate::line::{LineDecoder, LineError};

/// A complete reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    lines: Vec<Vec<u8>>,
}

/// What the first digit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Positive,
    Intermediate,
    Transient,
    Permanent,
}

impl Reply {
    /// A reply of our own. `text` may hold several lines; anything that is not printable becomes `?`.
    pub fn new(code: u16, text: impl AsRef<str>) -> Self {
        let lines = text.as_ref().lines().map(printable).collect::<Vec<_>>();
        Self { code, lines: if lines.is_empty() { vec![Vec::new()] } else { lines } }
    }

    /// A reply of our own with an enhanced status code on each line.
    pub fn enhanced(code: u16, status: &str, text: impl AsRef<str>) -> Self {
        let text: Vec<String> = text.as_ref().lines().map(|line| format!("{status} {line}")).collect();
        Self::new(code, text.join("\n"))
    }

    /// A reply with lines as they are, for instance an EHLO answer with fewer keywords.
    /// `None` without a line.
    pub fn from_lines(code: u16, lines: Vec<Vec<u8>>) -> Option<Self> {
        (!lines.is_empty()).then_some(Self { code, lines })
    }

    pub fn code(&self) -> u16 {
        self.code
    }

    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(Vec::as_slice)
    }

    pub fn severity(&self) -> Severity {
        match self.code / 100 {
            2 => Severity::Positive,
            3 => Severity::Intermediate,
            4 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }

    pub fn is_positive(&self) -> bool {
        self.severity() == Severity::Positive
    }

    /// 4xx or 5xx.
    pub fn is_refusal(&self) -> bool {
        matches!(self.severity(), Severity::Transient | Severity::Permanent)
    }

    /// The reply as sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = self.lines.iter().map(|line| line.len() + 6).sum();
        let mut bytes = Vec::with_capacity(size);
        for (index, line) in self.lines.iter().enumerate() {
            let separator = if index + 1 < self.lines.len() { b'-' } else { b' ' };
            bytes.extend_from_slice(self.code.to_string().as_bytes());
            bytes.push(separator);
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }
}

/// On one line, for logs.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        for line in &self.lines {
            write!(f, " {}", String::from_utf8_lossy(line).trim_end())?;
        }
        Ok(())
    }
}

fn printable(line: &str) -> Vec<u8> {
    line.chars()
        .map(|c| if c == '\t' || c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .collect::<String>()
        .into_bytes()
}

/// Why what a server sent is no reply. After one of these nothing more can be read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("not a reply: a line must start with a code of three digits, 200 to 599")]
    NoCode,
    #[error("lines of one reply carry the codes {first} and {other}")]
    CodesDiffer { first: u16, other: u16 },
    #[error("reply longer than {limit} lines")]
    TooManyLines { limit: usize },
    #[error("reply {0}")]
    Line(#[from] LineError),
}

/// Bounds on what a server may send as one reply.
#[derive(Debug, Clone, Copy)]
pub struct ReplyLimits {
    pub line: usize,
    pub lines: usize,
}

impl Default for ReplyLimits {
    /// RFC 5321 section 4.5.3.1.5 allows 512 octets a line; real servers send longer ones.
    fn default() -> Self {
        Self { line: 4096, lines: 128 }
    }
}

/// Reads replies from a stream of chunks.
#[derive(Debug)]
pub struct ReplyDecoder {
    decoder: LineDecoder,
    limits: ReplyLimits,
    code: u16,
    lines: Vec<Vec<u8>>,
}

impl ReplyDecoder {
    pub fn new(limits: ReplyLimits) -> Self {
        Self { decoder: LineDecoder::new(limits.line), limits, code: 0, lines: Vec::new() }
    }

    /// Takes octets from the front of `input` up to the end of the next reply. `None`: all was taken.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Result<Reply, ReplyError>> {
        loop {
            let line = match self.decoder.next(input)? {
                Ok(line) => line.text,
                Err(error) => return Some(Err(error.into())),
            };
            match self.add(&line) {
                Ok(true) => {
                    let lines = std::mem::take(&mut self.lines);
                    return Some(Ok(Reply { code: self.code, lines }));
                }
                Ok(false) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Whether a reply has begun but not ended.
    pub fn is_inside(&self) -> bool {
        !self.lines.is_empty() || !self.decoder.held().is_empty()
    }

    /// Octets of a reply that has begun but not ended.
    pub fn held(&self) -> usize {
        self.lines.iter().map(Vec::len).sum::<usize>() + self.decoder.held().len()
    }

    /// `true`: that was the last line.
    fn add(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let (code, rest) = split_code(line).ok_or(ReplyError::NoCode)?;
        if self.lines.is_empty() {
            self.code = code;
        } else if self.code != code {
            return Err(ReplyError::CodesDiffer { first: self.code, other: code });
        }
        if self.lines.len() >= self.limits.lines {
            return Err(ReplyError::TooManyLines { limit: self.limits.lines });
        }
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyError::NoCode),
        };
        self.lines.push(text.to_vec());
        Ok(last)
    }
}

fn split_code(line: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0u16, |code, digit| code * 10 + u16::from(digit - b'0'));
    (200..600).contains(&code).then_some((code, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(chunks: &[&[u8]]) -> Vec<Result<Reply, ReplyError>> {
        let mut decoder = ReplyDecoder::new(ReplyLimits { line: 40, lines: 3 });
        let mut replies = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(reply) = decoder.next(&mut input) {
                let failed = reply.is_err();
                replies.push(reply);
                if failed {
                    return replies;
                }
            }
        }
        replies
    }

    #[test]
    fn a_reply_is_passed_on_as_it_came() {
        let wire = b"250-mx.example says 8-bit \xe9\r\n250-SIZE 100\r\n250 \r\n";
        let replies = all(&[wire]);
        let Ok(reply) = &replies[0] else { panic!("{replies:?}") };
        assert_eq!(reply.to_bytes(), wire);
        assert_eq!(reply.code(), 250);
        assert_eq!(replies.len(), 1);
    }

    #[test]
    fn a_bare_code_is_a_reply() {
        let replies = all(&[b"250\r\n"]);
        assert_eq!(replies[0].as_ref().unwrap().to_bytes(), b"250 \r\n");
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        assert_eq!(all(&[b"hello\r\n"]), [Err(ReplyError::NoCode)]);
        assert_eq!(all(&[b"250x\r\n"]), [Err(ReplyError::NoCode)]);
        assert_eq!(all(&[b"150 no\r\n"]), [Err(ReplyError::NoCode)]);
        assert_eq!(all(&[b"250-a\r\n550 b\r\n"]), [Err(ReplyError::CodesDiffer { first: 250, other: 550 })]);
        assert_eq!(
            all(&[b"250-a\r\n250-b\r\n250-c\r\n250 d\r\n"]),
            [Err(ReplyError::TooManyLines { limit: 3 })]
        );
        assert!(matches!(all(&[&[b'2'; 41][..], b"\n"])[0], Err(ReplyError::Line(_))));
    }

    #[test]
    fn our_own_text_cannot_break_the_reply() {
        let reply = Reply::enhanced(550, "5.7.1", "first\nsecond\r\u{7f}é");
        assert_eq!(reply.to_bytes(), b"550-5.7.1 first\r\n550 5.7.1 second???\r\n");
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same_replies(
            lines in proptest::collection::vec("(250|550|25x|)[ -]?[a-z\r]{0,5}\r?\n", 0..8),
            cut in 0usize..60,
        ) {
            let input = lines.concat().into_bytes();
            let cut = cut.min(input.len());
            let whole = all(&[&input]);
            prop_assert_eq!(&all(&[&input[..cut], &input[cut..]]), &whole);
            let octets: Vec<&[u8]> = input.chunks(1).collect();
            prop_assert_eq!(&all(&octets), &whole);
        }
    }
}

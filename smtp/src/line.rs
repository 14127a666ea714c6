//! Lines of commands and replies.
//!
//! RFC 5321 section 2.3.8: a line ends with CRLF, and nothing else does. Clients exist that end a
//! command with a bare LF; such a line is accepted, and whoever passes it on writes CRLF. A CR that
//! no LF follows, a NUL and every other control character make the line unusable: a receiver could
//! see another line end in it.

use memchr::memchr;

/// One line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub text: Vec<u8>,
    /// The line ended with LF alone.
    pub bare_lf: bool,
}

/// Why a line cannot be used. The decoder goes on with the next line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("line longer than {limit} octets")]
    TooLong { limit: usize, start: Start },
    #[error("control character 0x{octet:02x} in the line")]
    Control { octet: u8, start: Start },
}

/// The first octets of a line: as many as a verb has. A shorter line is filled up with NUL.
pub type Start = [u8; 4];

impl LineError {
    /// The line would have announced a chunk (RFC 3030), whose octets follow and are no lines.
    pub fn is_bdat(&self) -> bool {
        let (Self::TooLong { start, .. } | Self::Control { start, .. }) = self;
        start.eq_ignore_ascii_case(b"BDAT")
    }
}

/// Finds line ends in a stream of chunks. Holds at most `limit` octets.
#[derive(Debug)]
pub struct LineDecoder {
    limit: usize,
    held: Vec<u8>,
    /// Of a line that is too long, and so is not held.
    too_long: Option<Start>,
}

impl LineDecoder {
    /// `limit` counts the line end too, as RFC 5321 section 4.5.3.1 does.
    pub fn new(limit: usize) -> Self {
        Self { limit, held: Vec::new(), too_long: None }
    }

    /// Takes octets from the front of `input` up to and including the next line end.
    /// `None`: all of `input` was taken and the line goes on.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Result<Line, LineError>> {
        let Some(end) = memchr(b'\n', input) else {
            self.hold(input);
            *input = &[];
            return None;
        };
        let (head, rest) = input.split_at(end + 1);
        *input = rest;
        self.hold(head);
        Some(self.finish())
    }

    /// Octets of an unfinished line.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    fn hold(&mut self, octets: &[u8]) {
        if self.too_long.is_some() {
            return;
        }
        if self.held.len() + octets.len() > self.limit {
            let held = std::mem::take(&mut self.held);
            self.too_long = Some(start(held.iter().chain(octets)));
        } else {
            self.held.extend_from_slice(octets);
        }
    }

    fn finish(&mut self) -> Result<Line, LineError> {
        if let Some(start) = self.too_long.take() {
            return Err(LineError::TooLong { limit: self.limit, start });
        }
        let mut text = std::mem::take(&mut self.held);
        text.pop();
        let bare_lf = text.last() != Some(&b'\r');
        if !bare_lf {
            text.pop();
        }
        match text.iter().find(|octet| is_forbidden(**octet)) {
            Some(octet) => Err(LineError::Control { octet: *octet, start: start(&text) }),
            None => Ok(Line { text, bare_lf }),
        }
    }
}

fn start<'a>(line: impl IntoIterator<Item = &'a u8>) -> Start {
    let mut start = Start::default();
    start.iter_mut().zip(line).for_each(|(to, octet)| *to = *octet);
    start
}

/// Tab is white space to every server; all other controls are refused.
fn is_forbidden(octet: u8) -> bool {
    octet != b'\t' && octet.is_ascii_control()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(chunks: &[&[u8]], limit: usize) -> (Vec<Result<Line, LineError>>, Vec<u8>) {
        let mut decoder = LineDecoder::new(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(line) = decoder.next(&mut input) {
                lines.push(line);
            }
        }
        (lines, decoder.held().to_vec())
    }

    fn line(text: &str, bare_lf: bool) -> Result<Line, LineError> {
        Ok(Line { text: text.into(), bare_lf })
    }

    #[test]
    fn crlf_and_bare_lf_end_a_line_and_strays_make_it_unusable() {
        let (lines, held) = all(&[b"NOOP\r\nRSET\nA\rB\r\nC\0\r\n\r\r\nQUI"], 512);
        let stray = |octet, start| Err(LineError::Control { octet, start });
        assert_eq!(
            lines,
            [
                line("NOOP", false),
                line("RSET", true),
                stray(b'\r', *b"A\rB\0"),
                stray(0, *b"C\0\0\0"),
                stray(b'\r', *b"\r\0\0\0"),
            ]
        );
        assert_eq!(held, b"QUI");
    }

    #[test]
    fn the_limit_counts_the_line_end() {
        let (lines, _) = all(&[b"12345678\r\n123456789\r\nNOOP\r\n"], 10);
        assert_eq!(
            lines,
            [
                line("12345678", false),
                Err(LineError::TooLong { limit: 10, start: *b"1234" }),
                line("NOOP", false)
            ]
        );
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same_lines(
            input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(0u8), any::<u8>()], 0..80),
            cut in 0usize..80, cut2 in 0usize..80,
        ) {
            let (a, b) = (cut.min(cut2).min(input.len()), cut.max(cut2).min(input.len()));
            let whole = all(&[&input], 20);
            prop_assert_eq!(&all(&[&input[..a], &input[a..b], &input[b..]], 20), &whole);
            let octets: Vec<&[u8]> = input.chunks(1).collect();
            prop_assert_eq!(&all(&octets, 20), &whole);
        }
    }
}

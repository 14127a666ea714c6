//! The body sent after DATA (RFC 5321 section 4.5.2): where it ends, and dots at line starts.
//!
//! Only CRLF.CRLF ends a message. A line end that is not CRLF never does, whatever stands around it:
//! that is what smuggling lives on. A bare LF becomes CRLF, a bare CR is left out; both are counted, and
//! whoever uses the decoder decides whether such a message is refused. What comes out of [`DataDecoder`] has no line end but CRLF, is
//! empty or ends with one, and has no dot-stuffing; [`Stuffer`] puts that back. So the filter node and
//! the destination get the same octets, and no receiver can find another end in them.

use bytes::{BufMut, BytesMut};
use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter, memchr2, memrchr};

/// What was met in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Findings {
    /// Octets that came out of the decoder.
    pub size: u64,
    /// LF without CR before it.
    pub bare_lf: u64,
    /// CR without LF after it. It is not passed on.
    pub bare_cr: u64,
    /// NUL octets. A receiver that drops them would see other lines than we do.
    pub nul: u64,
    /// Octets of the longest line, its end not counted.
    pub longest_line: u64,
}

/// Where the decoder stands in the current line. Everything that a split can separate is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// After CRLF, or at the very start.
    Start,
    /// After a dot at `Start`.
    Dot,
    /// After a dot at `Start` and a CR.
    DotCr,
    /// Inside a line, or at its start after a bare LF.
    Inside,
    /// After a CR inside a line.
    Cr,
    /// After CRLF.CRLF.
    End,
}

/// Finds the end of a message and takes the dot-stuffing off.
#[derive(Debug)]
pub struct DataDecoder {
    state: State,
    line: u64,
    findings: Findings,
}

impl Default for DataDecoder {
    fn default() -> Self {
        Self { state: State::Start, line: 0, findings: Findings::default() }
    }
}

impl DataDecoder {
    /// Takes octets from the front of `input` and appends the body's to `body`. `true`: the message has
    /// ended, and what is left in `input` is no part of it.
    pub fn decode(&mut self, input: &mut &[u8], body: &mut BytesMut) -> bool {
        let before = body.len();
        while self.state != State::End {
            let Some(octet) = input.first().copied() else { break };
            if self.state == State::Start && self.plain_lines(input, body) {
                continue;
            }
            if self.state == State::Inside {
                self.run(input, body);
                continue;
            }
            *input = &input[1..];
            self.step(octet, body);
        }
        self.findings.size += (body.len() - before) as u64;
        self.state == State::End
    }

    pub fn findings(&self) -> Findings {
        self.findings
    }

    /// At the start of a line: copies the lines in front that are as all should be, in one piece. `false`: there are none.
    fn plain_lines(&mut self, input: &mut &[u8], body: &mut BytesMut) -> bool {
        let Some(last) = memrchr(b'\n', &input[..plain(input)]) else { return false };
        let (lines, rest) = input.split_at(last + 1);
        body.put_slice(lines);
        let mut start = 0;
        while start < lines.len() {
            // Lines that end before one as long as the longest would are no longer than it.
            let within = usize::try_from(self.findings.longest_line).unwrap_or(lines.len()) + CRLF;
            let end = lines.len().min(start + within);
            start += match memrchr(b'\n', &lines[start..end]) {
                Some(at) => at + 1,
                None => {
                    let line = memchr(b'\n', &lines[start..]).map_or(lines.len() - start, |at| at + 1);
                    self.findings.longest_line = line.saturating_sub(CRLF) as u64;
                    line
                }
            };
        }
        *input = rest;
        true
    }

    /// Copies up to the next CR or LF.
    fn run(&mut self, input: &mut &[u8], body: &mut BytesMut) {
        let end = memchr2(b'\r', b'\n', input);
        let (text, rest) = input.split_at(end.unwrap_or(input.len()));
        self.text(text, body);
        *input = rest;
        if let Some((octet, rest)) = rest.split_first() {
            *input = rest;
            self.step(*octet, body);
        }
    }

    fn step(&mut self, octet: u8, body: &mut BytesMut) {
        self.state = match (self.state, octet) {
            (State::Start, b'.') => State::Dot,
            (State::Dot, b'\r') => State::DotCr,
            (State::DotCr, b'\n') | (State::End, _) => State::End,
            (State::Dot, b'\n') => {
                // A lone dot before a bare LF is text, not an end.
                self.text(b".", body);
                self.bare_lf(body)
            }
            (State::Cr, b'\n') => {
                self.line_end(body);
                State::Start
            }
            (State::DotCr | State::Cr, _) => {
                self.findings.bare_cr += 1;
                self.again(octet, body)
            }
            (State::Start | State::Dot | State::Inside, _) => self.again(octet, body),
        };
    }

    /// An octet inside a line.
    fn again(&mut self, octet: u8, body: &mut BytesMut) -> State {
        match octet {
            b'\r' => State::Cr,
            b'\n' => self.bare_lf(body),
            _ => {
                self.text(&[octet], body);
                State::Inside
            }
        }
    }

    fn bare_lf(&mut self, body: &mut BytesMut) -> State {
        self.findings.bare_lf += 1;
        self.line_end(body);
        State::Inside
    }

    fn text(&mut self, text: &[u8], body: &mut BytesMut) {
        body.put_slice(text);
        self.findings.nul += memchr_iter(0, text).count() as u64;
        self.line += text.len() as u64;
        self.findings.longest_line = self.findings.longest_line.max(self.line);
    }

    fn line_end(&mut self, body: &mut BytesMut) {
        body.put_slice(b"\r\n");
        self.line = 0;
    }
}

/// Octets of a line's end.
const CRLF: usize = 2;

/// Octets that are looked at together.
const BLOCK: usize = 256;

/// How many octets from the front of `input`, which is at the start of a line, are certainly text in which CR and LF are only
/// together, no line begins with a dot, and NUL is not. May end between CR and LF.
fn plain(input: &[u8]) -> usize {
    let mut before = b'\n';
    let mut plain = 0;
    for block in input.chunks(BLOCK) {
        let first = block[0];
        // The first line's start has no CR before it.
        let mut strange = (first == b'\n') != (before == b'\r') || (before == b'\n' && first == b'.');
        // All pairs whatever is found, so that many are compared at once.
        for (one, next) in block.iter().zip(&block[1..]) {
            strange |=
                ((*next == b'\n') != (*one == b'\r')) | ((*one == b'\n') & (*next == b'.')) | (*one == 0);
        }
        before = block[block.len() - 1];
        if strange || before == 0 {
            break;
        }
        plain += block.len();
    }
    plain
}

/// Puts dot-stuffing on a body that came out of [`DataDecoder`].
#[derive(Debug)]
pub struct Stuffer {
    line_start: bool,
}

impl Default for Stuffer {
    fn default() -> Self {
        Self { line_start: true }
    }
}

impl Stuffer {
    pub fn stuff(&mut self, body: &[u8], wire: &mut BytesMut) {
        let Some(last) = body.last() else { return };
        wire.reserve(body.len() + 64);
        if self.line_start && body[0] == b'.' {
            wire.put_u8(b'.');
        }
        let mut from = 0;
        for at in Finder::new(b"\n.").find_iter(body) {
            wire.put_slice(&body[from..=at]);
            wire.put_u8(b'.');
            from = at + 1;
        }
        wire.put_slice(&body[from..]);
        self.line_start = *last == b'\n';
    }

    /// What ends the message after the octets stuffed so far.
    pub fn end(&self) -> &'static [u8] {
        if self.line_start { b".\r\n" } else { b"\r\n.\r\n" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Body, findings, whether it ended, and what is left.
    fn decode(chunks: &[&[u8]]) -> (Vec<u8>, Findings, bool, Vec<u8>) {
        let (mut decoder, mut body, mut left) = (DataDecoder::default(), BytesMut::new(), Vec::new());
        let mut ended = false;
        for chunk in chunks {
            let mut input = *chunk;
            ended = decoder.decode(&mut input, &mut body);
            left.extend_from_slice(input);
        }
        (body.to_vec(), decoder.findings(), ended, left)
    }

    fn wire(body: &[u8]) -> Vec<u8> {
        let (mut stuffer, mut wire) = (Stuffer::default(), BytesMut::new());
        stuffer.stuff(body, &mut wire);
        wire.put_slice(stuffer.end());
        wire.to_vec()
    }

    fn body(input: &[u8]) -> Vec<u8> {
        decode(&[input]).0
    }

    #[test]
    fn the_empty_message_and_dots() {
        assert_eq!(decode(&[b".\r\nQUIT"]), (vec![], Findings::default(), true, b"QUIT".to_vec()));
        assert_eq!(body(b"..\r\n..a\r\n.b\r\n.\r\n"), b".\r\n.a\r\nb\r\n");
        assert_eq!(wire(b""), b".\r\n");
        assert_eq!(wire(b".\r\n.a\r\nb.\r\n"), b"..\r\n..a\r\nb.\r\n.\r\n");
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_message() {
        for end in [
            &b"\n.\n"[..],
            b"\n.\r",
            b"\r.\n",
            b"\r.\r",
            b"\n.\r\n",
            b"\r.\r\n",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r\n\0.\r\n",
            b"\r\n.\0\r\n",
            b"\r\n.\r\r\n",
            b"\r\r\n.\r\r\n",
        ] {
            let input = [b"a", end, b"MAIL FROM:<b>"].concat();
            let (body, findings, ended, _) = decode(&[&input]);
            assert!(!ended, "{}", end.escape_ascii());
            // What goes on has one end only: every line that is a lone dot is stuffed.
            let out = wire(&body);
            let at = out.windows(5).position(|octets| octets == b"\r\n.\r\n").unwrap();
            assert_eq!(at + 5, out.len(), "{}", end.escape_ascii());
            let strays = findings.bare_lf + findings.bare_cr + findings.nul;
            assert!(strays > 0, "{}", end.escape_ascii());
        }
    }

    #[test]
    fn a_lone_dot_after_or_before_a_bare_lf_is_text() {
        assert_eq!(body(b"a\n.\r\nb\r\n.\r\n"), b"a\r\n.\r\nb\r\n");
        assert_eq!(body(b"a\r\n.\nb\r\n.\r\n"), b"a\r\n.\r\nb\r\n");
    }

    #[test]
    fn findings_count() {
        let (_, findings, ended, _) = decode(&[b"abc\nd\0\rf\r\n.\r\n"]);
        assert!(ended);
        assert_eq!(findings, Findings { size: 10, bare_lf: 1, bare_cr: 1, nul: 1, longest_line: 3 });
    }

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(0u8), Just(b'a')];
        proptest::collection::vec(octet, 0..24)
    }

    /// Lines of which most are as all should be.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let text = prop_oneof![Just(255_usize), Just(256), Just(257), 0_usize..700]
            .prop_map(|size| vec![b'a'; size]);
        let end = prop_oneof![
            12 => Just(&b"\r\n"[..]), 1 => Just(&b"\r\n.."[..]), 1 => Just(&b"\n"[..]), 1 => Just(&b"\r"[..]),
            1 => Just(&b"\0\r\n"[..]), 1 => Just(&b"\n\r"[..]), 1 => Just(&b"\r\n.\r\n"[..]),
        ];
        let line = (text, end).prop_map(|(text, end)| [&text[..], end].concat());
        proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
    }

    proptest! {
        #[test]
        fn many_lines_at_once_are_as_one_octet_after_the_other(input in lines(), cut in 0_usize..3000) {
            let whole = decode(&[&input]);
            let single: Vec<&[u8]> = input.chunks(1).collect();
            prop_assert_eq!(&decode(&single), &whole);
            let cut = cut.min(input.len());
            prop_assert_eq!(&decode(&[&input[..cut], &input[cut..]]), &whole);
        }

        #[test]
        fn every_split_gives_the_same_body(input in octets(), cut in 0usize..24) {
            let cut = cut.min(input.len());
            let whole = decode(&[&input]);
            prop_assert_eq!(&decode(&[&input[..cut], &input[cut..]]), &whole);
            let single: Vec<&[u8]> = input.chunks(1).collect();
            prop_assert_eq!(&decode(&single), &whole);
        }

        #[test]
        fn a_body_survives_stuffing_and_every_split_of_it(lines in proptest::collection::vec("[.a\0]{0,4}", 0..8), cut in 0usize..40) {
            let body: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
            let out = wire(&body);
            let cut = cut.min(body.len());
            let (mut stuffer, mut split) = (Stuffer::default(), BytesMut::new());
            stuffer.stuff(&body[..cut], &mut split);
            stuffer.stuff(&body[cut..], &mut split);
            split.put_slice(stuffer.end());
            prop_assert_eq!(&split[..], &out[..]);
            let (again, findings, ended, left) = decode(&[&out]);
            prop_assert_eq!(again, body);
            prop_assert!(ended && left.is_empty());
            prop_assert_eq!(findings.bare_lf + findings.bare_cr, 0);
        }

        #[test]
        fn what_comes_out_is_always_whole_crlf_lines(input in octets()) {
            let input = [&input[..], b"\r\n.\r\n"].concat();
            let (body, _, _, _) = decode(&[&input]);
            prop_assert!(body.is_empty() || body.ends_with(b"\r\n"));
            let text = body.strip_suffix(b"\r\n").unwrap_or(&body);
            let stripped: Vec<u8> = text.split(|o| *o == b'\n').flat_map(|l| l.strip_suffix(b"\r").unwrap_or(l)).copied().collect();
            prop_assert!(!stripped.contains(&b'\r'));
        }
    }
}

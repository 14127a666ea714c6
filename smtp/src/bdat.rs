//! A body sent in chunks (RFC 3030): framed by its length, so that nothing in it can be taken for its end.
//!
//! The octets are passed on as they are. [`Content`] only looks at them: whether they keep to what a message
//! that is not declared `BODY=BINARYMIME` may hold, and whether DATA could carry the same octets.

use memchr::{memchr_iter, memchr2_iter};

use crate::data::Findings;

/// What was met in a body, whatever chunks it came in.
#[derive(Debug, Default)]
pub struct Content {
    findings: Findings,
    /// Octets of the line under way, a CR at its end not counted.
    line: u64,
    after_cr: bool,
    /// The last octets were CRLF.
    whole_line: bool,
}

impl Content {
    pub fn scan(&mut self, octets: &[u8]) {
        self.findings.size += octets.len() as u64;
        self.findings.nul += memchr_iter(0, octets).count() as u64;
        let mut begin = 0;
        for at in memchr2_iter(b'\r', b'\n', octets) {
            self.text(at - begin);
            begin = at + 1;
            if octets[at] == b'\r' {
                self.settle_cr();
                self.after_cr = true;
                self.whole_line = false;
            } else {
                self.findings.bare_lf += u64::from(!self.after_cr);
                self.whole_line = self.after_cr;
                self.after_cr = false;
                self.line = 0;
            }
        }
        self.text(octets.len() - begin);
    }

    /// What was found so far. A CR at the very end is bare unless LF follows.
    pub fn findings(&self) -> Findings {
        Findings { bare_cr: self.findings.bare_cr + u64::from(self.after_cr), ..self.findings }
    }

    /// LF or CR alone, or NUL: DATA cannot carry what came so far, whatever follows. A CR at the very end does not
    /// count: LF may follow.
    pub fn has_strays(&self) -> bool {
        self.findings.bare_lf + self.findings.bare_cr + self.findings.nul > 0
    }

    /// DATA can carry exactly these octets, if no more follow: lines, each ended by CRLF.
    pub fn is_lines(&self) -> bool {
        let findings = self.findings();
        findings.bare_cr + findings.bare_lf == 0 && (self.whole_line || findings.size == 0)
    }

    fn text(&mut self, octets: usize) {
        if octets > 0 {
            self.settle_cr();
            self.whole_line = false;
            self.line += octets as u64;
            self.findings.longest_line = self.findings.longest_line.max(self.line);
        }
    }

    /// Something other than LF follows a CR.
    fn settle_cr(&mut self) {
        self.findings.bare_cr += u64::from(std::mem::take(&mut self.after_cr));
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::data::{DataDecoder, Stuffer};

    fn scan(chunks: &[&[u8]]) -> (Findings, bool) {
        let mut content = Content::default();
        chunks.iter().for_each(|chunk| content.scan(chunk));
        (content.findings(), content.is_lines())
    }

    #[test]
    fn findings_count() {
        let expected = Findings { size: 12, bare_lf: 1, bare_cr: 2, nul: 1, longest_line: 4 };
        assert_eq!(scan(&[b"abc\nd\0\ref\r\n\r"]), (expected, false));
        assert_eq!(scan(&[b""]), (Findings::default(), true));
        assert!(scan(&[b"\r\n.\r\n"]).1);
        assert!(!scan(&[b"\r\n."]).1);
    }

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(0u8), Just(b'a')];
        proptest::collection::vec(octet, 0..24)
    }

    proptest! {
        #[test]
        fn every_split_finds_the_same(body in octets(), cut in 0usize..24) {
            let cut = cut.min(body.len());
            let whole = scan(&[&body]);
            prop_assert_eq!(scan(&[&body[..cut], &body[cut..]]), whole);
            let single: Vec<&[u8]> = body.chunks(1).collect();
            prop_assert_eq!(scan(&single), whole);
        }

        #[test]
        fn lines_are_what_data_carries_exactly(body in octets()) {
            let (mut stuffer, mut wire) = (Stuffer::default(), BytesMut::new());
            stuffer.stuff(&body, &mut wire);
            wire.extend_from_slice(stuffer.end());
            let (mut decoder, mut carried) = (DataDecoder::default(), BytesMut::new());
            let mut octets = &wire[..];
            let whole = decoder.decode(&mut octets, &mut carried) && octets.is_empty();
            prop_assert_eq!(scan(&[&body]).1, whole && carried == body);
        }
    }
}

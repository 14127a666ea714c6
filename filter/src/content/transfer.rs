//! Content-Transfer-Encoding (RFC 2045 section 6), read as a tolerant mail reader does: what is wrong is passed over, and
//! said.

use std::borrow::Cow;

/// Octets, and whether a stricter reader would have seen others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) octets: Vec<u8>,
    pub(super) broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Base64,
    QuotedPrintable,
    Uuencode,
}

impl Encoding {
    /// None if nobody knows it.
    pub(super) fn named(name: &str) -> Option<Self> {
        // Comments and parameters are not allowed here, but are met.
        let word = name.split([' ', '\t', ';', '(']).find(|word| !word.is_empty()).unwrap_or_default();
        match word.to_ascii_lowercase().as_str() {
            "" | "7bit" | "8bit" | "binary" | "7-bit" | "8-bit" | "none" => Some(Self::Identity),
            "base64" => Some(Self::Base64),
            "quoted-printable" => Some(Self::QuotedPrintable),
            "uuencode" | "x-uuencode" | "x-uue" | "uue" => Some(Self::Uuencode),
            _ => None,
        }
    }
}

/// Octets outside the alphabet are ignored, as RFC 2045 section 6.8 asks. White space is usual; anything else is a way to
/// hide from those who do not.
pub(super) fn base64(encoded: &[u8]) -> Decoded {
    let mut octets = Vec::with_capacity(encoded.len() / 4 * 3);
    let mut broken = false;
    let mut ended = false;
    let mut bits = 0_u32;
    let mut held = 0_u8;
    for &octet in encoded {
        let Some(value) = sextet(octet) else {
            if octet == b'=' {
                // Padding ends a group; what comes after it is a second run, which not all readers read.
                ended = true;
                broken |= held == 1;
                (bits, held) = (0, 0);
            } else {
                broken |= !octet.is_ascii_whitespace();
            }
            continue;
        };
        broken |= ended;
        bits = bits << 6 | u32::from(value);
        held += 1;
        if held > 1 {
            // Of 12, 18 and 24 bits the eight that are complete.
            octets.push((bits >> (8 - 2 * held)).to_be_bytes()[3]);
        }
        if held == 4 {
            (bits, held) = (0, 0);
        }
    }
    Decoded { octets, broken: broken || held == 1 }
}

fn sextet(octet: u8) -> Option<u8> {
    match octet {
        b'A'..=b'Z' => Some(octet - b'A'),
        b'a'..=b'z' => Some(octet - b'a' + 26),
        b'0'..=b'9' => Some(octet - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// A `=` that begins nothing stands for itself.
pub(super) fn quoted_printable(encoded: &[u8]) -> Decoded {
    let mut octets = Vec::with_capacity(encoded.len());
    let mut broken = false;
    let mut rest = encoded;
    while let Some(at) = memchr::memchr(b'=', rest) {
        octets.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(length) = soft_break(rest) {
            rest = &rest[length..];
        } else if let Some(octet) = hex_pair(rest) {
            octets.push(octet);
            rest = &rest[2..];
        } else {
            octets.push(b'=');
            broken = true;
        }
    }
    octets.extend_from_slice(rest);
    Decoded { octets, broken }
}

/// The length of white space and line end after `=`.
fn soft_break(rest: &[u8]) -> Option<usize> {
    let blank = rest.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    match rest.get(blank..)? {
        [] => Some(blank),
        [b'\n', ..] => Some(blank + 1),
        [b'\r', b'\n', ..] => Some(blank + 2),
        _ => None,
    }
}

fn hex_pair(rest: &[u8]) -> Option<u8> {
    let digit = |octet: u8| char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match rest {
        [high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// A file within text, as mail had them before MIME.
pub(super) struct Uuencoded<'t> {
    pub(super) name: Cow<'t, str>,
    pub(super) decoded: Decoded,
    /// What follows it.
    pub(super) rest: &'t [u8],
}

/// The first uuencoded file in `text`.
pub(super) fn uuencoded(text: &[u8]) -> Option<Uuencoded<'_>> {
    let mut at = 0;
    loop {
        at += memchr::memmem::find(&text[at..], b"begin ")?;
        // Asked first: a line is looked at once, however often it says "begin".
        if at == 0 || text[at - 1] == b'\n' {
            let (line, rest) = cut_line(&text[at..]);
            if let Some(name) = uu_name(line)
                && uu_line(cut_line(rest).0).is_some()
            {
                let (decoded, rest) = uu_body(rest);
                return Some(Uuencoded { name: String::from_utf8_lossy(name), decoded, rest });
            }
        }
        at += 1;
    }
}

/// The name in `begin 644 name`.
fn uu_name(line: &[u8]) -> Option<&[u8]> {
    let mode = line.strip_prefix(b"begin ")?;
    let digits = mode.iter().take_while(|octet| octet.is_ascii_digit()).count();
    let name = mode.get(digits..)?.strip_prefix(b" ")?.trim_ascii();
    ((3..=4).contains(&digits) && !name.is_empty()).then_some(name)
}

fn uu_body(mut rest: &[u8]) -> (Decoded, &[u8]) {
    let mut octets = Vec::new();
    while !rest.is_empty() {
        let (line, after) = cut_line(rest);
        if line == b"end" {
            return (Decoded { octets, broken: false }, after);
        }
        let Some(mut some) = uu_line(line) else { break };
        octets.append(&mut some);
        rest = after;
    }
    (Decoded { octets, broken: true }, rest)
}

/// None if it is not a line of a uuencoded file. Trailing spaces, which are zeros, may have been lost.
fn uu_line(line: &[u8]) -> Option<Vec<u8>> {
    let value = |octet: u8| (b' '..=b'`').contains(&octet).then(|| u32::from(octet - b' ') & 63);
    let (count, encoded) = line.split_first()?;
    let count = value(*count)? as usize;
    // A checksum may follow, of one octet or two.
    if encoded.len() > count.div_ceil(3) * 4 + 2 {
        return None;
    }
    let mut octets = Vec::with_capacity(count + 2);
    for group in encoded.chunks(4) {
        let mut bits = 0;
        for at in 0..4 {
            bits = bits << 6 | value(group.get(at).copied().unwrap_or(b' '))?;
        }
        octets.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    octets.resize(count, 0);
    Some(octets)
}

fn cut_line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'\n', text).map_or(text.len(), |at| at + 1);
    let line = text[..end].trim_ascii_end();
    (line, &text[end..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Encoding, base64, quoted_printable, uuencoded};

    #[test]
    fn base64_is_read_through_what_does_not_belong() {
        for (encoded, expected, broken) in [
            ("TVo=", &b"MZ"[..], false),
            ("TVqQAAMAAAA", b"MZ\x90\x00\x03\x00\x00\x00", false),
            ("TV\r\nqQ\r\n", b"MZ\x90", false),
            ("!!TVqQ", b"MZ\x90", true),
            ("TV!!qQ", b"MZ\x90", true),
            ("TVo=TVo=", b"MZMZ", true),
            ("T", b"", true),
            ("", b"", false),
        ] {
            let decoded = base64(encoded.as_bytes());
            assert_eq!((decoded.octets.as_slice(), decoded.broken), (expected, broken), "{encoded}");
        }
    }

    #[test]
    fn quoted_printable_is_read_through_what_does_not_belong() {
        for (encoded, expected, broken) in [
            ("a=3D=\r\nb=20=\n", "a=b ", false),
            ("a= \t\r\nb", "ab", false),
            ("1=2=zz", "1=2=zz", true),
            ("a=", "a", false),
        ] {
            let decoded = quoted_printable(encoded.as_bytes());
            assert_eq!(
                (decoded.octets.as_slice(), decoded.broken),
                (expected.as_bytes(), broken),
                "{encoded}"
            );
        }
    }

    #[test]
    fn a_uuencoded_file_is_found_in_text_and_the_word_begin_is_not_one() {
        let text = b"Hello,\r\nbegin with this\r\nbegin 644 a.exe\r\n#35J0\r\n`\r\nend\r\nbye\r\n";
        let file = uuencoded(text).unwrap();
        assert_eq!((file.name.as_ref(), file.decoded.octets.as_slice()), ("a.exe", &b"MZ\x90"[..]));
        assert!(!file.decoded.broken);
        assert_eq!(file.rest, b"bye\r\n");
        assert!(uuencoded(b"begin 100 years ago\r\nthere lived a man, as they say\r\n").is_none());
    }

    #[test]
    fn encodings_are_known_by_name() {
        assert_eq!(Encoding::named(" BASE64 (really)"), Some(Encoding::Base64));
        assert_eq!(Encoding::named("7bit"), Some(Encoding::Identity));
        assert_eq!(Encoding::named("base65"), None);
    }

    proptest! {
        #[test]
        fn any_octets_decode_to_no_more_of_them(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(base64(&octets).octets.len() <= octets.len());
            prop_assert!(quoted_printable(&octets).octets.len() <= octets.len());
            let text = [b"begin 644 x\n".as_slice(), &octets].concat();
            if let Some(file) = uuencoded(&text) {
                prop_assert!(file.decoded.octets.len() <= 64 * octets.len());
            }
        }
    }
}

//! xtext (RFC 3461 section 4): every octet outside `!`..`~`, and `+` and `=`, is written as `+` and two
//! upper-case hexadecimal digits.

/// Encodes any octets.
pub fn encode(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for octet in octets {
        if (b'!'..=b'~').contains(octet) && !matches!(octet, b'+' | b'=') {
            text.push(char::from(*octet));
        } else {
            text.push_str(&format!("+{octet:02X}"));
        }
    }
    text
}

/// Decodes; `None` if the text is not xtext.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = match first {
            b'+' => {
                let (digits, tail) = tail.split_at_checked(2)?;
                octets.push(hex(digits[0])? << 4 | hex(digits[1])?);
                tail
            }
            b'!'..=b'~' if *first != b'=' => {
                octets.push(*first);
                tail
            }
            _ => return None,
        };
    }
    Some(octets)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plus_equals_space_and_8_bit_are_encoded() {
        assert_eq!(encode(b"a+b=c d\xe9"), "a+2Bb+3Dc+20d+E9");
    }

    #[test]
    fn what_is_not_xtext_is_refused() {
        for bad in ["+", "+2", "+2g", "+2b", "a b", "a=b", "\u{7f}"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(octets: Vec<u8>) {
            prop_assert_eq!(decode(encode(&octets).as_bytes()), Some(octets));
        }
    }
}

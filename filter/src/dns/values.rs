//! What answers of a list mean.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// A set of answers: `127.0.0.2`, `127.0.0.0/28`, or with a range or `*` in the place of octets: `127.0.*.3`,
/// `127.0.0-9.0`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Values {
    text: String,
    octets: [RangeInclusive<u8>; 4],
}

impl Values {
    /// 127.0.0.0/8
    pub fn all() -> Self {
        Self { text: "127.0.0.0/8".into(), octets: [127..=127, 0..=255, 0..=255, 0..=255] }
    }

    pub fn contains(&self, answer: Ipv4Addr) -> bool {
        self.octets.iter().zip(answer.octets()).all(|(range, octet)| range.contains(&octet))
    }
}

/// An answer that says something of the list, not of what was asked: 127.255.255.x and 127.0.0.255 (over a limit, asked
/// through a public resolver), and whatever is outside of 127.0.0.0/8, which no list says (a name server that knows
/// every name does).
pub fn is_error(answer: Ipv4Addr) -> bool {
    matches!(answer.octets(), [127, 255, 255, _] | [127, 0, 0, 255]) || !answer.is_loopback()
}

impl FromStr for Values {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let octets = match text.parse::<Ipv4Net>() {
            Ok(prefix) if prefix.trunc() == prefix => {
                let (first, last) = (prefix.network().octets(), prefix.broadcast().octets());
                std::array::from_fn(|at| first[at]..=last[at])
            }
            Ok(prefix) => return Err(format!("{text:?}: did you mean {}?", prefix.trunc())),
            Err(_) => pattern(text).ok_or_else(|| {
                format!("{text:?} is none of 127.0.0.2, 127.0.0.0/28, 127.0.*.3 and 127.0.0-9.0")
            })?,
        };
        let values = Self { text: text.to_owned(), octets };
        if values.octets[0] != (127..=127) {
            return Err(format!(
                "{text:?} is outside of 127.0.0.0/8: no list says that (RFC 5782 section 2.1)"
            ));
        }
        let only = |range: &RangeInclusive<u8>| range.start() == range.end();
        let [_, second, third, fourth] = &values.octets;
        let never = *second == (255..=255) && *third == (255..=255)
            || only(fourth) && values.contains(Ipv4Addr::new(127, 0, 0, 255)) && only(second) && only(third);
        if never {
            return Err(format!("{text:?} would always be an error"));
        }
        Ok(values)
    }
}

fn pattern(text: &str) -> Option<[RangeInclusive<u8>; 4]> {
    let octets: Vec<RangeInclusive<u8>> = text.split('.').map(octet).collect::<Option<_>>()?;
    octets.try_into().ok()
}

fn octet(text: &str) -> Option<RangeInclusive<u8>> {
    let number = |text: &str| text.parse::<u8>().ok().filter(|number| number.to_string() == text);
    if text == "*" {
        return Some(0..=255);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = number(first)?..=number(last)?;
    (!range.is_empty()).then_some(range)
}

impl TryFrom<String> for Values {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Values> for String {
    fn from(values: Values) -> Self {
        values.text
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn has(values: &str, answer: &str) -> bool {
        values.parse::<Values>().unwrap().contains(answer.parse().unwrap())
    }

    #[test]
    fn addresses_prefixes_and_octets() {
        assert!(has("127.0.0.2", "127.0.0.2") && !has("127.0.0.2", "127.0.0.3"));
        assert!(has("127.0.0.0/28", "127.0.0.15") && !has("127.0.0.0/28", "127.0.0.16"));
        assert!(has("127.0.*.3", "127.0.15.3") && !has("127.0.*.3", "127.0.15.2"));
        assert!(has("127.0.0-9.0", "127.0.9.0") && !has("127.0.0-9.0", "127.0.10.0"));
        assert!(!has("127.0.0-9.0", "127.0.9.1"));
    }

    #[test]
    fn what_no_list_says_is_refused() {
        for (text, what) in [
            ("127.0.0.2/28", "did you mean 127.0.0.0/28?"),
            ("10.0.0.1", "outside of 127.0.0.0/8"),
            ("*.0.0.1", "outside of 127.0.0.0/8"),
            ("127.255.255.254", "would always be an error"),
            ("127.255.255.*", "would always be an error"),
            ("127.0.0.255", "would always be an error"),
            ("127.0.0", "is none of"),
            ("127.0.0.256", "is none of"),
            ("127.0.0.9-2", "is none of"),
            ("127.0.0.02", "is none of"),
            ("127.0.0.+2", "is none of"),
            ("", "is none of"),
        ] {
            let problem = text.parse::<Values>().unwrap_err();
            assert!(problem.contains(what), "{text}: {problem}");
        }
    }

    #[test]
    fn errors_are_told_from_listings() {
        for answer in ["127.255.255.252", "127.255.255.254", "127.0.0.255", "192.0.2.1", "0.0.0.0"] {
            assert!(is_error(answer.parse().unwrap()), "{answer}");
        }
        for answer in ["127.0.0.2", "127.0.1.255", "127.255.254.1"] {
            assert!(!is_error(answer.parse().unwrap()), "{answer}");
        }
    }

    proptest! {
        #[test]
        fn a_prefix_holds_what_it_holds(answer: u32, length in 8u8..=32, other: u32) {
            let address = Ipv4Addr::from(answer & 0x00ff_ffff | 0x7f00_0000);
            let prefix = Ipv4Net::new(address, length).unwrap().trunc();
            let other = Ipv4Addr::from(other & 0x00ff_ffff | 0x7f00_0000);
            if let Ok(values) = prefix.to_string().parse::<Values>() {
                prop_assert_eq!(values.contains(other), prefix.contains(&other));
                prop_assert!(values.contains(address));
            }
        }

        #[test]
        fn no_text_panics(text in "[0-9.*/-]{0,20}") {
            let _ = text.parse::<Values>();
        }
    }
}

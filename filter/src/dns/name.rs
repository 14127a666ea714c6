//! Names that are asked.

use std::fmt::Write;
use std::net::IpAddr;

/// Octets of a name (RFC 1035 section 2.3.4, less its length octets), and of a label.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Whether the DNS can have this name: labels of letters, digits, hyphens and underscores. Others than ASCII are taken as they
/// are, since they have to be converted first; not what stands for octets that were no UTF-8.
pub fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |one: char| match one {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => true,
        other => !other.is_ascii() && other != char::REPLACEMENT_CHARACTER,
    };
    let label = |label: &str| !label.is_empty() && label.len() <= MAX_LABEL && label.chars().all(plain);
    !name.is_empty() && name.len() <= MAX_NAME && name.split('.').all(label)
}

/// An address as lists have it: the octets or nibbles from its end (RFC 5782 section 2).
pub fn reversed(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, third, fourth] = address.octets();
            format!("{fourth}.{third}.{second}.{first}")
        }
        IpAddr::V6(address) => {
            let mut name = String::with_capacity(63);
            for octet in address.octets().iter().rev() {
                let dot = if name.is_empty() { "" } else { "." };
                // Writing to a String cannot fail.
                let _ = write!(name, "{dot}{:x}.{:x}", octet & 15, octet >> 4);
            }
            name
        }
    }
}

/// Where the name of an address is asked (RFC 1035 section 3.5, RFC 3596 section 2.5).
pub fn of_address(address: IpAddr) -> String {
    let zone = if address.to_canonical().is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" };
    format!("{}.{zone}", reversed(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_reversed() {
        let reversed = |address: &str| reversed(address.parse().unwrap());
        assert_eq!(reversed("10.1.0.2"), "2.0.1.10");
        assert_eq!(reversed("::ffff:10.1.0.2"), "2.0.1.10");
        assert_eq!(
            reversed("2001:db8::567:89ab"),
            "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
        );
        assert_eq!(of_address("192.0.2.7".parse().unwrap()), "7.2.0.192.in-addr.arpa");
        assert!(of_address("::1".parse().unwrap()).ends_with(".0.0.ip6.arpa"));
    }

    #[test]
    fn what_cannot_be_a_name_is_none() {
        for name in ["example.org", "example.org.", "_dmarc.example", "a_b.example", "x", "bücher.example"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(64);
        let longer = ["a".repeat(60).as_str(); 5].join(".");
        let not_utf8 = String::from_utf8_lossy(b"\xff.example");
        for name in [
            "",
            ".",
            "a..b",
            ".a",
            "[10.1.0.2]",
            "a b.example",
            "a/b",
            "\\046",
            "a\0b",
            &long,
            &longer,
            &not_utf8,
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}

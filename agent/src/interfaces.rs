//! Names of interfaces in the configuration: plain ones, and patterns for those that come and go.

/// Whether it stands for all interfaces whose names fit: `*` is any number of characters, as in a shell.
pub fn is_pattern(name: &str) -> bool {
    name.contains('*')
}

/// Whether the whole name fits.
pub fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    // There is always a first part, perhaps an empty one.
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        // The first place is as good as any other: what follows may begin anywhere behind it.
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_in_a_shell() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth00", false),
            ("*", "anything", true),
            ("tap*", "tap", true),
            ("tap*", "tap12", true),
            ("tap*", "vtap1", false),
            ("*.100", "eth0.100", true),
            ("*.100", "eth0.1001", false),
            ("v*n*", "vlan7", true),
            ("v*n*7", "vlan7", true),
            ("v*n*7n", "vlan7", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("**", "", true),
            ("a**b", "ab", true),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "aab", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    /// By the words: a `*` is nothing, or a character and a `*`.
    fn by_the_words(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((b'*', behind)), None) => by_the_words(behind, name),
            (Some((b'*', behind)), Some((_, rest))) => {
                by_the_words(behind, name) || by_the_words(pattern, rest)
            }
            (Some((wanted, behind)), Some((found, rest))) => wanted == found && by_the_words(behind, rest),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn it_fits_where_the_words_say_so(pattern in "[ab*]{0,7}", name in "[ab]{0,8}") {
            prop_assert_eq!(fits(&pattern, &name), by_the_words(pattern.as_bytes(), name.as_bytes()));
        }
    }
}

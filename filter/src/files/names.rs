//! Names of files, and patterns for them.

/// Patterns of names that are banned. `*` stands for any characters, `?` for one; large and small letters are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Vec<char>>);

impl Patterns {
    pub fn new<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Self {
        Self(patterns.into_iter().map(letters).collect())
    }

    /// Whether the name of a file is banned: as a whole, or what follows its last directory.
    pub fn match_name(&self, name: &str) -> bool {
        let whole = letters(name);
        let from = whole.iter().rposition(|letter| matches!(letter, '/' | '\\')).map_or(0, |at| at + 1);
        self.0.iter().any(|pattern| matches(pattern, &whole) || matches(pattern, &whole[from..]))
    }
}

fn letters(text: &str) -> Vec<char> {
    text.trim().chars().flat_map(char::to_lowercase).collect()
}

/// Goes back to the last `*` only, so that the work is the product of both lengths at most.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut here) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while here < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, here));
                at += 1;
            }
            Some(letter) if *letter == '?' || *letter == name[here] => {
                at += 1;
                here += 1;
            }
            _ => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                at = after;
                here = from + 1;
            }
        }
    }
    pattern[at.min(pattern.len())..].iter().all(|letter| *letter == '*')
}

/// What follows the last dot, in small letters. Windows takes dots and spaces off the end.
pub(super) fn extension(name: &str) -> String {
    let name =
        name.trim_end_matches(|letter: char| letter == '.' || letter.is_whitespace() || letter == '\0');
    let file = name.rsplit(['/', '\\']).next().unwrap_or_default();
    file.rsplit_once('.').map(|(_, extension)| extension.to_lowercase()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Patterns, extension};

    #[test]
    fn patterns_match_names_and_the_ends_of_paths() {
        let patterns = Patterns::new(["*.exe", "invoice?.*", "secret/*"]);
        for name in ["A.EXE", "x/y.exe", "x\\y.exe", "invoice1.pdf", "secret/a", " a.exe "] {
            assert!(patterns.match_name(name), "{name}");
        }
        for name in ["exe", "a.exe.txt", "invoice12.pdf", "invoice.pdf", "public/a", ""] {
            assert!(!patterns.match_name(name), "{name}");
        }
        assert!(!Patterns::default().match_name("a"));
        let many = Patterns::new(["*a*a*a*a*a*a*a*a*a*a*b"]);
        assert!(!many.match_name(&"a".repeat(10_000)));
    }

    #[test]
    fn the_extension_is_what_windows_takes_for_it() {
        for (name, expected) in [
            ("a.EXE", "exe"),
            ("a.exe. .", "exe"),
            ("dir.d/noext", ""),
            ("a.tar.gz", "gz"),
            (".bat", "bat"),
            ("a.exe\0", "exe"),
        ] {
            assert_eq!(extension(name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_without_wildcards_matches_itself_and_with_them_what_it_was_made_from(
            left in "[a-z./]{0,8}", right in "[a-z.]{0,8}", between in "[a-z.]{0,8}",
        ) {
            let name = format!("{left}{between}{right}");
            let whole = Patterns::new([name.as_str()]);
            prop_assert!(whole.match_name(&name));
            let pattern = format!("{left}*{right}");
            prop_assert!(Patterns::new([pattern.as_str()]).match_name(&name));
        }
    }
}

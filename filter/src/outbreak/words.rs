//! The words of a message, without what a sender changes from copy to copy.

use crate::content::{Content, Part};

use super::html;

/// Octets of text that are looked at.
const MAX_TEXT: usize = 256 * 1024;

/// Words that are looked at.
const MAX_WORDS: usize = 20_000;

/// Words longer than this are no words.
const MAX_LETTERS: usize = 24;

/// The words of subject and text.
pub(super) fn of(content: &Content) -> Vec<String> {
    let mut words = Vec::new();
    read(&content.headers().subject().unwrap_or_default(), &mut words);
    // Of a text in two forms one is enough, and it is the one that most readers see.
    let bodies: Vec<&Part> = content.parts().iter().filter(|part| part.is_body()).collect();
    let html = bodies.iter().any(|part| part.media == "text/html");
    let mut room = MAX_TEXT;
    for part in bodies.into_iter().filter(|part| !html || part.media == "text/html") {
        let text = part.text(room);
        room = room.saturating_sub(part.data.len());
        if part.media == "text/html" {
            read(&html::text(&text), &mut words);
        } else {
            read(&text, &mut words);
        }
    }
    words
}

/// Appends the words of `text`: small letters, numbers and addresses by their kind only.
pub(super) fn read(text: &str, words: &mut Vec<String>) {
    for raw in
        text.split(|letter: char| letter.is_whitespace() || matches!(letter, '<' | '>' | '"' | '(' | ')'))
    {
        if words.len() >= MAX_WORDS {
            return;
        }
        if raw.is_empty() || raw.starts_with('>') {
            continue;
        }
        if let Some(kind) = address(raw) {
            words.push(kind.into());
            continue;
        }
        let plain: String =
            raw.chars().filter(|letter| !is_invisible(*letter)).flat_map(char::to_lowercase).collect();
        let plain: String = plain.chars().map(look_alike).collect();
        for word in plain.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
            push(word, words);
        }
    }
}

fn push(word: &str, words: &mut Vec<String>) {
    let letters = word.chars().count();
    if word.chars().any(char::is_numeric) || letters > MAX_LETTERS {
        // Numbers, codes and keys. How many stand in a row says nothing.
        if words.last().is_none_or(|last| last != "#") {
            words.push("#".into());
        }
    } else if word.chars().any(is_ideograph) {
        words.extend(word.chars().map(String::from));
    } else {
        words.push(word.into());
    }
}

/// What an address is, as far as all copies agree.
fn address(raw: &str) -> Option<&'static str> {
    let lower = raw.to_lowercase();
    let scheme = ["http://", "https://", "hxxp://", "ftp://"]
        .iter()
        .find_map(|scheme| lower.find(scheme).map(|at| at + scheme.len()));
    let host = match scheme {
        Some(at) => &lower[at..],
        None if lower.starts_with("www.") => &lower,
        None => return lower.contains('@').then_some("@mail"),
    };
    let host = host.split(['/', '?', ':', '#']).next().unwrap_or_default();
    Some(if host.starts_with('[') || host.chars().all(|letter| letter.is_ascii_digit() || letter == '.') {
        "@number"
    } else if SHORTENERS.contains(&host) {
        "@short"
    } else {
        "@link"
    })
}

const SHORTENERS: [&str; 10] =
    ["bit.ly", "t.co", "tinyurl.com", "goo.gl", "is.gd", "ow.ly", "cutt.ly", "rb.gy", "t.ly", "rebrand.ly"];

/// Characters that part a word for programs but not for people.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
        || ('\u{300}'..='\u{36f}').contains(&letter)
}

fn is_ideograph(letter: char) -> bool {
    matches!(letter, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

/// The Latin letter that a Cyrillic, Greek or accented one looks like. In a text of that script it is the same for all copies.
fn look_alike(letter: char) -> char {
    const FROM: &str = "аеорсухіјѕԁһкмтвнгпαεορυνικτàáâãäåçèéêëìíîïñòóôõöùúûüýÿ";
    const TO: &str = "aeopcyxijsdhkmtbhrnaeopuviktaaaaaaceeeeiiiinooooouuuuyy";
    if letter.is_ascii() {
        return letter;
    }
    let at = FROM.chars().position(|known| known == letter);
    at.and_then(|at| TO.chars().nth(at)).unwrap_or(letter)
}

#[cfg(test)]
mod tests {
    use super::read;

    fn words(text: &str) -> String {
        let mut words = Vec::new();
        read(text, &mut words);
        words.join(" ")
    }

    #[test]
    fn what_changes_from_copy_to_copy_is_gone() {
        for (text, expected) in [
            ("Dear Anna, your code is 12-34 56!", "dear anna your code is #"),
            ("see https://a.b.test/x?y=1 or www.c.test", "see @link or @link"),
            ("at http://10.1.2.3/x, http://bit.ly/2", "at @number @short"),
            ("write to a.b@c.test now", "write to @mail now"),
            ("V\u{200b}i\u{ad}agra, c\u{430}sino", "viagra casino"),
            ("key 5f4dcc3b5aa765d61d8327deb882cf99 end", "key # end"),
            ("你好 ok", "你 好 ok"),
            ("", ""),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn look_alikes_are_a_table_of_two_equal_columns() {
        assert_eq!(
            words("аеорсухіјѕԁһкмтвнгпαεορυνικτàáâãäåçèéêëìíîïñòóôõöùúûüýÿ")
                .chars()
                .filter(|letter| !letter.is_ascii())
                .count(),
            0
        );
    }
}

//! The words of a message, without what a sender changes from copy to copy.

use crate::content::{Content, Part};

use super::html;
use super::signature::hash;

/// Octets of text that are looked at.
const MAX_TEXT: usize = 256 * 1024;

/// Words that are looked at.
const MAX_WORDS: usize = 20_000;

/// Words longer than this are no words.
const MAX_LETTERS: usize = 24;

/// The hash of each word of subject and text.
pub(super) fn of(content: &Content) -> Vec<u64> {
    let mut hashes = Vec::new();
    let mut reader = Reader::new(|word: &str| hashes.push(hash(word.as_bytes(), 0)));
    reader.read(&content.headers().subject().unwrap_or_default());
    // Of a text in two forms one is enough, and it is the one that most readers see.
    let bodies: Vec<&Part> = content.parts().iter().filter(|part| part.is_body()).collect();
    let html = bodies.iter().any(|part| part.media == "text/html");
    let mut room = MAX_TEXT;
    for part in bodies.into_iter().filter(|part| !html || part.media == "text/html") {
        let text = part.text(room);
        room = room.saturating_sub(part.data.len());
        if part.media == "text/html" {
            reader.read(&html::text(&text));
        } else {
            reader.read(&text);
        }
    }
    hashes
}

/// Says the words of texts one after the other: small letters, numbers and addresses by their kind only.
struct Reader<F> {
    say: F,
    said: usize,
    /// The last word was a number, a code or a key.
    in_codes: bool,
    /// Room for what is read as one, between two blanks.
    plain: String,
}

impl<F: FnMut(&str)> Reader<F> {
    fn new(say: F) -> Self {
        Self { say, said: 0, in_codes: false, plain: String::new() }
    }

    fn read(&mut self, text: &str) {
        let parts = |letter: char| letter.is_whitespace() || matches!(letter, '<' | '>' | '"' | '(' | ')');
        for raw in text.split(parts).filter(|raw| !raw.is_empty()) {
            if self.said >= MAX_WORDS {
                return;
            }
            if let Some(kind) = address(raw) {
                self.push(kind);
            } else {
                self.read_words(raw);
            }
        }
    }

    fn read_words(&mut self, raw: &str) {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        if raw.is_ascii() {
            plain.push_str(raw);
            plain.make_ascii_lowercase();
            for word in plain.split(|letter: char| !letter.is_ascii_alphanumeric()) {
                self.read_word(word, word.len(), |word| word.bytes().any(|octet| octet.is_ascii_digit()));
            }
        } else {
            let letters = raw.chars().filter(|letter| !is_invisible(*letter)).flat_map(char::to_lowercase);
            plain.extend(letters.map(look_alike));
            for word in plain.split(|letter: char| !letter.is_alphanumeric()) {
                self.read_word(word, word.chars().count(), |word| word.chars().any(char::is_numeric));
            }
        }
        self.plain = plain;
    }

    fn read_word(&mut self, word: &str, letters: usize, has_digits: impl FnOnce(&str) -> bool) {
        if letters > MAX_LETTERS || has_digits(word) {
            // Numbers, codes and keys. How many stand in a row says nothing.
            if !self.in_codes {
                self.push("#");
            }
            self.in_codes = true;
        } else if !word.is_ascii() && word.chars().any(is_ideograph) {
            for letter in word.chars() {
                self.push(letter.encode_utf8(&mut [0; 4]));
            }
        } else if !word.is_empty() {
            self.push(word);
        }
    }

    fn push(&mut self, word: &str) {
        (self.say)(word);
        self.said += 1;
        self.in_codes = false;
    }
}

/// What an address is, as far as all copies agree.
fn address(raw: &str) -> Option<&'static str> {
    let is_www = |start: &[u8]| start.eq_ignore_ascii_case(b"www.");
    let likely = memchr::memchr2(b':', b'@', raw.as_bytes()).is_some();
    if !likely && !raw.as_bytes().get(..4).is_some_and(is_www) {
        return None;
    }
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
    match letter {
        'а' | 'α' | 'à'..='å' => 'a',
        'в' => 'b',
        'с' | 'ç' => 'c',
        'ԁ' => 'd',
        'е' | 'ε' | 'è'..='ë' => 'e',
        'һ' | 'н' => 'h',
        'і' | 'ι' | 'ì'..='ï' => 'i',
        'ј' => 'j',
        'к' | 'κ' => 'k',
        'м' => 'm',
        'п' | 'ñ' => 'n',
        'о' | 'ο' | 'ò'..='ö' => 'o',
        'р' | 'ρ' => 'p',
        'г' => 'r',
        'ѕ' => 's',
        'т' | 'τ' => 't',
        'υ' | 'ù'..='ü' => 'u',
        'ν' => 'v',
        'х' => 'x',
        'у' | 'ý' | 'ÿ' => 'y',
        _ => letter,
    }
}

#[cfg(test)]
mod tests {
    use super::Reader;

    fn words(text: &str) -> String {
        let mut words = Vec::new();
        Reader::new(|word: &str| words.push(word.to_owned())).read(text);
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
            ("12 34-56 a 7 你8 9", "# a #"),
            ("WWW.C.test WwW", "@link www"),
            ("", ""),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn letters_that_look_alike_are_one() {
        for (text, expected) in [
            ("аеорсухіјѕԁһкмтвнгп", "aeopcyxijsdhkmtbhrn"),
            ("αεορυνικτ", "aeopuvikt"),
            ("àáâãäåçèéêëìíîï", "aaaaaaceeeeiiii"),
            ("ñòóôõöùúûüýÿ", "nooooouuuuyy"),
            ("ÀЕΟ ÷", "aeo"),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }
}

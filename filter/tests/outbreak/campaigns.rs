//! Spam as it is sent: one text, changed from copy to copy, through a few customers at once. Knows nothing of the engine.

use crate::dice::Dice;
use crate::mail::Mail;

/// How copies of a campaign differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Name, amount, link and subject are filled in.
    Fill,
    /// One of three words in many places.
    Synonyms,
    /// As many random words behind the text as are in it.
    PadAfter,
    /// Random words before, between and behind, half as many as are in the text.
    PadAmong,
    /// Hidden elements with random words, and tags within words.
    Html,
    /// Letters that look alike, and invisible ones.
    LookAlikes,
}

pub const CHANGES: [Change; 6] =
    [Change::Fill, Change::Synonyms, Change::PadAfter, Change::PadAmong, Change::Html, Change::LookAlikes];

/// A word, or one of several.
#[derive(Debug, Clone)]
enum Word {
    Fixed(String),
    OneOf([String; 3]),
    Name,
    Amount,
    Link,
}

pub struct Campaign {
    change: Change,
    words: Vec<Word>,
    customers: Vec<u32>,
    host: String,
}

impl Campaign {
    /// `customers` of the provider's have been broken into.
    pub fn new(change: Change, customers: u32, dice: &mut Dice) -> Self {
        let length = 40 + dice.below(160);
        // Of the words of a language some are much more frequent.
        let mut words: Vec<Word> = (0..length).map(|_| Word::Fixed(dice.frequent_word())).collect();
        words.insert(0, Word::Name);
        for _ in 0..2 {
            let at = 1 + dice.below(words.len() - 1);
            words.insert(at, Word::Link);
            let at = 1 + dice.below(words.len() - 1);
            words.insert(at, Word::Amount);
        }
        if change == Change::Synonyms {
            for word in &mut words {
                if matches!(word, Word::Fixed(_)) && dice.below(100) < 25 {
                    *word = Word::OneOf([dice.word(), dice.word(), dice.word()]);
                }
            }
        }
        let first = dice.number();
        let customers = (0..customers).map(|at| first.wrapping_add(at * 7919)).collect();
        Self { change, words, customers, host: format!("{}.example", dice.word()) }
    }

    /// The copy `number`: which customer sends it, and what.
    pub fn copy(&self, number: usize, dice: &mut Dice) -> (u32, Mail) {
        let customer = self.customers[number % self.customers.len()];
        let filled: Vec<String> = self.words.iter().map(|word| self.fill(word, dice)).collect();
        let subject = format!("{} {}", dice.name(), filled[2..6].join(" "));
        let (html, body) = self.changed(&filled, dice);
        let sender = format!("{}@{}.example", dice.word(), dice.word());
        let recipient = format!("{}@{}.example", dice.word(), dice.mail_provider());
        (customer, Mail { sender, recipient, subject, html, body })
    }

    fn fill(&self, word: &Word, dice: &mut Dice) -> String {
        match word {
            Word::Fixed(word) => word.clone(),
            Word::OneOf(words) => words[dice.below(3)].clone(),
            Word::Name => format!("Dear {} {},", dice.name(), dice.name()),
            Word::Amount => format!("${}", 100 + dice.below(90_000)),
            Word::Link => {
                format!("http://{}.{}/{}?id={}", dice.word(), self.host, dice.word(), dice.number())
            }
        }
    }

    fn changed(&self, words: &[String], dice: &mut Dice) -> (bool, String) {
        let text =
            |words: &[String]| words.chunks(12).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n");
        let random = |count: usize, dice: &mut Dice| (0..count).map(|_| dice.word()).collect::<Vec<_>>();
        match self.change {
            Change::Fill | Change::Synonyms => (false, text(words)),
            Change::PadAfter => {
                let padding = random(words.len(), dice);
                (false, format!("{}\n\n{}", text(words), text(&padding)))
            }
            Change::PadAmong => {
                let mut padded = random(words.len() / 6, dice);
                let third = words.len() / 3;
                for part in words.chunks(third.max(1)) {
                    padded.extend_from_slice(part);
                    padded.extend(random(words.len() / 8, dice));
                }
                (false, text(&padded))
            }
            Change::Html => (true, html(words, dice)),
            Change::LookAlikes => {
                (false, text(&words.iter().map(|word| disguised(word, dice)).collect::<Vec<_>>()))
            }
        }
    }
}

fn html(words: &[String], dice: &mut Dice) -> String {
    let mut html = String::from("<html><head><style>p { color: black }</style></head><body>");
    for (at, word) in words.iter().enumerate() {
        if at % 10 == 0 {
            let hidden: Vec<String> = (0..8).map(|_| dice.word()).collect();
            html.push_str(&format!("<div style=\"display:none\">{}</div><p>", hidden.join(" ")));
        }
        if dice.below(4) == 0 && word.len() > 3 && word.is_ascii() && !word.contains('/') {
            html.push_str(&format!("{}<span id=\"{}\"></span>{} ", &word[..2], dice.word(), &word[2..]));
        } else {
            html.push_str(&format!("{word} "));
        }
        html.push_str(if dice.below(9) == 0 { "<!-- x -->" } else { "" });
    }
    html + "</body></html>"
}

fn disguised(word: &str, dice: &mut Dice) -> String {
    if word.contains('/') {
        return word.into();
    }
    word.chars()
        .flat_map(|letter| {
            let other = match letter {
                'a' if dice.below(3) == 0 => 'а',
                'e' if dice.below(3) == 0 => 'е',
                'o' if dice.below(3) == 0 => 'о',
                _ => letter,
            };
            let invisible = (dice.below(12) == 0).then_some('\u{200b}');
            [Some(other), invisible].into_iter().flatten()
        })
        .collect()
}

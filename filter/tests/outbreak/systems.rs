//! Mail that programs send, as they ship it, for very many customers. Knows nothing of the engine.

use crate::dice::Dice;
use crate::mail::Mail;

/// To whom a program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Always the same administrator, outside of the customer's domain.
    Administrator,
    /// Somebody else each time.
    User,
}

/// Subject and text. `{name}`, `{host}`, `{site}`, `{n}`, `{code}`, `{link}`, `{ip}`, `{words}` are filled in.
pub struct Template {
    pub name: &'static str,
    pub to: To,
    pub subject: &'static str,
    pub body: &'static str,
}

/// What the customer `customer` sends.
pub fn mail(template: &Template, customer: u32, dice: &mut Dice) -> Mail {
    let mut own = Dice::new(u64::from(customer) * 31 + 5);
    let site = format!("{}{customer}.example", own.word());
    let recipient = match template.to {
        To::Administrator => format!("{}@{}.example", own.word(), own.mail_provider()),
        To::User => format!("{}{}@{}.example", dice.word(), dice.below(100), dice.mail_provider()),
    };
    let subject = fill(template.subject, &site, dice);
    let body = fill(template.body, &site, dice);
    Mail { sender: format!("noreply@{site}"), recipient, subject, html: body.starts_with('<'), body }
}

fn fill(text: &str, site: &str, dice: &mut Dice) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (field, after) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(before);
        filled.push_str(&match field {
            "name" => format!("{} {}", dice.name(), dice.name()),
            "host" => format!("srv{}.{site}", dice.below(4)),
            "site" => site.to_owned(),
            "n" => dice.below(5000).to_string(),
            "code" => format!("{:06}", dice.below(1_000_000)),
            "link" => format!("https://{site}/{}/{:08x}{:08x}", dice.word(), dice.number(), dice.number()),
            "ip" => {
                format!("{}.{}.{}.{}", 1 + dice.below(220), dice.below(256), dice.below(256), dice.below(256))
            }
            "words" => (0..3 + dice.below(5)).map(|_| dice.frequent_word()).collect::<Vec<_>>().join(" "),
            other => format!("{{{other}}}"),
        });
        rest = after;
    }
    filled + rest
}

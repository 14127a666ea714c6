//! What a customer is told: a script's text, in the operator's template.

use std::borrow::Cow;

use crate::config::Config;
use crate::policy::text::Filling;
use crate::policy::{Refusal, Template};

/// Of a text after its placeholders are filled in; what is beyond is cut off, since a verdict must not depend on the
/// length of a subject that is quoted in it. With code, status and id a line stays below the 512 octets of RFC 5321
/// section 4.5.3.1.5.
const MAX_LINES: usize = 10;
const MAX_LINE: usize = 400;

/// Codes that may answer RCPT and the end of data (RFC 5321 section 4.3.2), and the status that goes with each
/// (RFC 3463). 421 is not among them: it says that the connection is closed, which no verdict does.
const CODES: [(u16, &str); 8] = [
    (450, "4.2.0"),
    (451, "4.7.1"),
    (452, "4.5.3"),
    (550, "5.7.1"),
    (551, "5.7.1"),
    (552, "5.3.4"),
    (553, "5.1.3"),
    (554, "5.7.1"),
];

/// How replies are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replies {
    /// What a script's text is put into, as `{reason}`.
    pub template: Template,
    pub contact: String,
}

impl Default for Replies {
    fn default() -> Self {
        Self { template: Template::from("{reason}"), contact: String::new() }
    }
}

impl Replies {
    pub fn of(config: &Config) -> Self {
        Self { template: config.script.reply.clone(), contact: config.texts.contact.clone() }
    }
}

/// What a script wants said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) text: String,
    pub(super) code: Option<u16>,
    pub(super) status: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) limit: Option<String>,
    pub(super) contact: Option<String>,
}

/// A refusal of this class, 4 or 5. The error says what will not do.
pub(super) fn refusal(class: u16, wanted: Wanted, replies: &Replies) -> Result<Refusal, String> {
    let code = wanted.code.unwrap_or(if class == 4 { 451 } else { 550 });
    let of_class = || CODES.iter().filter(|(code, _)| code / 100 == class);
    let Some((code, usual)) = of_class().find(|(known, _)| *known == code) else {
        let known: Vec<String> = of_class().map(|(code, _)| code.to_string()).collect();
        return Err(format!("code {code} is not one of {}", known.join(", ")));
    };
    let status = match wanted.status {
        None => Cow::Borrowed(*usual),
        Some(status) if is_status(&status, class) => Cow::Owned(status),
        Some(status) => {
            return Err(format!("status {status:?} is not {class}.x.x, as in RFC 3463"));
        }
    };
    let contact = wanted.contact.as_deref().unwrap_or(&replies.contact);
    let limit = wanted.limit.as_deref().unwrap_or_default();
    let of_script = Template::from(wanted.text.as_str());
    let reason = of_script.fill(Filling { limit, contact, reason: "" });
    let text = replies.template.fill(Filling { limit, contact, reason: &reason });
    let rule = wanted.rule.map_or(Cow::Borrowed("script"), Cow::Owned);
    Ok(Refusal { rule, code: *code, status, text: bounded(&text) })
}

fn bounded(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).take(MAX_LINES);
    let lines: Vec<String> = lines.map(|line| line.chars().take(MAX_LINE).collect()).collect();
    if lines.is_empty() { "refused by this network's policy".into() } else { lines.join("\n") }
}

fn is_status(status: &str, class: u16) -> bool {
    let parts: Vec<&str> = status.split('.').collect();
    let number = |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|one| one.is_ascii_digit());
    parts.len() == 3
        && parts.iter().all(number)
        && parts.first().is_some_and(|first| *first == class.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Replies, Wanted, refusal};

    fn wanted(text: &str) -> Wanted {
        Wanted { text: text.into(), ..Wanted::default() }
    }

    #[test]
    fn placeholders_are_filled_in_once() {
        let replies = Replies { template: "{reason}\nHelp: {contact}".into(), contact: "help.test".into() };
        let wanted = Wanted { limit: Some("{contact}".into()), ..wanted("At most {limit}, {id}") };
        let refused = refusal(4, wanted, &replies).unwrap();
        assert_eq!(refused.text, "At most {contact}, {id}\nHelp: help.test");
        assert_eq!((refused.code, &*refused.status, &*refused.rule), (451, "4.7.1", "script"));
    }

    #[test]
    fn texts_are_bounded_and_never_empty() {
        let long = refusal(5, wanted(&"x".repeat(1_000_000)), &Replies::default()).unwrap();
        assert_eq!(long.text.len(), 400);
        let many = refusal(5, wanted(&"a\n\n".repeat(1000)), &Replies::default()).unwrap();
        assert_eq!(many.text.lines().count(), 10);
        let none = refusal(5, wanted(" \r\n"), &Replies::default()).unwrap();
        assert_eq!(none.text, "refused by this network's policy");
    }

    #[test]
    fn codes_and_statuses_that_say_something_else_are_errors() {
        for (class, code) in [(4, 421), (4, 550), (5, 451), (5, 521), (5, 250), (4, 0)] {
            let wanted = Wanted { code: Some(code), ..wanted("no") };
            assert!(refusal(class, wanted, &Replies::default()).is_err(), "{code}");
        }
        for status in ["5.7", "4.7.1", "5.7.x", "5.7.1 ", "5.7.1000", "5.7.1\r\n"] {
            let wanted = Wanted { status: Some(status.into()), ..wanted("no") };
            assert!(refusal(5, wanted, &Replies::default()).is_err(), "{status:?}");
        }
        let wanted = Wanted { code: Some(554), status: Some("5.7.0".into()), ..wanted("no") };
        assert_eq!(refusal(5, wanted, &Replies::default()).unwrap().status, "5.7.0");
    }
}

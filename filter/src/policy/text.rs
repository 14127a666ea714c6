//! What customers are told: templates of the operator, filled in from what holds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A line of a reply is at most 512 octets (RFC 5321 section 4.5.3.1.5); what is filled in needs room, too.
const MAX_LENGTH: usize = 1000;
const MAX_LINES: usize = 5;

const KNOWN: [&str; 4] = ["id", "limit", "reason", "contact"];

/// A text with places that are filled in: `{limit}`, `{reason}`, `{id}`, `{contact}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(String);

/// What a template is filled with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filling<'a> {
    pub limit: &'a str,
    pub reason: &'a str,
    pub contact: &'a str,
}

impl From<&str> for Template {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Template {
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.0.len() > MAX_LENGTH || self.0.lines().count() > MAX_LINES {
            return Err(format!("is longer than {MAX_LENGTH} octets or {MAX_LINES} lines"));
        }
        if let Some(other) = self.0.chars().find(|c| !c.is_ascii_graphic() && *c != ' ' && *c != '\n') {
            return Err(format!("has {other:?}; a reply is ASCII (RFC 5321 section 4.2)"));
        }
        match self.pieces().find(|piece| matches!(piece, Piece::Place(name) if !KNOWN.contains(name))) {
            Some(Piece::Place(name)) => Err(format!(
                "names {{{name}}}; known are {}",
                KNOWN.map(|name| format!("{{{name}}}")).join(", ")
            )),
            Some(Piece::Text(_)) | None => Ok(()),
        }
    }

    /// All is filled in but the id, which [`with_id`] does last.
    pub fn fill(&self, filling: Filling<'_>) -> String {
        let mut text = String::new();
        for piece in self.pieces() {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Place("limit") => text.push_str(filling.limit),
                Piece::Place("reason") => text.push_str(filling.reason),
                Piece::Place("contact") => text.push_str(filling.contact),
                Piece::Place(name) => text.push_str(&format!("{{{name}}}")),
            }
        }
        text
    }

    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut rest = self.0.as_str();
        std::iter::from_fn(move || {
            if let Some((name, behind)) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                rest = behind;
                return Some(Piece::Place(name));
            }
            let end = rest.char_indices().skip(1).find(|(_, c)| *c == '{').map_or(rest.len(), |(at, _)| at);
            let (text, behind) = rest.split_at(end);
            rest = behind;
            (!text.is_empty()).then_some(Piece::Text(text))
        })
    }
}

enum Piece<'a> {
    Text(&'a str),
    Place(&'a str),
}

/// The text with the message's id: where it says `{id}`, or else at its end. So whoever reads it can be helped.
pub(super) fn with_id(text: &str, id: &str) -> String {
    if text.contains("{id}") { text.replace("{id}", id) } else { format!("{} ({id})", text.trim_end()) }
}

/// `100 messages a minute`.
pub(super) fn limit(count: u64, what: &str, seconds: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural} {}", span(Duration::from_secs(seconds)))
}

fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86_400, "a day", "days"), (3600, "an hour", "hours"), (60, "a minute", "minutes")];
    for (unit, one, many) in units {
        if seconds == unit {
            return one.to_owned();
        }
        if seconds > unit && seconds.is_multiple_of(unit) {
            return format!("in {} {many}", seconds / unit);
        }
    }
    format!("in {seconds} seconds")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Filling, Template, limit, with_id};

    #[test]
    fn limits_are_said_as_people_say_them() {
        assert_eq!(limit(100, "message", 60), "100 messages a minute");
        assert_eq!(limit(1, "message", 3600), "1 message an hour");
        assert_eq!(limit(600, "bulk message", 28_800), "600 bulk messages in 8 hours");
        assert_eq!(limit(2, "message", 90), "2 messages in 90 seconds");
        assert_eq!(limit(5, "recipient", 86_400), "5 recipients a day");
    }

    #[test]
    fn places_are_filled_and_the_id_is_always_there() {
        let filling =
            Filling { limit: "3 messages an hour", reason: "{id} of others", contact: "https://x/{id}" };
        let text = Template::from("No more than {limit}.\nSee {contact}").fill(filling);
        assert_eq!(with_id(&text, "abc"), "No more than 3 messages an hour.\nSee https://x/abc");
        assert_eq!(with_id("Sorry", "abc"), "Sorry (abc)");
        assert_eq!(Template::from("a { b {limit").fill(filling), "a { b {limit");
    }

    #[test]
    fn what_customers_could_not_read_is_refused() {
        assert_eq!(Template::from("{limit} {id} {reason} {contact}\nx").check(), Ok(()));
        let told = |text: &str| Template::from(text).check().unwrap_err();
        assert_eq!(told("{limits}"), "names {limits}; known are {id}, {limit}, {reason}, {contact}");
        assert!(told("zu viel, später").starts_with("has 'ä'"));
        assert!(told("\r").starts_with("has '\\r'"));
        assert!(told(&"x".repeat(1001)).starts_with("is longer"));
    }

    proptest! {
        #[test]
        fn any_template_is_filled_and_none_panics(text in "[a{}limt\n ]{0,40}") {
            let template = Template::from(text.as_str());
            let filled = template.fill(Filling { limit: "L", ..Filling::default() });
            if !text.contains("{limit}") && !text.contains("{reason}") && !text.contains("{contact}") {
                prop_assert_eq!(filled, text);
            }
        }
    }
}

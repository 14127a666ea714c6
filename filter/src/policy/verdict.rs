//! Accept, or refuse with a reason.

use std::borrow::Cow;

use weir_smtp::Reply;

use super::text;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Refuse(Refusal),
}

/// Why not, and what the customer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule's name, for logs and counts.
    pub rule: Cow<'static, str>,
    pub code: u16,
    /// Enhanced status code (RFC 3463).
    pub status: Cow<'static, str>,
    pub text: String,
}

impl Refusal {
    /// 451 4.7.1: the customer's server tries again.
    pub fn defer(rule: &'static str, text: impl Into<String>) -> Self {
        Self::new(rule, 451, "4.7.1", text)
    }

    /// 550 5.7.1: the customer's server tells the sender.
    pub fn reject(rule: &'static str, text: impl Into<String>) -> Self {
        Self::new(rule, 550, "5.7.1", text)
    }

    /// Nobody knows how much was sent.
    pub fn counters_away() -> Self {
        Self::defer("counters", "Temporarily unable to check your sending rate, try later")
    }

    pub fn new(rule: &'static str, code: u16, status: &'static str, text: impl Into<String>) -> Self {
        Self { rule: rule.into(), code, status: status.into(), text: text.into() }
    }
}

impl Verdict {
    /// `accept`, `defer` or `reject`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Refuse(refusal) if refusal.code < 500 => "defer",
            Self::Refuse(_) => "reject",
        }
    }

    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Accept => None,
            Self::Refuse(refusal) => Some(refusal),
        }
    }

    /// The answer to the end of data. It carries the id, so that whoever reads it can be helped.
    pub fn reply(&self, id: &str) -> Reply {
        match self {
            Self::Accept => Reply::enhanced(250, "2.0.0", format!("accepted ({id})")),
            Self::Refuse(refusal) => {
                Reply::enhanced(refusal.code, &refusal.status, text::with_id(&refusal.text, id))
            }
        }
    }
}

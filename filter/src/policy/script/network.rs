//! What a script asks of others: names and lists in the DNS, and the provider's own HTTP services.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::timeout;

use super::Answer;
use super::ask::{Arguments, text, whole};
use crate::dns::{self, Kind, List, Listing, Record, is_name, of_address};
use crate::fetch::{Fetch, MAX_CACHE};
use crate::message::Transaction;
use crate::outside::Outside;

/// Left to a script after an answer that does not come, so that it can say what follows from that.
const MARGIN: Duration = Duration::from_millis(50);

/// Seconds for one request.
const MAX_TIMEOUT: u64 = 30;

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    Dns {
        name: String,
        kind: Kind,
    },
    /// Whether an address (else the customer's) is in a list: one of the configuration's by its name, or a zone.
    List {
        list: String,
        address: Option<IpAddr>,
        /// As a truth, not as a table.
        plain: bool,
    },
    Http(Fetch),
}

impl Question {
    /// # Errors
    /// What is wrong with the arguments.
    pub(super) fn new(function: &str, given: &Arguments) -> Result<Self, String> {
        match function {
            "dns" => dns_question(given),
            "http" => http_question(given),
            _ => {
                let list = given.text(0, "list")?;
                if !is_name(&list) {
                    return Err(format!("{list:?} is neither a list's name nor a zone"));
                }
                let address = given.maybe_text(1, "address")?.map(|text| {
                    text.parse().map_err(|_| format!("address must be an IP address, not {text:?}"))
                });
                Ok(Self::List { list, address: address.transpose()?, plain: function == "dnswl" })
            }
        }
    }

    /// Whether something may come of it where it is asked.
    pub(super) fn tells(&self) -> bool {
        matches!(self, Self::Http(fetch) if fetch.post)
    }

    /// # Errors
    /// If it may not be asked there.
    pub(super) fn admitted(&self, outside: &Outside) -> Result<(), String> {
        match self {
            Self::Http(fetch) => outside.fetcher().admits(&fetch.url),
            Self::Dns { .. } | Self::List { .. } => Ok(()),
        }
    }

    /// What a script is told where nobody is asked. `listed`: what lists are to say; none where nobody knows.
    pub(super) fn unasked(&self, listed: Option<bool>) -> Answer {
        let answer = Ipv4Addr::new(127, 0, 0, 3);
        match self {
            Self::Dns { .. } => match listed {
                Some(true) => records(&dns::Answer::Records(vec![Record::Address(answer.into())])),
                Some(false) => records(&dns::Answer::Nothing { named: false }),
                None => records(&dns::Answer::Away(String::new())),
            },
            Self::List { plain, .. } => {
                let listing = match listed {
                    Some(true) => Listing::Listed(answer),
                    Some(false) => Listing::NotListed,
                    None => Listing::Unknown,
                };
                listed_as(listing, *plain)
            }
            Self::Http(_) => fetched(Err("not asked".to_owned())),
        }
    }
}

fn dns_question(given: &Arguments) -> Result<Question, String> {
    let (name, wanted) = (given.text(0, "name")?, given.text(1, "type")?);
    let kind = Kind::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(&wanted));
    let known = || format!("{wanted:?} is none of {}", Kind::ALL.map(Kind::name).join(", "));
    let kind = kind.ok_or_else(known)?;
    let name = match name.parse::<IpAddr>() {
        Ok(address) if kind == Kind::Ptr => of_address(address),
        _ => name,
    };
    Ok(Question::Dns { name, kind })
}

fn http_question(given: &Arguments) -> Result<Question, String> {
    let mut fetch = Fetch::new(given.text(0, "url")?);
    for (key, value) in given.options(1)? {
        match key.as_str() {
            "method" => {
                fetch.post = match text(&value, "method")?.as_str() {
                    "GET" => false,
                    "POST" => true,
                    other => return Err(format!("method {other:?} is neither GET nor POST")),
                }
            }
            "body" => fetch.body = text(&value, "body")?,
            "type" => fetch.content_type = Some(text(&value, "type")?),
            "cache" => fetch.cache = Duration::from_secs(whole(&value, "cache", MAX_CACHE)?),
            "timeout" => fetch.timeout = Duration::from_secs(whole(&value, "timeout", MAX_TIMEOUT)?),
            _ => return Err(format!("{key:?} is none of method, body, type, cache and timeout")),
        }
    }
    if !fetch.post && !fetch.body.is_empty() {
        return Err("body is for method = \"POST\" only".to_owned());
    }
    Ok(Question::Http(fetch))
}

/// Asks, and is back before the script's time is over.
///
/// # Errors
/// If there is no such list, or the script may not ask there.
pub(super) async fn ask(
    outside: &Outside,
    transaction: &Transaction,
    question: Question,
    left: Duration,
) -> Result<Answer, String> {
    let limit = left.saturating_sub(MARGIN);
    if limit.is_zero() {
        return Ok(question.unasked(None));
    }
    match question {
        Question::Dns { name, kind } => {
            let answered = timeout(limit, outside.dns().ask(&name, kind)).await;
            Ok(records(&answered.unwrap_or_else(|_| dns::Answer::Away(String::new()))))
        }
        Question::List { list, address, plain } => {
            let address = address.unwrap_or(transaction.customer.address);
            let domain = transaction.envelope.sender.path.domain();
            let of_zone;
            let known = match outside.list(&list) {
                Some(known) => known,
                None if list.contains('.') => {
                    of_zone = List::of_zone(&list);
                    &of_zone
                }
                None => {
                    return Err(format!("{list:?} is none of dns.lists; a zone has a dot"));
                }
            };
            let asked = timeout(limit, known.look_up(outside.dns(), address, domain.as_deref())).await;
            Ok(listed_as(asked.unwrap_or(Listing::Unknown), plain))
        }
        Question::Http(mut fetch) => {
            fetch.timeout = fetch.timeout.min(limit);
            let answer = outside.fetcher().fetch(&fetch).await?;
            Ok(fetched(answer))
        }
    }
}

/// `unknown`: nobody knows whether there is an answer.
fn records(answer: &dns::Answer) -> Answer {
    let (answers, exists, unknown) = match answer {
        dns::Answer::Records(records) => (records.as_slice(), true, false),
        dns::Answer::Nothing { named } => (&[][..], *named, false),
        dns::Answer::Away(_) => (&[][..], false, true),
    };
    let record = |record: &Record| match record {
        Record::Address(address) => Answer::text(address.to_string()),
        Record::Mx { preference, exchange } => Answer::Table(vec![
            ("preference", Answer::Number(f64::from(*preference))),
            ("exchange", Answer::text(exchange)),
        ]),
        Record::Text(text) => Answer::text(text),
        Record::Name(name) => Answer::text(name),
    };
    Answer::Table(vec![
        ("answers", Answer::List(answers.iter().map(record).collect())),
        ("exists", Answer::Truth(exists)),
        ("unknown", Answer::Truth(unknown)),
    ])
}

fn listed_as(listing: Listing, plain: bool) -> Answer {
    let value = match listing {
        Listing::Listed(value) => Some(value),
        Listing::NotListed | Listing::Unknown => None,
    };
    if plain {
        return Answer::Truth(value.is_some());
    }
    Answer::Table(vec![
        ("listed", Answer::Truth(value.is_some())),
        ("value", Answer::maybe(value, |value| Answer::text(value.to_string()))),
        ("unknown", Answer::Truth(listing == Listing::Unknown)),
    ])
}

/// `failed`: why there is no answer; else none.
fn fetched(answer: Result<(u16, Vec<u8>), String>) -> Answer {
    let (status, body, failed) = match answer {
        Ok((status, body)) => (status, body, None),
        Err(cause) => (0, Vec::new(), Some(cause)),
    };
    Answer::Table(vec![
        ("status", Answer::Number(f64::from(status))),
        ("body", Answer::Text(body)),
        ("failed", Answer::maybe(failed, Answer::text)),
    ])
}

#[cfg(test)]
mod tests;

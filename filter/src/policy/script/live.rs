//! A message, as a script sees it, and what its questions are answered with.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use weir_smtp::envelope::Path;

use super::parts;
use super::recorded::{self, Recorded, SCANNERS};
use super::{Answer, Context, Question, Replies, World, network};
use crate::blocks::Order;
use crate::content::{Content, Limits, Watch};
use crate::facts::Facts;
use crate::message::Transaction;
use crate::quarantine::Wish;
use crate::rate::{self, Ask, Away, Counters, Moment, Once, Source};
use crate::reputation;

/// Octets of a message in which its header is sought.
const HEADER: u64 = 64 * 1024;

/// Reading a header takes no longer; what is read then is taken.
const HEADER_TIME: Duration = Duration::from_millis(100);

/// Values of one field that a script is given.
const MAX_VALUES: usize = 100;

/// Lines that a script logs about one message, and octets of each.
const MAX_LINES: usize = 20;
const MAX_LINE: usize = 1000;

/// Names counted by `stat`; further ones are counted as `other`.
const MAX_STATS: usize = 1000;

const RECIPIENT: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_XZ);

/// What `stat` has counted since the start.
#[derive(Debug, Default)]
pub struct Stats(Mutex<HashMap<String, u64>>);

impl Stats {
    pub fn count(&self, namespace: &str, key: &str) {
        let name = format!("{namespace}/{key}");
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = counts.len() >= MAX_STATS && !counts.contains_key(&name);
        *counts.entry(if full { "other".into() } else { name }).or_default() += 1;
    }

    /// By name.
    pub fn counts(&self) -> Vec<(String, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: Vec<_> = counts.iter().map(|(name, count)| (name.clone(), *count)).collect();
        counts.sort();
        counts
    }
}

/// A call of a function, as `weir-filter try` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub function: String,
    pub arguments: Vec<Answer>,
    pub answer: Result<Answer, String>,
}

/// Where counts are made.
#[derive(Debug, Clone, Copy)]
pub enum Counting<'a, C> {
    /// In the node's store, a message once, with this before each namespace: a candidate's counts are its own.
    Store(&'a Once<C>, &'static str),
    /// Nowhere: nothing was sent, and every limit is far.
    Nowhere,
}

/// What all calls of one context for one message share.
pub struct Live<'a, C> {
    pub facts: &'a Facts<'a>,
    pub context: Context,
    pub counting: Counting<'a, C>,
    /// In place of the scanners.
    pub recorded: Option<&'a Recorded>,
    pub replies: &'a Replies,
    pub stats: Option<&'a Stats>,
    pub now: Moment,
    /// In log lines.
    pub script: &'a str,
    /// Whether the script's own lines are logged.
    pub silent: bool,
    /// Whether nothing comes of what it wants done: only the answer is as if it did.
    pub only_asks: bool,
    /// What the script asks, if that is to be shown.
    pub shown: Option<Vec<Asked>>,
    /// What it was told of the parts.
    parts: Option<Answer>,
    header: Content,
    /// How often a key was counted by this script: a replay asks in the same order, and each time counts once.
    counted: HashMap<(String, String), u32>,
    logged: usize,
}

impl<'a, C: Counters> Live<'a, C> {
    pub async fn new(
        facts: &'a Facts<'a>,
        context: Context,
        counting: Counting<'a, C>,
        replies: &'a Replies,
        script: &'a str,
        now: Moment,
    ) -> Self {
        // Nobody reads what is closed to him: it has no fields.
        let length = if facts.is_closed() { 0 } else { HEADER };
        let head = facts.body().head(length).await.unwrap_or_else(|cause| {
            tracing::warn!(id = facts.transaction().id, %cause, "header not read");
            Bytes::new()
        });
        let limits = Limits { parts: 1, ..Limits::default() };
        let header = Content::read(&header_of(&head), limits, &Watch::new(HEADER_TIME));
        let (recorded, stats, counted) = (None, None, HashMap::new());
        Self {
            facts,
            context,
            counting,
            recorded,
            replies,
            stats,
            now,
            script,
            silent: false,
            only_asks: false,
            shown: None,
            parts: None,
            header,
            counted,
            logged: 0,
        }
    }

    fn transaction(&self) -> &Transaction {
        self.facts.transaction()
    }

    /// Under what a count is made once, however often an agent asks.
    fn counted_as(&self) -> String {
        let transaction = self.transaction();
        let id = &transaction.id;
        match self.context {
            Context::Connect => connection(id).to_owned(),
            Context::Rcpt => {
                // In a store that others may read; so it is not the address.
                let mut digest = RECIPIENT.digest();
                digest.update(id.as_bytes());
                if let Some(recipient) = transaction.envelope.recipients.last() {
                    digest.update(recipient.path.as_bytes());
                }
                format!("{id} {:016x}", digest.finalize())
            }
            Context::Data => id.clone(),
        }
    }

    /// What is known from MAIL on.
    fn envelope(&self) -> Vec<(&'static str, Answer)> {
        let envelope = &self.transaction().envelope;
        let sender = &envelope.sender.path;
        let (asked, others) = match (self.context, envelope.recipients.split_last()) {
            (Context::Rcpt, Some((asked, others))) => (Some(&asked.path), others),
            _ => (None, envelope.recipients.as_slice()),
        };
        vec![
            ("sender", Answer::text(sender.as_bytes())),
            ("sender_domain", Answer::maybe(sender.domain(), Answer::text)),
            ("recipient", Answer::maybe(asked, |asked| Answer::text(asked.as_bytes()))),
            ("recipient_domain", Answer::maybe(asked.and_then(Path::domain), Answer::text)),
            (
                "recipients",
                Answer::List(others.iter().map(|one| Answer::text(one.path.as_bytes())).collect()),
            ),
        ]
    }

    /// What is known when all of it is there.
    fn content(&self) -> Vec<(&'static str, Answer)> {
        vec![
            ("size", Answer::count(self.transaction().findings.size)),
            ("sasl_user", Answer::maybe(self.sasl_user(), Answer::text)),
            ("php_script", Answer::maybe(self.header.headers().php_script(), Answer::text)),
        ]
    }

    /// Whom the message's own server took for its user, as Postfix writes it when it is told to. The customer can write
    /// what he likes.
    fn sasl_user(&self) -> Option<String> {
        let received = self.header.headers().get("Received")?;
        let (_, user) = received.split_once("(Authenticated sender: ")?;
        let (user, _) = user.split_once(')')?;
        (!user.is_empty()).then(|| user.to_owned())
    }
}

/// The customer's connection, of which the agent's ids of messages are the first, second, ...; of an id that is not of
/// this kind, itself.
fn connection(id: &str) -> &str {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    id.rsplit_once('-').filter(|(_, number)| is_number(number)).map_or(id, |(connection, _)| connection)
}

/// Whether this node tells outbreaks.
pub(super) fn outbreaks(facts: &Facts<'_>) -> bool {
    facts.inside().is_some_and(|inside| inside.outbreaks().is_some())
}

/// Up to its empty line, so that no part is read.
fn header_of(head: &Bytes) -> Bytes {
    let crlf = memchr::memmem::find(head, b"\r\n\r\n").map(|at| at + 2);
    let lf = memchr::memmem::find(head, b"\n\n").map(|at| at + 1);
    let end = [crlf, lf].into_iter().flatten().min();
    if head.starts_with(b"\r\n") || head.starts_with(b"\n") {
        return Bytes::new();
    }
    end.map_or(head.clone(), |end| head.slice(..end))
}

impl<C: Counters> World for Live<'_, C> {
    fn id(&self) -> &str {
        &self.transaction().id
    }

    fn context(&self) -> Context {
        self.context
    }

    fn message(&self) -> Answer {
        let transaction = self.transaction();
        let customer = &transaction.customer;
        let source = Source::of(customer.address).to_string();
        let known = self.facts.customer();
        let metadata = known.map_or_else(Vec::new, |known| {
            known.metadata.iter().map(|(name, value)| (name.clone(), Answer::of_json(value, 0))).collect()
        });
        let destination = customer.destination;
        let port = |port: u16| Answer::Number(f64::from(port));
        let mut fields = vec![
            ("id", Answer::text(&transaction.id)),
            ("time", Answer::count(self.now.0 / 1000)),
            ("address", Answer::text(customer.address.to_canonical().to_string())),
            ("port", Answer::maybe(customer.port, port)),
            ("customer", Answer::maybe(known, |known| Answer::text(&known.id))),
            ("metadata", Answer::Map(metadata)),
            ("identity", Answer::text(self.facts.identity().to_string())),
            ("source", Answer::text(&source)),
            ("helo", Answer::maybe(customer.helo.as_ref(), Answer::text)),
            ("destination", Answer::maybe(destination, |to| Answer::text(to.address.to_string()))),
            ("destination_port", Answer::maybe(destination.and_then(|to| to.port), port)),
        ];
        if self.context != Context::Connect {
            fields.extend(self.envelope());
        }
        if self.context == Context::Data {
            fields.extend(self.content());
        }
        Answer::Table(fields)
    }

    fn replies(&self) -> &Replies {
        self.replies
    }

    fn has(&self, scanner: &str) -> bool {
        match self.recorded {
            Some(_) => SCANNERS.contains(&scanner),
            None => recorded::is_there(self.facts.results().scanners(), outbreaks(self.facts), scanner),
        }
    }

    async fn scan(&mut self, scanner: &str, depth: Option<u64>) -> Result<Answer, String> {
        match self.recorded {
            Some(recorded) => recorded.scan(scanner, depth),
            // To ask is to count.
            None if self.only_asks && scanner == "outbreak" => recorded::known_outbreak(self.facts),
            None => recorded::scan(self.facts, scanner, depth, self.now).await,
        }
    }

    async fn rate(&mut self, ask: Ask<'_>) -> Result<rate::Answer, Away> {
        let Counting::Store(counters, before) = self.counting else {
            return Ok(rate::Answer { within: true, sum: 0 });
        };
        let namespace = format!("{before}{}", ask.namespace);
        let mut id = self.counted_as();
        if ask.limit > 0 {
            let times = self.counted.entry((namespace.clone(), ask.key.to_owned())).or_default();
            if *times > 0 {
                id = format!("{id}#{times}");
            }
            *times += 1;
        }
        counters.rate(&id, Ask { namespace: &namespace, ..ask }, self.now).await
    }

    async fn parts(&mut self) -> Answer {
        if let Some(parts) = &self.parts {
            return parts.clone();
        }
        let parts = match self.recorded {
            Some(recorded) if recorded.is_away("filetype") => parts::unseen("failed"),
            _ => parts::of(self.facts).await,
        };
        self.parts.insert(parts).clone()
    }

    async fn reputation(&mut self) -> Result<u64, Away> {
        match (&self.counting, self.facts.reputation()) {
            (Counting::Store(counters, _), Some(reputation)) => {
                reputation.of(counters.counters(), &reputation::keys(self.facts), self.now).await
            }
            _ => Ok(100),
        }
    }

    async fn quarantine(&mut self) -> bool {
        let Counting::Store(counters, before) = self.counting else { return true };
        let Some(quarantine) = self.facts.quarantine() else { return false };
        let wish = Wish { rule: "script", before, now: self.now, only_asks: self.only_asks };
        quarantine.take(self.facts, counters, wish).await
    }

    async fn block(&mut self, duration: Duration, reason: &str) -> bool {
        let Counting::Store(counters, before) = self.counting else { return true };
        let Some(blocker) = self.facts.blocker() else { return false };
        let (script, now, only_asks) = (self.script, self.now, self.only_asks);
        blocker.block(self.facts, counters, Order { script, duration, reason, before, now, only_asks }).await
    }

    async fn headers(&mut self, name: &str) -> Result<Answer, String> {
        let values = self.header.headers().all(name).take(MAX_VALUES);
        Ok(Answer::List(values.map(Answer::text).collect()))
    }

    async fn ask(&mut self, question: Question, left: Duration) -> Result<Answer, String> {
        match self.facts.outside() {
            Some(outside) if self.only_asks && question.tells() => {
                question.admitted(outside).map(|()| question.unasked(None))
            }
            Some(outside) => network::ask(outside, self.transaction(), question, left).await,
            None => Ok(question.unasked(self.recorded.and_then(|recorded| recorded.listed))),
        }
    }

    fn stat(&mut self, namespace: &str, key: &str) {
        if let Some(stats) = self.stats {
            stats.count(namespace, key);
        }
    }

    fn log(&mut self, text: &str) {
        if self.silent {
            return;
        }
        self.logged += 1;
        let id = &self.transaction().id;
        if self.logged <= MAX_LINES {
            let text: String = text.chars().take(MAX_LINE).collect();
            tracing::info!(id, script = self.script, text, "script");
        } else if self.logged == MAX_LINES + 1 {
            tracing::warn!(id, script = self.script, "further lines of the script are not logged");
        }
    }

    fn asked(&mut self, function: &str, arguments: &[Answer], answer: &Result<Answer, String>) {
        if let Some(shown) = &mut self.shown {
            let (function, arguments) = (function.to_owned(), arguments.to_vec());
            shown.push(Asked { function, arguments, answer: answer.clone() });
        }
    }

    fn listens(&self) -> bool {
        self.shown.is_some()
    }
}

//! What is written of a message when there is a verdict on it: its log line and its row in the event store, from one
//! value.

use std::net::IpAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tracing::info;
use weir_daemon::log::without_addresses;

use super::Node;
use crate::content::Headers;
use crate::customers::Owner;
use crate::events::{Bypassed, Event, Infection, MAX_LISTED, Score, Step};
use crate::facts::Facts;
use crate::message::{Message, Transaction};
use crate::policy::Verdict;
use crate::policy::script::Context;

/// Octets of a message in which its header is looked for.
const MAX_HEADER: u64 = 64 * 1024;

/// What is said for the scanner where a message's parts are not looked at: its files, and whether others send it too.
const CONTENT: &str = "content";

/// A message that is judged, from its end on.
#[derive(Debug)]
pub(super) struct Judging {
    agent: IpAddr,
    /// Since when its body came.
    receiving: Option<Instant>,
    complete: Instant,
}

impl Judging {
    pub(super) fn begin(agent: IpAddr, receiving: Option<Instant>) -> Self {
        Self { agent, receiving, complete: Instant::now() }
    }

    /// The end of a message that nobody could look at.
    pub(super) fn unseen(
        &self,
        node: &Node,
        transaction: &Transaction,
        owner: Option<&Owner>,
        verdict: Verdict,
    ) -> Verdict {
        conclude(node, self.event(node, transaction, owner, &verdict), verdict, false)
    }

    /// The end of a transaction that may not begin, or of one of its recipients.
    pub(super) fn early(
        &self,
        node: &Node,
        facts: &Facts<'_>,
        context: Context,
        verdict: Verdict,
    ) -> Verdict {
        let event = self.event(node, facts.transaction(), Some(facts.owner()), &verdict);
        node.counters.refused_early();
        record(node, event.bounded(), Some(context));
        verdict
    }

    /// The end of a message, with all that was found out.
    pub(super) async fn seen(
        &self,
        node: &Node,
        message: &Message,
        facts: &Facts<'_>,
        verdict: Verdict,
    ) -> Verdict {
        let mut event = self.event(node, &message.transaction, Some(facts.owner()), &verdict);
        // Of files and outbreaks, which have no scanner that would say so.
        let spared = facts.results().spared().map(|cause| cause.name().to_owned());
        event.bypassed.extend(spared.map(|cause| Bypassed { scanner: CONTENT.to_owned(), cause }));
        for said in facts.results().known() {
            let scanner = said.scanner.to_string();
            event.scores.extend(said.report.map(|report| Score {
                scanner: scanner.clone(),
                score: report.score,
                symbols: report.symbols.clone(),
            }));
            event.infections.extend(
                said.infection.map(|name| Infection { scanner: scanner.clone(), name: name.to_string() }),
            );
            let cause = said.unscanned.map(|cause| cause.name().to_owned());
            event.bypassed.extend(cause.map(|cause| Bypassed { scanner, cause }));
        }
        for (scanner, took) in facts.results().times() {
            node.timings.scanned(&scanner, took);
            event.steps.push(Step::new(&scanner, took));
        }
        if !node.privacy.keeps_content_closed(message.transaction.customer.address) {
            event.message_id = match message.body.head(MAX_HEADER).await {
                Ok(head) => Headers::of(&head).message_id(),
                // The scanners, which read it before, have said so.
                Err(_) => None,
            };
        }
        node.timings.judged(self.complete.elapsed());
        conclude(node, event, verdict, facts.results().is_unscanned())
    }

    fn event(
        &self,
        node: &Node,
        transaction: &Transaction,
        owner: Option<&Owner>,
        verdict: &Verdict,
    ) -> Event {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let customer = &transaction.customer;
        let envelope = &transaction.envelope;
        let findings = transaction.findings;
        let addresses = node.records.as_ref().map(|records| &records.addresses);
        let stored = |path: &weir_smtp::envelope::Path| {
            addresses.filter(|_| !path.is_null()).map(|addresses| addresses.of(path.as_bytes()))
        };
        let recipients = &envelope.recipients;
        let mut domains: Vec<String> = Vec::new();
        for domain in recipients.iter().filter_map(|recipient| recipient.path.domain()) {
            if domains.len() < MAX_LISTED && !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        let refusal = verdict.refusal();
        let received = self.receiving.map(|began| Step::new("receive", self.complete.duration_since(began)));
        Event {
            at: u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX),
            id: transaction.id.clone(),
            agent: Some(self.agent.to_canonical()),
            node: node.settings.name.clone(),
            customer: owner.and_then(|owner| owner.customer.as_ref()).map(|customer| customer.id.clone()),
            customer_unknown: owner.is_some_and(|owner| owner.unknown),
            address: Some(customer.address.to_canonical()),
            destination: customer.destination.map(|destination| destination.address),
            destination_port: customer.destination.and_then(|destination| destination.port),
            helo: customer.helo.clone(),
            sender: stored(&envelope.sender.path),
            sender_domain: envelope.sender.path.domain(),
            recipients: recipients.len() as u64,
            recipient_addresses: recipients
                .iter()
                .take(MAX_LISTED)
                .filter_map(|one| stored(&one.path))
                .collect(),
            recipient_domains: domains,
            size: findings.size,
            bare_line_ends: findings.bare_lf + findings.bare_cr,
            verdict: verdict.name().into(),
            rule: refusal.map(|refusal| refusal.rule.to_string()),
            reason: refusal.map(|refusal| refusal.text.clone()),
            steps: received.into_iter().chain([Step::new("judge", self.complete.elapsed())]).collect(),
            ..Event::default()
        }
    }
}

/// Counts a verdict, writes its log line and stores it. `unscanned`: a scanner that was to look did not see all of it.
fn conclude(node: &Node, event: Event, verdict: Verdict, unscanned: bool) -> Verdict {
    let event = event.bounded();
    node.counters.judged(&verdict, unscanned);
    record(node, event, None);
    verdict
}

/// `early`: what was refused before there was a message.
fn record(node: &Node, event: Event, early: Option<Context>) {
    log(&event, early);
    if let Some(records) = &node.records {
        records.writer.event(event);
    }
}

/// No mail addresses: those are the customers' users'.
fn log(event: &Event, early: Option<Context>) {
    let score = |scanner: &str| event.scores.iter().find(|score| score.scanner == scanner);
    let (spamassassin, rspamd) = (score("spamassassin"), score("rspamd"));
    let infections = event.infections.iter().map(|one| (one.scanner.as_str(), one.name.as_str()));
    let bypassed = event.bypassed.iter().map(|one| (one.scanner.as_str(), one.cause.as_str()));
    info!(
        id = event.id,
        context = early.map(Context::name),
        customer = event.address.map(tracing::field::display),
        customer_id = event.customer,
        customer_unknown = event.customer_unknown.then_some(true),
        helo = event.helo.as_deref().map(without_addresses),
        destination = event.destination(),
        size = event.size,
        recipients = event.recipients,
        bare_line_ends = Some(event.bare_line_ends).filter(|count| *count > 0),
        message_id = event.message_id,
        verdict = event.verdict,
        rule = event.rule,
        reason = event.reason,
        score = spamassassin.map(|score| score.score),
        symbols = spamassassin.map(|score| score.symbols.as_str()),
        rspamd = rspamd.map(|score| score.score),
        rspamd_symbols = rspamd.map(|score| score.symbols.as_str()),
        infection = listed(infections),
        unscanned = listed(bypassed),
        duration_ms = event.judged(),
        "message judged"
    );
}

/// `clamav: Name, sophos: Name`
fn listed<'e>(pairs: impl Iterator<Item = (&'e str, &'e str)>) -> Option<String> {
    let listed: Vec<String> = pairs.map(|(scanner, what)| format!("{scanner}: {what}")).collect();
    (!listed.is_empty()).then(|| listed.join(", "))
}

//! Asks the store about a message, unless it is exempt.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::signature::hash;
use super::{Counted, Fingerprint, Level, MAX_RECIPIENTS, Nodes, Sighting, Signature, Store};
use crate::content::Content;
use crate::rate::{Away, Clock, Moment, Source};

/// Between whom a message goes.
#[derive(Debug, Clone, Copy)]
pub struct Who<'m> {
    /// As the operator calls him; none if nobody knows.
    pub customer: Option<&'m str>,
    pub address: IpAddr,
    /// The reverse-path; empty for notices.
    pub sender: &'m str,
    pub recipients: &'m [&'m str],
}

/// What there is to say of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    pub attachment: Level,
    pub copies: u32,
    pub customers: u32,
    /// None of a message that is too short.
    pub fingerprint: Option<Fingerprint>,
    /// Why it was not counted.
    pub exempt: Option<&'static str>,
}

/// What is never counted.
#[derive(Debug, Clone, Default)]
pub struct Exempt {
    pub customers: Vec<String>,
    /// Domains of senders, and those below them.
    pub sender_domains: Vec<String>,
    pub fingerprints: Vec<Fingerprint>,
}

#[derive(Debug)]
pub struct Engine<S> {
    store: S,
    seed: AtomicU64,
    exempt: Exempt,
}

impl<S: Store> Engine<S> {
    /// `seed`: the same on all nodes that share a store, and no sender's business.
    pub fn new(store: S, seed: u64, exempt: Exempt) -> Self {
        let lower = |names: Vec<String>| names.into_iter().map(|name| name.to_lowercase()).collect();
        let exempt = Exempt { sender_domains: lower(exempt.sender_domains), ..exempt };
        Self { store, seed: AtomicU64::new(seed), exempt }
    }

    pub fn store(&self) -> &S {
        &self.store
    }

    pub fn seed(&self) -> u64 {
        self.seed.load(Relaxed)
    }

    /// The part that takes time, more with the length of the text.
    pub fn signature(&self, content: &Content) -> Signature {
        Signature::of(content, self.seed())
    }

    /// # Errors
    /// If the store cannot be reached.
    pub async fn count(
        &self,
        signature: Signature,
        content: &Content,
        who: Who<'_>,
        now: Moment,
    ) -> Result<Finding, Away> {
        let fingerprint = signature.text.as_ref().map(|text| text.fingerprint);
        let finding = Finding { fingerprint, ..Finding::default() };
        if let Some(why) = self.exemption(fingerprint, content, who) {
            return Ok(Finding { exempt: Some(why), ..finding });
        }
        let own = domain(who.sender);
        let recipients: Vec<(u64, u64)> = who
            .recipients
            .iter()
            .filter(|recipient| own.is_empty() || !belongs(&domain(recipient), &own))
            .take(MAX_RECIPIENTS)
            .map(|recipient| (self.hash(&recipient.to_lowercase()), self.hash(&domain(recipient))))
            .collect();
        if recipients.is_empty() {
            return Ok(Finding { exempt: Some("own-domain"), ..finding });
        }
        let source = Source::of(who.address).to_string();
        let customer = who.customer.unwrap_or(&source);
        let (customer, source) = (self.hash(customer), self.hash(&source));
        let sighting = Sighting { signature, customer, source, recipients };
        let Counted { text, attachment, copies, customers } = self.store.count(&sighting, now).await?;
        Ok(Finding { level: text, attachment, copies, customers, ..finding })
    }

    fn exemption(
        &self,
        fingerprint: Option<Fingerprint>,
        content: &Content,
        who: Who<'_>,
    ) -> Option<&'static str> {
        if who.customer.is_some_and(|customer| self.exempt.customers.iter().any(|known| known == customer)) {
            return Some("customer");
        }
        let sender = domain(who.sender);
        if self.exempt.sender_domains.iter().any(|known| belongs(&sender, known)) {
            return Some("sender-domain");
        }
        let near = |print: Fingerprint| self.exempt.fingerprints.iter().any(|known| known.is_near(print));
        if fingerprint.is_some_and(near) {
            return Some("fingerprint");
        }
        // Every server of a kind writes the same notice, to whoever wrote to it.
        (who.sender.is_empty() && is_report(content)).then_some("notice")
    }

    fn hash(&self, text: &str) -> u64 {
        hash(text.as_bytes(), self.seed())
    }
}

impl Engine<Nodes> {
    /// Tells other nodes what is counted here, and counts what they tell, for as long as the node runs.
    pub async fn exchange(&self, clock: &Clock) {
        self.store.exchange(&self.seed, clock).await;
    }

    /// Forgets what came from an address without a known customer: it has a new owner.
    pub fn forget(&self, address: IpAddr) {
        self.store.memory().forget(self.hash(&Source::of(address).to_string()));
    }
}

/// multipart/report (RFC 6522).
fn is_report(content: &Content) -> bool {
    let kind = content.headers().get("Content-Type").unwrap_or_default().to_lowercase();
    kind.starts_with("multipart/report")
}

fn domain(address: &str) -> String {
    address
        .rsplit_once('@')
        .map(|(_, domain)| domain.trim_end_matches(['>', '.']).to_lowercase())
        .unwrap_or_default()
}

/// Whether `name` is `domain` or below it, or above.
fn belongs(name: &str, domain: &str) -> bool {
    let below = |name: &str, domain: &str| {
        name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    !name.is_empty()
        && !domain.is_empty()
        && (below(name, domain) || domain.contains('.') && name.contains('.') && below(domain, name))
}

//! What destinations answered to messages that were judged here: counts that policy can ask for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use weir_daemon::channel::Outcome;

use crate::bounded::Bounded;
use crate::customers::Identity;
use crate::events::Outcome as Stored;
use crate::rate::{Ask, Counters};
use crate::serve::Node;

/// Messages that are remembered until their outcome is known, about 150 bytes each.
const CAPACITY: usize = 100_000;

/// Seconds for which outcomes are kept, at least: policy asks for an hour as a rule.
const SECONDS: u64 = 3600;

/// Counts of outcomes: all of them have the customer's identity, the sender's domain, and the domain beneath the identity
/// (`IDENTITY DOMAIN`) as keys; the domain alone is what anybody says it is. Refusals for now and for good
/// are `delivery-failures`, too.
pub const NAMESPACES: [&str; 4] =
    ["deliveries", "delivery-failures", "delivery-deferrals", "delivery-rejections"];

/// The messages that were accepted lately.
#[derive(Debug)]
pub struct Judged {
    messages: Mutex<Bounded<Box<str>, About>>,
    delivered: AtomicU64,
    deferred: AtomicU64,
    rejected: AtomicU64,
    without_reply: AtomicU64,
    unknown: AtomicU64,
}

#[derive(Debug, Clone)]
struct About {
    identity: Identity,
    /// Of the sender; none for the null sender.
    domain: Option<Box<str>>,
}

impl Default for Judged {
    fn default() -> Self {
        Self {
            messages: Mutex::new(Bounded::new(CAPACITY)),
            delivered: AtomicU64::default(),
            deferred: AtomicU64::default(),
            rejected: AtomicU64::default(),
            without_reply: AtomicU64::default(),
            unknown: AtomicU64::default(),
        }
    }
}

impl Judged {
    /// A message was accepted.
    pub fn note(&self, id: &str, identity: Identity, domain: Option<&str>) {
        let about = About { identity, domain: domain.map(|domain| domain.to_ascii_lowercase().into()) };
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).insert(id.into(), about);
    }

    /// Counts what became of messages. One that was not judged here, or is reported again, counts for nobody.
    pub(super) async fn count(&self, node: &Node, outcomes: &[Outcome]) {
        for outcome in outcomes {
            let id = outcome.id.as_str();
            // Also of one that was judged before this process began: its row may be there.
            if let Some(records) = &node.records {
                let reply = if outcome.text.is_empty() { &outcome.outcome } else { &outcome.text };
                // Destinations name the recipient in it.
                let reply = records.addresses.in_text(reply);
                let stored = Stored { banner: None, code: outcome.code, reply };
                records.writer.outcome(id, stored);
            }
            let about = self.messages.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.into());
            let Some(about) = about else {
                self.unknown.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (counter, namespaces): (_, &[&str]) = match outcome.code {
                Some(200..400) => (&self.delivered, &["deliveries"]),
                Some(400..500) => (&self.deferred, &["delivery-failures", "delivery-deferrals"]),
                Some(500..600) => (&self.rejected, &["delivery-failures", "delivery-rejections"]),
                _ => (&self.without_reply, &[]),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let identity = about.identity.to_string();
            if let Some(reputation) = &node.reputation {
                let (counters, now) = (node.policy.counters(), node.clock.now());
                reputation.answered(counters, &identity, outcome.code, now).await;
            }
            let beneath = about.domain.as_ref().map(|domain| format!("{identity} {domain}"));
            for namespace in namespaces {
                let keys = [Some(identity.as_str()), about.domain.as_deref(), beneath.as_deref()];
                for key in keys.into_iter().flatten() {
                    let ask =
                        Ask { namespace, key, limit: u64::MAX, seconds: SECONDS, weight: 1, message: None };
                    let (counters, now) = (node.policy.counters(), node.clock.now());
                    // Nobody is refused for want of this one: without the shared store it is this node's own.
                    if counters.rate(ask, now).await.is_err() {
                        counters.memory().ask(ask, now);
                    }
                }
            }
        }
    }

    pub fn status(&self) -> Value {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "awaited": self.messages.lock().unwrap_or_else(PoisonError::into_inner).len(),
            "delivered": of(&self.delivered),
            "deferred": of(&self.deferred),
            "rejected": of(&self.rejected),
            "without_reply": of(&self.without_reply),
            "of_unknown_messages": of(&self.unknown),
        })
    }
}

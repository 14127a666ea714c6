//! How much may be sent: what both presets ask first.

use super::text::{self, Filling, Template};
use super::{Refusal, Settings, Step};
use crate::config::Texts;
use crate::customers::Identity;
use crate::facts::Facts;
use crate::maps::Said;
use crate::quarantine::Wish;
use crate::rate::{Ask, Counters, Moment, Once, Source};

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

/// The namespaces, which are the rules' names, too.
const SOURCE_MINUTE: &str = "outbound-minute";
const SOURCE_HOUR: &str = "outbound-hour";
const CUSTOMER_MINUTE: &str = "customer-outbound-minute";
const CUSTOMER_HOUR: &str = "customer-outbound-hour";
const RECIPIENTS: &str = "outbound-recipients";
const DOMAIN: &str = "sender-domain-hour";
const BULK: &str = "outbound-bulk";
const DOMAIN_BULK: &str = "sender-domain-bulk";
const SPAM: &str = "outbound-spam";
const DOMAIN_SPAM: &str = "sender-domain-spam";

/// One message that is judged.
pub(super) struct Case<'a, C> {
    pub(super) settings: &'a Settings,
    pub(super) facts: &'a Facts<'a>,
    counters: &'a Once<C>,
    pub(super) now: Moment,
    source: String,
    identity: Identity,
    /// What the operator's maps say.
    pub(super) said: Said,
}

/// So many in so long.
struct Limit<'a> {
    namespace: &'static str,
    key: &'a str,
    count: u64,
    seconds: u64,
    weight: u64,
    what: &'static str,
    text: &'a Template,
}

impl<'a, C: Counters> Case<'a, C> {
    pub(super) fn new(
        counters: &'a Once<C>,
        settings: &'a Settings,
        facts: &'a Facts<'a>,
        now: Moment,
    ) -> Self {
        let source = Source::of(facts.transaction().customer.address).to_string();
        let said = facts.outside().map(|outside| outside.maps().of(facts)).unwrap_or_default();
        Self { settings, facts, counters, now, source, identity: facts.identity(), said }
    }

    /// Whoever sends it is within his limits.
    pub(super) async fn sender(&self) -> Step {
        let limits = &self.settings.limits;
        self.suspect().await?;
        self.within(self.of_source(SOURCE_MINUTE, limits.messages_per_minute, MINUTE, "message")).await?;
        self.within(self.of_source(SOURCE_HOUR, limits.messages_per_hour, HOUR, "message")).await?;
        self.customer().await?;
        let recipients = self.facts.transaction().envelope.recipients.len() as u64;
        let limit = self.of_source(RECIPIENTS, limits.recipients_per_hour, HOUR, "recipient");
        self.within(Limit { weight: recipients.max(1), ..limit }).await?;
        self.of_domain(DOMAIN, limits.sender_domain_messages_per_hour, HOUR, "message").await
    }

    /// All sources of one customer, or of one prefix, together.
    async fn customer(&self) -> Step {
        if matches!(self.identity, Identity::Source(_)) {
            return Ok(());
        }
        let (limits, text) = (&self.settings.limits, &self.settings.texts.customer_limit);
        let key = self.identity.to_string();
        for (namespace, count, seconds) in [
            (CUSTOMER_MINUTE, limits.customer_messages_per_minute, MINUTE),
            (CUSTOMER_HOUR, limits.customer_messages_per_hour, HOUR),
        ] {
            self.within(Limit { namespace, key: &key, count, seconds, weight: 1, what: "message", text })
                .await?;
        }
        Ok(())
    }

    /// It is bulk mail: within the limits for that.
    pub(super) async fn bulk(&self) -> Step {
        let limits = &self.settings.limits;
        let limit = self.of_source(BULK, limits.bulk_messages, limits.class_window, "bulk message");
        self.within(limit).await?;
        self.of_domain(DOMAIN_BULK, limits.sender_domain_bulk_messages, limits.class_window, "bulk message")
            .await
    }

    /// Somebody may want to look at it. Whatever becomes of that, the message goes on.
    pub(super) async fn sample(&self, rule: &str) {
        if let Some(quarantine) = self.facts.quarantine() {
            let wish = Wish { rule, before: "", now: self.now, only_asks: false };
            quarantine.take(self.facts, self.counters, wish).await;
        }
    }

    /// It is spam: within the limits for that.
    pub(super) async fn spam(&self) -> Step {
        let limits = &self.settings.limits;
        let limit = self.of_source(SPAM, limits.spam_messages, limits.class_window, "spam message");
        self.within(limit).await?;
        self.of_domain(DOMAIN_SPAM, limits.sender_domain_spam_messages, limits.class_window, "spam message")
            .await
    }

    /// A source that has sent much spam in a day may send little.
    async fn suspect(&self) -> Step {
        let limits = &self.settings.limits;
        if limits.suspect_after == 0 || self.sum(SPAM, DAY).await? < limits.suspect_after {
            return Ok(());
        }
        let least = [
            (SOURCE_MINUTE, limits.suspect_messages_per_minute, MINUTE),
            (SOURCE_HOUR, limits.suspect_messages_per_hour, HOUR),
        ];
        for (namespace, count, seconds) in least {
            if count > 0 && self.sum(namespace, seconds).await? >= count {
                let rule = if seconds == MINUTE { "suspect-minute" } else { "suspect-hour" };
                return Err(self.beyond(rule, &self.settings.texts.suspect, count, "message", seconds));
            }
        }
        Ok(())
    }

    fn of_source(&self, namespace: &'static str, count: u64, seconds: u64, what: &'static str) -> Limit<'_> {
        let text = &self.settings.texts.limit;
        Limit { namespace, key: &self.source, count, seconds, weight: 1, what, text }
    }

    /// The sender's domain is what the customer says it is: it is counted beneath him, never in his place. A bounce has none.
    async fn of_domain(&self, namespace: &'static str, count: u64, seconds: u64, what: &'static str) -> Step {
        let Some(domain) = self.facts.transaction().envelope.sender.path.domain() else { return Ok(()) };
        let key = format!("{} {domain}", self.identity);
        let text = &self.settings.texts.limit;
        self.within(Limit { namespace, key: &key, count, seconds, weight: 1, what, text }).await
    }

    async fn within(&self, limit: Limit<'_>) -> Step {
        if limit.count == 0 {
            return Ok(());
        }
        let Limit { namespace, key, count, seconds, weight, .. } = limit;
        let ask = Ask { namespace, key, limit: count, seconds, weight, message: None };
        if self.counted(ask).await? {
            return Ok(());
        }
        Err(self.beyond(namespace, limit.text, count, limit.what, seconds))
    }

    /// Whether the message is within a limit, and counted.
    pub(super) async fn counted(&self, ask: Ask<'_>) -> Result<bool, Refusal> {
        let answer = self.counters.rate(&self.facts.transaction().id, ask, self.now).await;
        answer.map(|answer| answer.within).map_err(|cause| self.away(&cause))
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn sum(&self, namespace: &'static str, seconds: u64) -> Result<u64, Refusal> {
        let ask = Ask { namespace, key: &self.source, limit: 0, seconds, weight: 1, message: None };
        let asked = self.counters.counters().rate(ask, self.now).await;
        asked.map(|answer| answer.sum).map_err(|cause| self.away(&cause))
    }

    fn beyond(&self, rule: &'static str, text: &Template, count: u64, what: &str, seconds: u64) -> Refusal {
        Refusal::defer(rule, self.settings.texts.say(text, &text::limit(count, what, seconds), ""))
    }

    fn away(&self, cause: &crate::rate::Away) -> Refusal {
        tracing::warn!(id = self.facts.transaction().id, %cause, "counters");
        Refusal::defer("counters", self.settings.texts.say(&self.settings.texts.counters_away, "", ""))
    }
}

impl Texts {
    pub(super) fn say(&self, text: &Template, limit: &str, reason: &str) -> String {
        text.fill(Filling { limit, reason, contact: &self.contact })
    }
}

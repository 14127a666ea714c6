//! The verdict on a message. One context so far, the end of data: once for each message, whatever
//! its number of recipients.

mod verdict;

use crate::config::{Limits, SpamAssassin, WhenAway};
use crate::facts::Facts;
use crate::rate::{Ask, Counters, Moment, Once, Source};
use crate::scan::Scanned;
pub use verdict::{Refusal, Verdict};

/// Messages whose counting is remembered, in case the agent replays them: a minute's worth and more.
const REMEMBERED: usize = 100_000;

/// The default policy, from the configuration. The first refusal ends it, so no scanner is asked
/// about a message that a limit refuses.
#[derive(Debug)]
pub struct Policy<C> {
    counters: Once<C>,
    limits: Vec<Limit>,
    spam: Option<Spam>,
}

#[derive(Debug)]
struct Limit {
    namespace: &'static str,
    messages: u64,
    seconds: u64,
    span: &'static str,
}

#[derive(Debug)]
struct Spam {
    reject_at: f64,
    when_away: WhenAway,
}

impl<C: Counters> Policy<C> {
    pub fn new(counters: C, limits: &Limits, spamassassin: Option<&SpamAssassin>) -> Self {
        let minute = Limit {
            namespace: "outbound-minute",
            messages: limits.messages_per_minute,
            seconds: 60,
            span: "a minute",
        };
        let hour = Limit {
            namespace: "outbound-hour",
            messages: limits.messages_per_hour,
            seconds: 3600,
            span: "an hour",
        };
        Self {
            counters: Once::new(counters, REMEMBERED),
            limits: [minute, hour].into_iter().filter(|limit| limit.messages > 0).collect(),
            spam: spamassassin
                .map(|section| Spam { reject_at: section.reject_at, when_away: section.when_away }),
        }
    }

    pub fn counters(&self) -> &C {
        self.counters.counters()
    }

    pub async fn at_end_of_data(&self, facts: &Facts<'_>, now: Moment) -> Verdict {
        for limit in &self.limits {
            if let Some(refusal) = self.over(limit, facts, now).await {
                return Verdict::Refuse(refusal);
            }
        }
        match &self.spam {
            Some(spam) => spam.judge(facts.spamassassin().await),
            None => Verdict::Accept,
        }
    }

    async fn over(&self, limit: &Limit, facts: &Facts<'_>, now: Moment) -> Option<Refusal> {
        let transaction = facts.transaction();
        let source = Source::of(transaction.customer.address).to_string();
        let Limit { namespace, messages, seconds, span } = *limit;
        let ask = Ask { namespace, key: &source, limit: messages, seconds, weight: 1 };
        match self.counters.rate(&transaction.id, ask, now).await {
            Ok(answer) if answer.within => None,
            Ok(_) => {
                let text = format!("You may only send {messages} {} {span}, try later", plural(messages));
                Some(Refusal::defer(namespace, text))
            }
            Err(cause) => {
                tracing::warn!(id = transaction.id, %cause, "counters");
                Some(Refusal::defer("counters", "Temporarily unable to check your sending rate, try later"))
            }
        }
    }
}

impl Spam {
    fn judge(&self, scanned: &Scanned) -> Verdict {
        match scanned {
            Scanned::Found(report) | Scanned::Partly(report) if report.score >= self.reject_at => {
                let text =
                    format!("SpamAssassin score {:.1} is at or above {:.1}", report.score, self.reject_at);
                Verdict::Refuse(Refusal::reject("spamassassin", text))
            }
            Scanned::Unscanned(cause) if cause.is_failure() && self.when_away == WhenAway::Defer => {
                let text = "Temporarily unable to scan your message for spam, try later";
                Verdict::Refuse(Refusal::defer("spamassassin-away", text))
            }
            Scanned::Found(_) | Scanned::Partly(_) | Scanned::Unscanned(_) => Verdict::Accept,
        }
    }
}

fn plural(messages: u64) -> &'static str {
    if messages == 1 { "message" } else { "messages" }
}

#[cfg(test)]
mod tests;

//! How good somebody's mail has been: a number from 0 to 100, from two counts, of his messages and of points against them.
//!
//! `100 * (1 - points / (10 * (messages + 10)))`, and never below 0: a message is worth 10 points at most, and ten good ones are
//! taken for granted, so that one slip of a new customer is not the end.

use crate::config::Reputation as Config;
use crate::facts::Facts;
use crate::rate::{Ask, Away, Counters, Moment, Once, Shown, Source};

const MESSAGES: &str = "reputation-messages";
const POINTS: &str = "reputation-points";

/// As `weir-filter rates show` calls the number.
const NAME: &str = "reputation";

/// Messages without a point that everybody is given.
const GIVEN: u64 = 10;

/// Points of a message that could not be worse.
pub const WORST: u64 = 10;

/// Points for what a destination answered.
const REJECTED: u64 = 5;
const DEFERRED: u64 = 1;

#[derive(Debug)]
pub struct Reputation {
    /// That count.
    seconds: u64,
}

impl Reputation {
    /// None where it is off.
    pub fn new(config: &Config) -> Option<Self> {
        config.enabled.then_some(Self { seconds: config.days * 86_400 })
    }

    /// Counts a message that is judged, and its points. Nobody is refused for want of this: where counts are away it is left out.
    pub async fn note<C: Counters>(
        &self,
        counters: &Once<C>,
        id: &str,
        keys: &[String],
        points: u64,
        now: Moment,
    ) {
        for key in keys {
            for (namespace, weight) in [(MESSAGES, 1), (POINTS, points)] {
                let ask = self.ask(namespace, key, u64::MAX, weight);
                if weight > 0 && counters.rate(id, ask, now).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Counts what a destination answered to a message of his.
    pub async fn answered<C: Counters>(&self, counters: &C, key: &str, code: Option<u16>, now: Moment) {
        let points = match code {
            Some(400..500) => DEFERRED,
            Some(500..600) => REJECTED,
            _ => return,
        };
        let counted = counters.rate(self.ask(POINTS, key, u64::MAX, points), now).await;
        if let Err(cause) = counted {
            tracing::debug!(key, %cause, "reputation");
        }
    }

    /// The worst of these.
    ///
    /// # Errors
    /// If the counts cannot be reached.
    pub async fn of<C: Counters>(&self, counters: &C, keys: &[String], now: Moment) -> Result<u64, Away> {
        let mut worst = 100;
        for key in keys {
            let messages = counters.rate(self.ask(MESSAGES, key, 0, 1), now).await?.sum;
            let points = counters.rate(self.ask(POINTS, key, 0, 1), now).await?.sum;
            worst = worst.min(number(messages, points));
        }
        Ok(worst)
    }

    /// As an operator sees it; none of whom nothing is known.
    ///
    /// # Errors
    /// If the counts cannot be reached.
    pub async fn shown<C: Counters>(
        &self,
        counters: &C,
        key: &str,
        now: Moment,
    ) -> Result<Option<Shown>, Away> {
        let messages = counters.rate(self.ask(MESSAGES, key, 0, 1), now).await?.sum;
        let points = counters.rate(self.ask(POINTS, key, 0, 1), now).await?.sum;
        let (namespace, key, seconds) = (NAME.to_owned(), key.to_owned(), self.seconds);
        let count = number(messages, points);
        Ok((messages + points > 0).then_some(Shown { namespace, key, count, seconds }))
    }

    fn ask<'a>(&self, namespace: &'a str, key: &'a str, limit: u64, weight: u64) -> Ask<'a> {
        Ask { namespace, key, limit, seconds: self.seconds, weight, message: None }
    }
}

/// For whom a message counts: whom it is limited as, and its source.
pub fn keys(facts: &Facts<'_>) -> Vec<String> {
    let source = Source::of(facts.transaction().customer.address).to_string();
    let identity = facts.identity().to_string();
    if identity == source { vec![source] } else { vec![identity, source] }
}

fn number(messages: u64, points: u64) -> u64 {
    let most = u128::from(WORST) * (u128::from(messages) + u128::from(GIVEN));
    let lost = u128::from(points) * 100 / most;
    100 - u64::try_from(lost.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rate::Memory;
    use crate::scan::Scanners;
    use crate::scan::tests::message;

    const NOW: Moment = Moment(1_600_000_000_000);

    #[tokio::test]
    async fn what_somebody_sends_and_what_becomes_of_it_is_his_reputation() {
        let reputation = Reputation::new(&Config { enabled: true, days: 7 }).unwrap();
        let counters = Once::new(Memory::new(100), 1000);
        let keys = ["c".to_owned(), "10.1.0.2".to_owned()];
        assert_eq!(reputation.of(counters.counters(), &keys, NOW).await, Ok(100));
        assert_eq!(reputation.shown(counters.counters(), "c", NOW).await, Ok(None));
        for number in 0..10 {
            // Each comes twice, as an agent replays it.
            for _ in 0..2 {
                reputation.note(&counters, &number.to_string(), &keys[..1], 10, NOW).await;
            }
        }
        assert_eq!(reputation.of(counters.counters(), &keys, NOW).await, Ok(50));
        assert_eq!(reputation.of(counters.counters(), &keys[1..], NOW).await, Ok(100));
        for code in [None, Some(250), Some(451), Some(550)] {
            reputation.answered(counters.counters(), "c", code, NOW).await;
        }
        let shown = reputation.shown(counters.counters(), "c", NOW).await.unwrap().unwrap();
        assert_eq!((shown.namespace.as_str(), shown.count, shown.seconds), ("reputation", 47, 604_800));
        let later = Moment(NOW.0 + 8 * 86_400_000);
        assert_eq!(reputation.of(counters.counters(), &keys, later).await, Ok(100));
        assert!(Reputation::new(&Config::default()).is_none());
    }

    #[test]
    fn a_message_counts_for_its_customer_and_its_source() {
        let (message, scanners) = (message(), Scanners::default());
        assert_eq!(keys(&Facts::new(&message, &scanners)), ["10.1.0.2"]);
    }

    proptest! {
        #[test]
        fn it_is_a_percentage_that_falls_with_points_and_rises_with_messages(
            messages in any::<u64>(), points in any::<u64>(), more in 0_u64..1000
        ) {
            let reputation = number(messages, points);
            prop_assert!(reputation <= 100);
            prop_assert!(number(messages, points.saturating_add(more)) <= reputation);
            prop_assert!(number(messages.saturating_add(more), points) >= reputation);
        }
    }
}

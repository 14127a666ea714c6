//! When copies are bulk, and when they are an outbreak.
//!
//! Spam that goes through many customers comes in bursts: each of a few sends to many recipients at once. The mail of
//! systems (a password reset, an invoice, the night's log) is sent by very many, each a little, for ever. So what counts is
//! not how many send, but how many copies there are for each that does; and what a template did yesterday it may do today.

use super::Level;

/// Milliseconds.
pub const HOUR: u64 = 3_600_000;

/// A template that is sent for so long is judged by its own history.
const GROWN_UP: u64 = 24 * HOUR;

/// A burst is this many times what the template does in its usual hour.
const BURST: f64 = 4.0;

/// For so long after an outbreak its template stays one.
const REMEMBERED: u64 = 24 * HOUR;

/// Of a template that has been sent by so many customers for a day even a burst is at most bulk: it is some program's, and
/// the first of the month is when invoices are sent.
const COMMON: u32 = 20;

/// Copies are pairs of a customer and a recipient: whoever is told the same thing a hundred times was told once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measures {
    /// Copies in the last hour, as far as they are kept.
    pub copies: u32,
    /// Customers who sent them.
    pub customers: u32,
    /// Addresses that they came from.
    pub sources: u32,
    /// Domains that they went to.
    pub domains: u32,
    /// Since the first copy, milliseconds.
    pub age: u64,
    /// Messages in the hours before this one: the mean of those in which there were any, at most a day's.
    pub usual: f64,
    /// How many of the last 24 hours before this one had any.
    pub active_hours: u32,
    /// Customers in all that time, about.
    pub ever: u32,
    /// Messages in this hour.
    pub this_hour: u32,
    /// Since copies were last an outbreak, milliseconds.
    pub since_outbreak: Option<u64>,
    /// For how long messages have been counted at all, milliseconds.
    pub watched: u64,
}

/// The limits, all of the last hour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Copies that are bulk, from two customers or more.
    pub bulk: u32,
    /// Copies that are bulk, from one.
    pub bulk_single: u32,
    /// Copies that are an outbreak,
    pub outbreak: u32,
    /// from this many customers,
    pub outbreak_customers: u32,
    /// and this many for each of them.
    pub concentration: f64,
    /// Customers who send one new thing, however little each, that make it bulk. 0: no number does.
    pub spread: u32,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            bulk: 20,
            bulk_single: 200,
            outbreak: 40,
            outbreak_customers: 3,
            concentration: 2.0,
            spread: 0,
        }
    }
}

impl Rule {
    /// By what is sent now, whatever was before.
    fn now(&self, measures: &Measures) -> Level {
        let per_customer = f64::from(measures.copies) / f64::from(measures.customers.max(1));
        if measures.customers < 2 {
            return if measures.copies >= self.bulk_single { Level::Bulk } else { Level::None };
        }
        // What nobody sent on a whole day is not a program's mail, or it is a new program's.
        let is_new = measures.age < HOUR && measures.watched >= GROWN_UP;
        if per_customer < self.concentration || measures.copies < self.bulk {
            return if is_new && self.spread > 0 && measures.customers >= self.spread {
                Level::Bulk
            } else {
                Level::None
            };
        }
        let spread =
            measures.customers >= self.outbreak_customers && measures.sources >= self.outbreak_customers;
        // One recipient's domain may be where a system reports to.
        if spread && measures.copies >= self.outbreak && measures.domains >= self.outbreak_customers {
            Level::Spam
        } else {
            Level::Bulk
        }
    }

    /// And by what was before. The second says whether it is an outbreak by itself, not the rest of one.
    pub fn level(&self, measures: &Measures) -> (Level, bool) {
        let now = self.now(measures);
        let grown_up = measures.age >= GROWN_UP && measures.active_hours >= 12;
        let bursts = f64::from(measures.this_hour) > BURST * measures.usual.max(1.0);
        let level = match now {
            Level::Bulk | Level::Spam if grown_up && !bursts => Level::None,
            Level::Spam if grown_up && measures.ever >= COMMON => Level::Bulk,
            level => level,
        };
        let remembered = measures.since_outbreak.is_some_and(|since| since < REMEMBERED);
        if remembered && level != Level::Spam { (Level::Spam, false) } else { (level, level == Level::Spam) }
    }
}

#[cfg(test)]
mod tests {
    use super::{HOUR, Measures, Rule};
    use crate::outbreak::Level;

    fn level(measures: Measures) -> Level {
        Rule::default().level(&measures).0
    }

    fn burst() -> Measures {
        Measures { copies: 50, customers: 5, sources: 5, domains: 20, this_hour: 50, ..Measures::default() }
    }

    #[test]
    fn a_burst_of_several_customers_is_an_outbreak() {
        assert_eq!(level(burst()), Level::Spam);
        assert_eq!(level(Measures { copies: 39, ..burst() }), Level::Bulk);
        assert_eq!(level(Measures { copies: 19, ..burst() }), Level::None);
        assert_eq!(level(Measures { customers: 2, sources: 2, ..burst() }), Level::Bulk);
        assert_eq!(level(Measures { domains: 1, ..burst() }), Level::Bulk);
        assert_eq!(level(Measures { customers: 1, ..burst() }), Level::None);
        assert_eq!(level(Measures { customers: 1, copies: 200, ..burst() }), Level::Bulk);
    }

    #[test]
    fn many_that_send_a_little_each_are_none() {
        let steady =
            Measures { copies: 250, customers: 230, sources: 230, domains: 200, ..Measures::default() };
        assert_eq!(level(steady), Level::None);
        let learnt = Measures { watched: 24 * HOUR, ..steady };
        assert_eq!(level(learnt), Level::None);
        let spread = |measures| Rule { spread: 40, ..Rule::default() }.level(&measures).0;
        assert_eq!(spread(learnt), Level::Bulk, "new to a node that has seen a day");
        assert_eq!(spread(steady), Level::None);
        assert_eq!(spread(Measures { age: HOUR, ..learnt }), Level::None);
        assert_eq!(spread(Measures { customers: 39, copies: 40, ..learnt }), Level::None);
    }

    #[test]
    fn what_was_usual_yesterday_is_usual_today() {
        let usual = Measures { age: 30 * HOUR, active_hours: 24, usual: 40.0, ever: 10, ..burst() };
        assert_eq!(level(usual), Level::None);
        assert_eq!(level(Measures { this_hour: 161, ..usual }), Level::Spam);
        assert_eq!(level(Measures { this_hour: 161, ever: 20, ..usual }), Level::Bulk);
        assert_eq!(level(Measures { age: 23 * HOUR, ..usual }), Level::Spam);
    }

    #[test]
    fn an_outbreak_is_remembered_for_a_day_and_does_not_prolong_itself() {
        let quiet = Measures { copies: 1, customers: 1, since_outbreak: Some(HOUR), ..Measures::default() };
        assert_eq!(Rule::default().level(&quiet), (Level::Spam, false));
        assert_eq!(level(Measures { since_outbreak: Some(24 * HOUR), ..quiet }), Level::None);
        assert_eq!(Rule::default().level(&burst()), (Level::Spam, true));
    }
}

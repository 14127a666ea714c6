//! Exemptions that the agent makes by itself, and the end of those that are over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::{Author, Exemption, Pairs, Policy, Refusals, State, announce, locked, note_end};
use crate::source::Source;
use crate::steer::{BootTime, MAX_EXEMPT, Pair, Steering, Terms};

const DURATION: Duration = Duration::from_secs(86_400);

/// Pairs exempted at a time for one customer (an IPv4 address or an IPv6 /64). Who insists on TLS does so
/// towards few destinations; who fakes it would like to have many.
const MAX_PER_SOURCE: usize = 20;

/// Pairs exempted in this way at a time: the rest is the operator's.
const MAX_AUTOMATIC: usize = MAX_EXEMPT / 2;

/// Pairs that are over forgotten at a time, so that many of them don't keep others waiting. The kernel has ended them
/// already.
const MAX_OVER: usize = 1000;

const REASON: &str = "the customer wanted TLS";

impl Policy {
    /// Exempts pairs that wanted TLS, as far as their customers may be exempted.
    pub fn exempt_wanting(&self, steering: &Mutex<Box<dyn Steering>>, refusals: &Refusals, wanting: &[Pair]) {
        let mut state = self.lock();
        let until = BootTime::now().after(DURATION);
        let mut made: Vec<(Pair, Terms)> = Vec::new();
        for pair in wanting {
            if let Some(why_not) = self.why_not(&state, refusals, pair) {
                debug!(customer = %pair.customer(), destination = %pair.destination(), why_not, "wanted TLS");
                continue;
            }
            let exemption = Exemption { until, by: Author::WantedTls, reason: REASON.to_owned() };
            made.push((*pair, exemption.terms()));
            state.pairs.insert(*pair, exemption);
        }
        if made.is_empty() {
            return;
        }
        if let Err(error) = locked(steering).exempt(&made) {
            warn!(%error, pairs = made.len(), "customers wanted TLS, but could not be exempted");
            made.iter().for_each(|(pair, _)| drop(state.pairs.remove(pair)));
            return;
        }
        made.iter().filter_map(|(pair, _)| state.pairs.get_key_value(pair)).for_each(|(p, e)| announce(p, e));
        self.save_or_warn(&mut state);
    }

    fn why_not(&self, state: &State, refusals: &Refusals, pair: &Pair) -> Option<&'static str> {
        let source = Source::of(pair.customer());
        if state.pairs.contains_key(pair) {
            Some("it is exempt already")
        } else if !state.customers.contain(pair.customer()) {
            Some("it is no customer")
        } else if refusals.is_recent(source, BootTime::now()) {
            Some("a message of this customer was refused in the last 24 hours")
        } else if automatic_of(&state.pairs, source).count() >= MAX_PER_SOURCE {
            Some("this customer has as many exempt destinations as one may get")
        } else if state.pairs.len() >= MAX_AUTOMATIC {
            Some("there are as many exempt pairs as come about by themselves")
        } else {
            None
        }
    }

    /// Ends exemptions that are over, and those made by the agent for customers whose mail has been refused since.
    /// To be called every second.
    pub fn sweep(&self, steering: &Mutex<Box<dyn Steering>>, refusals: &Refusals) {
        let (mut state, now) = (self.lock(), BootTime::now());
        let mut ended: Vec<(Pair, &str)> = Vec::new();
        state.refused.extend(refusals.take_news());
        for source in &state.refused {
            let pairs = automatic_of(&state.pairs, *source);
            ended.extend(pairs.map(|pair| (*pair, "a message of the customer was refused")));
        }
        let over = state.pairs.iter().filter(|(_, exemption)| exemption.until <= now);
        ended.extend(over.take(MAX_OVER).map(|(pair, _)| (*pair, "its time is over")));
        if !ended.is_empty() {
            let pairs: Vec<Pair> = ended.iter().map(|(pair, _)| *pair).collect();
            if let Err(error) = locked(steering).unexempt(&pairs) {
                warn!(%error, pairs = pairs.len(), "exemptions could not be ended");
                return;
            }
            for (pair, why) in ended {
                if state.pairs.remove(&pair).is_some() {
                    note_end(&pair, why);
                }
            }
            state.unsaved = true;
        }
        state.refused.clear();
        self.sweep_rules(&mut state, steering, now);
        let lost = state.lost.clone();
        if state.reminder.is_due(lost.is_some(), Instant::now())
            && let Some(file) = lost
        {
            warn!(file = %file.display(), "who was blocked or exempt when the last agent ended is not known");
        }
        if state.unsaved {
            self.save_or_warn(&mut state);
        }
    }
}

/// The pairs of a source that the agent has exempted by itself.
fn automatic_of(pairs: &Pairs, source: Source) -> impl Iterator<Item = &Pair> {
    let range = match source.range() {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Pair::V4 { customer: first, destination: Ipv4Addr::UNSPECIFIED }..=Pair::V4 {
                customer: last,
                destination: Ipv4Addr::BROADCAST,
            }
        }
        (first, last) => {
            let v6 = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            Pair::V6 { customer: v6(first), destination: Ipv6Addr::UNSPECIFIED }..=Pair::V6 {
                customer: v6(last),
                destination: Ipv6Addr::from_bits(u128::MAX),
            }
        }
    };
    pairs.range(range).filter(|(_, exemption)| exemption.by == Author::WantedTls).map(|(pair, _)| pair)
}

//! The line in front of nodes that have no room: customers by turns, each customer's messages in their order.
//!
//! Every message gets the number of a round in which it is served: its customer's next one, or the one that is being
//! served (start-time fair queueing). Who has many messages in line waits for his own, not the others for them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Sleep, sleep_until};

use super::members::Choice;
use super::needs::Needs;
use super::{Chosen, Family, NodeId, Pool, State};
use crate::source::Source;

/// Who waits for a node asks again after so long at the latest: nodes come back by themselves.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A message's place: the round, and when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    round: u64,
    ticket: u64,
}

#[derive(Debug)]
struct Place {
    source: Source,
    family: Family,
    wake: Arc<Notify>,
}

/// A customer's messages in line: how many, and the last one's round.
#[derive(Debug, Default)]
struct Turns {
    messages: usize,
    last: u64,
}

#[derive(Debug, Default)]
pub struct Line {
    /// The round of the message that was served last.
    round: u64,
    tickets: u64,
    places: BTreeMap<Key, Place>,
    turns: HashMap<Source, Turns>,
    /// Messages that a node has failed already, or that only some nodes can take. They wait for another one, and hold up
    /// nobody.
    again: BTreeMap<u64, Arc<Notify>>,
}

impl Line {
    /// Messages that wait for their first node.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Somebody waits whom another message of this family must not pass.
    pub fn has(&self, family: Family) -> bool {
        self.places.values().any(|place| place.family == family)
    }

    fn next_round(&self, source: Source) -> u64 {
        self.turns.get(&source).map_or(self.round, |turns| self.round.max(turns.last + 1))
    }

    /// How many would be served before this customer's next message.
    pub fn before(&self, source: Source) -> usize {
        let end = Key { round: self.next_round(source) + 1, ticket: 0 };
        self.places.range(..end).count()
    }

    fn join(&mut self, source: Source, family: Family, wake: Arc<Notify>) -> Key {
        self.tickets += 1;
        let key = Key { round: self.next_round(source), ticket: self.tickets };
        let turns = self.turns.entry(source).or_default();
        turns.messages += 1;
        turns.last = key.round;
        self.places.insert(key, Place { source, family, wake });
        key
    }

    fn leave(&mut self, key: Key) {
        let Some(place) = self.places.remove(&key) else { return };
        if let Some(turns) = self.turns.get_mut(&place.source) {
            turns.messages -= 1;
            if turns.messages == 0 {
                self.turns.remove(&place.source);
            }
        }
        // There may be room for the next one as well.
        self.wake();
    }

    fn is_first(&self, key: Key, family: Family) -> bool {
        self.places.iter().find(|(_, place)| place.family == family).is_none_or(|(first, _)| *first >= key)
    }

    /// A node has room, perhaps.
    pub fn wake(&self) {
        for family in [Family::V4, Family::V6] {
            if let Some(place) = self.places.values().find(|place| place.family == family) {
                place.wake.notify_one();
            }
        }
        self.again.values().for_each(|wake| wake.notify_one());
    }
}

#[derive(Debug, Clone, Copy)]
enum Standing {
    InLine(Key),
    Again(u64),
}

/// A message that waits until a node has room.
#[derive(Debug)]
pub struct Waiting {
    pool: Arc<Pool>,
    tried: Vec<NodeId>,
    needs: Needs,
    family: Family,
    until: Instant,
    standing: Standing,
    wake: Arc<Notify>,
    woken: Pin<Box<OwnedNotified>>,
    again: Pin<Box<Sleep>>,
}

impl Waiting {
    /// At the end of its customer's messages in line. One that only some nodes can take holds up nobody who would be
    /// content with the others.
    pub(super) fn join(
        pool: Arc<Pool>,
        state: &mut State,
        tried: &[NodeId],
        needs: Needs,
        customer: IpAddr,
        now: Instant,
    ) -> Self {
        let has_unfit = !state.unfit(needs).is_empty();
        let wake = Arc::new(Notify::new());
        let family = Family::of(customer);
        let State { line, .. } = state;
        let standing = if tried.is_empty() && !has_unfit {
            Standing::InLine(line.join(Source::of(customer), family, wake.clone()))
        } else {
            line.tickets += 1;
            line.again.insert(line.tickets, wake.clone());
            Standing::Again(line.tickets)
        };
        let until = now + pool.max_wait;
        Self {
            pool,
            tried: tried.to_vec(),
            needs,
            family,
            until,
            standing,
            woken: Box::pin(wake.clone().notified_owned()),
            wake,
            again: Box::pin(sleep_until((now + ASK_AGAIN).min(until).into())),
        }
    }

    /// Ready when it is worth to ask again.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.woken.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { self.again.as_mut().poll(cx) }
    }

    /// Asks again.
    pub fn choose(mut self, now: Instant) -> Chosen {
        self.woken.set(self.wake.clone().notified_owned());
        self.again.as_mut().reset((now + ASK_AGAIN).min(self.until).into());
        let pool = self.pool.clone();
        let mut state = pool.state();
        let its_turn = match self.standing {
            Standing::InLine(key) => state.line.is_first(key, self.family),
            Standing::Again(_) => true,
        };
        let choice = if its_turn {
            let unfit = state.unfit(self.needs);
            state.members.choose(&self.tried, &unfit, self.family, now, &mut rand::rng())
        } else {
            Choice::Full
        };
        if choice == Choice::Full && now < self.until {
            drop(state);
            return Chosen::Later(self);
        }
        if let (Standing::InLine(key), Choice::Node { .. }) = (self.standing, choice) {
            state.line.round = state.line.round.max(key.round);
        }
        let chosen = pool.begin(&mut state, choice, self.family, now);
        drop(state);
        chosen
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        match self.standing {
            Standing::InLine(key) => state.line.leave(key),
            Standing::Again(ticket) => drop(state.line.again.remove(&ticket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(line: &mut Line, host: u8) -> Key {
        let source = Source::of([192, 0, 2, host].into());
        line.join(source, Family::V4, Arc::default())
    }

    #[test]
    fn customers_come_by_turns_and_each_ones_messages_in_their_order() {
        let mut line = Line::default();
        let large: Vec<_> = (0..4).map(|_| join(&mut line, 1)).collect();
        assert_eq!(line.before(Source::of([192, 0, 2, 1].into())), 4);
        assert_eq!(line.before(Source::of([192, 0, 2, 2].into())), 1, "only the first of the other's");
        let small = [join(&mut line, 2), join(&mut line, 3)];
        let order: Vec<_> = line.places.keys().copied().collect();
        assert_eq!(order, [large[0], small[0], small[1], large[1], large[2], large[3]]);
        assert!(line.is_first(large[0], Family::V4) && !line.is_first(small[0], Family::V4));
        assert!(line.is_first(small[0], Family::V6), "other families wait for other nodes");
        for key in &order[..4] {
            line.round = line.round.max(key.round);
            line.leave(*key);
        }
        // Who comes now is before those who have many.
        let late = join(&mut line, 4);
        assert_eq!(line.places.keys().next(), Some(&late));
        [late, large[2], large[3]].into_iter().for_each(|key| line.leave(key));
        assert!(line.len() == 0 && line.turns.is_empty());
    }
}

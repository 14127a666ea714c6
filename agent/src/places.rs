//! How many sessions each customer has, and may have: one that opens more than his share leaves the others theirs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::source::Source;
use crate::steer::Connections;

/// All customers that have sessions.
#[derive(Debug)]
pub struct Places {
    each: usize,
    taken: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    // As many entries as there are sessions, at most.
    sources: HashMap<Source, Taken>,
    /// Told with the counts locked, so that the last word is the right one.
    kernel: Option<Box<dyn Connections>>,
}

impl All {
    fn tell(&mut self, source: Source, sessions: usize) {
        if let Some(kernel) = &mut self.kernel {
            kernel.set(source, sessions);
        }
    }
}

#[derive(Debug, Default)]
struct Taken {
    sessions: usize,
    /// He has been turned away since he last had none.
    turned_away: bool,
}

/// A session's place. Given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    source: Source,
}

/// The customer has all of his places already.
#[derive(Debug, PartialEq, Eq)]
pub struct NoPlace {
    pub source: Source,
    /// Nobody has said so yet, since he last had no session.
    pub is_news: bool,
}

impl Places {
    pub fn new(each: usize, kernel: Option<Box<dyn Connections>>) -> Self {
        Self { each, taken: Mutex::new(All { sources: HashMap::new(), kernel }) }
    }

    /// A place for one more session of this customer.
    ///
    /// # Errors
    /// If he has as many as he may.
    pub fn take(self: &Arc<Self>, customer: IpAddr) -> Result<Place, NoPlace> {
        let source = Source::of(customer);
        let mut all = self.taken();
        let taken = all.sources.entry(source).or_default();
        if taken.sessions >= self.each {
            let is_news = !std::mem::replace(&mut taken.turned_away, true);
            return Err(NoPlace { source, is_news });
        }
        taken.sessions += 1;
        let sessions = taken.sessions;
        all.tell(source, sessions);
        Ok(Place { places: self.clone(), source })
    }

    fn taken(&self) -> MutexGuard<'_, All> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.places.taken();
        if let Some(taken) = all.sources.get_mut(&self.source) {
            taken.sessions -= 1;
            let sessions = taken.sessions;
            if sessions == 0 {
                all.sources.remove(&self.source);
            }
            all.tell(self.source, sessions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[derive(Debug)]
    struct Told(Arc<Mutex<Vec<(String, usize)>>>);

    impl Connections for Told {
        fn set(&mut self, source: Source, connections: usize) {
            self.0.lock().unwrap().push((source.to_string(), connections));
        }
    }

    #[test]
    fn one_customer_has_his_places_and_leaves_the_others_theirs() {
        let told = Arc::<Mutex<Vec<_>>>::default();
        let places = Arc::new(Places::new(2, Some(Box::new(Told(told.clone())))));
        let first = places.take(address("2001:db8:1:2::1")).unwrap();
        let _second = places.take(address("2001:db8:1:2:3::4")).unwrap();
        let refused = places.take(address("2001:db8:1:2::5")).unwrap_err();
        assert_eq!((refused.source.to_string().as_str(), refused.is_news), ("2001:db8:1:2::/64", true));
        assert!(!places.take(address("2001:db8:1:2::5")).unwrap_err().is_news, "said once");
        let _other = places.take(address("2001:db8:1:3::1")).unwrap();
        drop(first);
        drop(places.take(address("2001:db8:1:2::5")).unwrap());
        // The kernel hears of each change, and of nothing else.
        let (first, other) = ("2001:db8:1:2::/64".to_owned(), "2001:db8:1:3::/64".to_owned());
        let changes = [(&first, 1), (&first, 2), (&other, 1), (&first, 1), (&first, 2), (&first, 1)];
        assert_eq!(*told.lock().unwrap(), changes.map(|(source, count)| (source.clone(), count)));
    }

    #[test]
    fn an_ipv4_customer_is_the_same_in_both_ways_of_writing() {
        let places = Arc::new(Places::new(1, None));
        let held = places.take(address("::ffff:192.0.2.1")).unwrap();
        assert!(places.take(address("192.0.2.1")).is_err());
        assert!(places.take(address("192.0.2.2")).is_ok());
        drop(held);
        assert!(places.taken().sources.is_empty(), "who has no session is forgotten");
    }
}

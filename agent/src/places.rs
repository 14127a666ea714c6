//! How many sessions each customer has, and may have: one that opens more than his share leaves the others theirs.

use std::collections::{HashMap, HashSet};
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
    // As many entries as there are sessions, at most, here and in the agents before.
    sources: HashMap<Source, Taken>,
    /// Sessions of agents before this one.
    elsewhere: usize,
    /// Told with the counts locked, so that the last word is the right one.
    kernel: Option<Box<dyn Connections>>,
    /// Whose counts have changed since somebody asked, when somebody does.
    news: Option<HashSet<Source>>,
}

impl All {
    /// After a change of this source's count.
    fn changed(&mut self, source: Source) {
        let sessions = self.sources.get(&source).map_or(0, Taken::all);
        if sessions == 0 {
            self.sources.remove(&source);
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.set(source, sessions);
        }
        if let Some(news) = &mut self.news {
            news.insert(source);
        }
    }

    fn set_elsewhere(&mut self, source: Source, sessions: usize) {
        let taken = self.sources.entry(source).or_default();
        self.elsewhere = self.elsewhere - taken.elsewhere + sessions;
        taken.elsewhere = sessions;
        self.changed(source);
    }
}

#[derive(Debug, Default)]
struct Taken {
    here: usize,
    /// In agents before this one, which have handed over and finish their sessions.
    elsewhere: usize,
    /// He has been turned away since he last had none.
    turned_away: bool,
}

impl Taken {
    fn all(&self) -> usize {
        self.here + self.elsewhere
    }
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
        Self { each, taken: Mutex::new(All { kernel, ..All::default() }) }
    }

    /// A place for one more session of this customer.
    ///
    /// # Errors
    /// If he has as many as he may.
    pub fn take(self: &Arc<Self>, customer: IpAddr) -> Result<Place, NoPlace> {
        let source = Source::of(customer);
        let mut all = self.taken();
        let taken = all.sources.entry(source).or_default();
        if taken.all() >= self.each {
            let is_news = !std::mem::replace(&mut taken.turned_away, true);
            return Err(NoPlace { source, is_news });
        }
        taken.here += 1;
        all.changed(source);
        Ok(Place { places: self.clone(), source })
    }

    /// These sources have so many sessions in agents before this one.
    pub(crate) fn set_elsewhere(&self, counts: &[(IpAddr, usize)]) {
        let mut all = self.taken();
        counts.iter().for_each(|(source, sessions)| all.set_elsewhere(Source::of(*source), *sessions));
    }

    /// There is no agent before this one any more.
    pub(crate) fn forget_elsewhere(&self) {
        let mut all = self.taken();
        let sources: Vec<Source> =
            all.sources.iter().filter(|(_, taken)| taken.elsewhere > 0).map(|(source, _)| *source).collect();
        sources.into_iter().for_each(|source| all.set_elsewhere(source, 0));
    }

    /// How many sessions agents before this one have.
    pub(crate) fn elsewhere(&self) -> usize {
        self.taken().elsewhere
    }

    /// What every source has, here and elsewhere. From now on changes are remembered, for `take_news`.
    pub(crate) fn counts(&self) -> Vec<(IpAddr, usize)> {
        let mut all = self.taken();
        all.news = Some(HashSet::new());
        all.sources.iter().map(|(source, taken)| (source.address(), taken.all())).collect()
    }

    /// Counts that have changed since the last call.
    pub(crate) fn take_news(&self) -> Vec<(IpAddr, usize)> {
        let mut all = self.taken();
        let news = all.news.as_mut().map(std::mem::take).unwrap_or_default();
        let count = |source: Source| (source.address(), all.sources.get(&source).map_or(0, Taken::all));
        news.into_iter().map(count).collect()
    }

    /// Nobody will ask for news.
    pub(crate) fn forget_news(&self) {
        self.taken().news = None;
    }

    /// The kernel is told by another agent from now on.
    pub(crate) fn leave_kernel(&self) {
        self.taken().kernel = None;
    }

    fn taken(&self) -> MutexGuard<'_, All> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.places.taken();
        if let Some(taken) = all.sources.get_mut(&self.source) {
            taken.here -= 1;
            all.changed(self.source);
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

    /// A limit holds for what the customer has in all agents together, and the next one hears of each change.
    #[test]
    fn sessions_in_the_agents_before_count() {
        let told = Arc::<Mutex<Vec<_>>>::default();
        let places = Arc::new(Places::new(3, Some(Box::new(Told(told.clone())))));
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        places.set_elsewhere(&[(one, 2), (other, 1)]);
        let held = places.take(one).unwrap();
        assert!(places.take(one).is_err(), "two there, one here");
        assert_eq!(places.elsewhere(), 3);
        let mut counts = places.counts();
        counts.sort_unstable();
        assert_eq!(counts, [(one, 3), (other, 1)]);
        assert_eq!(places.take_news(), []);
        places.set_elsewhere(&[(one, 0)]);
        assert_eq!(places.take_news(), [(one, 1)]);
        let _second = places.take(one).unwrap();
        drop(held);
        places.forget_elsewhere();
        let mut news = places.take_news();
        news.sort_unstable();
        assert_eq!(news, [(one, 1), (other, 0)]);
        assert_eq!((places.elsewhere(), places.taken().sources.len()), (0, 1));
        assert_eq!(told.lock().unwrap().last(), Some(&("192.0.2.2".to_owned(), 0)));
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

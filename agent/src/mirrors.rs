//! Mirror nodes: which messages they are asked about, what they are asked with, and what came of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rand::{Rng, RngExt};
use serde::Serialize;
use serde_json::{Value, json};
use tracing::{error, info, warn};
use weir_daemon::log::said;

use crate::config;
use crate::failure::Failure;
use crate::nodes::names::Site;
use crate::nodes::{NodeId, Pool};
use crate::relay::mirror::Comparison;
use crate::relay::record::MessageId;
use crate::spool::{Budget, Loan};

/// Messages that mirror nodes were to be asked about.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// Asked about, and the end is known: one of the next three.
    mirrored: AtomicU64,
    /// A mirror node's verdict was the filter node's.
    agreed: AtomicU64,
    differed: AtomicU64,
    /// No mirror node gave a verdict.
    failed: AtomicU64,
    /// Not asked about: there was no room, here or at the mirror nodes.
    skipped: AtomicU64,
}

/// How much is mirrored.
#[derive(Debug, Clone, Copy)]
struct Extent {
    share: f64,
    max_in_flight: usize,
}

/// The mirror nodes as configured and resolved, and those of them that are filter nodes.
#[derive(Debug, Default)]
struct Known {
    sites: Vec<Site>,
    left_out: Vec<SocketAddr>,
}

#[derive(Debug)]
pub struct Mirrors {
    /// Theirs alone: they judge nothing.
    pub pool: Arc<Pool>,
    /// The filter nodes.
    judges: Arc<Pool>,
    known: Mutex<Known>,
    extent: RwLock<Option<Extent>>,
    in_flight: AtomicUsize,
    counters: Counters,
}

/// A mirrored message's place, and its spool's loan. Given back when dropped.
#[derive(Debug)]
pub struct Place {
    loan: Loan,
    slot: Slot,
}

impl Place {
    pub fn mirrors(&self) -> &Mirrors {
        &self.slot.0
    }

    /// Until its spool is wanted back.
    pub async fn recalled(&mut self) {
        self.loan.recalled().await;
    }

    /// The spool is dropped: nobody is to wait for it. The message still counts.
    pub fn without_spool(self) -> Slot {
        self.slot
    }
}

/// One of `filter.mirror.max_in_flight`. Given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Mirrors>);

impl Slot {
    pub fn mirrors(&self) -> &Mirrors {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Mirrors {
    /// `pool` is empty as yet.
    pub fn new(config: Option<&config::Mirror>, pool: Pool, judges: Arc<Pool>) -> Self {
        let mirrors = Self {
            pool: Arc::new(pool),
            judges,
            known: Mutex::default(),
            extent: RwLock::default(),
            in_flight: AtomicUsize::new(0),
            counters: Counters::default(),
        };
        mirrors.configure(config);
        mirrors
    }

    /// From the next message on.
    pub fn configure(&self, config: Option<&config::Mirror>) {
        let extent = config.map(|mirror| Extent { share: mirror.share, max_in_flight: mirror.max_in_flight });
        *self.extent.write().unwrap_or_else(PoisonError::into_inner) = extent;
    }

    /// These are the mirror nodes from now on, but for those that are filter nodes.
    pub fn set(&self, sites: &[Site]) {
        let mut known = self.known();
        known.sites = sites.to_vec();
        self.settle(&mut known);
    }

    /// The filter nodes are others now.
    pub fn recheck(&self) {
        self.settle(&mut self.known());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node by two names, or one whose name got another address, would count each message twice: the configuration's
    /// check cannot know.
    fn settle(&self, known: &mut Known) {
        let place = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        let judges: Vec<_> = self.judges.addresses().into_iter().map(place).collect();
        let judges = |site: &Site| judges.contains(&place(site.address));
        let (twice, fit): (Vec<_>, Vec<_>) = known.sites.iter().cloned().partition(judges);
        let twice: Vec<_> = twice.iter().map(|site| site.address).collect();
        if twice != known.left_out && !twice.is_empty() {
            let nodes: Vec<_> = twice.iter().map(ToString::to_string).collect();
            let nodes = nodes.join(" ");
            warn!(%nodes, "mirror nodes are left out: they are filter nodes, and would count each message twice");
        }
        known.left_out = twice;
        self.pool.set(&fit);
    }

    /// A place for a message that was judged, if it is to be mirrored and there is room. Mirroring takes only what
    /// customers do not need: of the spool at most half.
    pub fn take(self: &Arc<Self>, budget: &Budget, is_tight: bool, random: &mut impl Rng) -> Option<Place> {
        let extent = (*self.extent.read().unwrap_or_else(PoisonError::into_inner))?;
        if !random.random_bool(extent.share.clamp(0.0, 1.0)) {
            return None;
        }
        let taken = Some(()).filter(|()| !is_tight).and_then(|()| budget.lend()).and_then(|loan| {
            let next = |taken: usize| (taken < extent.max_in_flight).then_some(taken + 1);
            let taken = self.in_flight.fetch_update(Relaxed, Relaxed, next);
            taken.ok().map(|_| Place { loan, slot: Slot(self.clone()) })
        });
        if taken.is_none() {
            add(&self.counters.skipped);
        }
        taken
    }

    /// Counts and logs what came of a message.
    pub fn note(&self, comparison: &Comparison) {
        let decision = comparison.mirrored.as_ref();
        if decision.is_some_and(|decision| decision.failure == Some(Failure::FilterBusy)) {
            add(&self.counters.skipped);
            return;
        }
        let judged = decision.filter(|decision| decision.node.is_some());
        let agree = judged.map(|decision| decision.verdict == comparison.verdict);
        add(&self.counters.mirrored);
        add(match agree {
            Some(true) => &self.counters.agreed,
            Some(false) => &self.counters.differed,
            None => &self.counters.failed,
        });
        let failures = comparison.failures.iter();
        let failures: Vec<String> =
            failures.map(|(node, failure)| format!("{} {failure}", self.node_name(*node))).collect();
        info!(
            id = %comparison.id,
            node = judged.and_then(|decision| decision.node).map(|node| self.node_name(node)),
            real_verdict = comparison.verdict.name(),
            mirror_verdict = judged.map_or("none", |decision| decision.verdict.name()),
            mirror_reply = judged.and_then(|decision| decision.filter_reply.as_ref()).map(said),
            agree,
            reason = judged.is_none().then(|| reason(comparison)),
            node_failures = (!failures.is_empty()).then(|| said(failures.join("; "))),
            duration_ms = u64::try_from(comparison.duration.as_millis()).unwrap_or(u64::MAX),
            "message mirrored"
        );
    }

    /// Runs what asks about a message, to its end. One that panics has noted nothing.
    pub async fn watch(&self, id: MessageId, asking: impl Future<Output = ()> + Send + 'static) {
        if let Err(failure) = tokio::spawn(asking).await {
            error!(%id, %failure, "mirroring failed: a defect of weir-agent");
            add(&self.counters.mirrored);
            add(&self.counters.failed);
        }
    }

    pub fn node_name(&self, node: NodeId) -> String {
        self.pool.address(node).map_or_else(|| "a former node".into(), |address| address.to_string())
    }

    /// As `status` shows it. `None`: nothing is mirrored.
    pub fn status(&self) -> Option<Value> {
        let Extent { share, max_in_flight } = (*self.extent.read().unwrap_or_else(PoisonError::into_inner))?;
        Some(json!({
            "share": share,
            "max_in_flight": max_in_flight,
            "in_flight": self.in_flight.load(Relaxed),
            "messages": self.counters,
            "nodes": self.pool.status(),
        }))
    }
}

/// How long a message waits while all mirror nodes have as many as they may: it is skipped.
pub const MAX_WAIT: Duration = Duration::ZERO;

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Why there is no verdict.
fn reason(comparison: &Comparison) -> String {
    match comparison.mirrored.as_ref().and_then(|decision| decision.failure) {
        None => "cut short: customers need the room, or the agent stops".into(),
        Some(Failure::FilterUnavailable) => "no mirror node could be reached".into(),
        Some(Failure::FilterSilent) => "no verdict in time".into(),
        Some(Failure::FilterLacks(what)) => format!("no mirror node takes {what}"),
        Some(_) => "mirror nodes failed".into(),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::relay::record::SessionId;

    fn mirrors(share: f64, max_in_flight: usize) -> Arc<Mirrors> {
        let config = config::Mirror { nodes: Vec::new(), share, max_in_flight };
        Arc::new(Mirrors::new(Some(&config), pool(), Arc::new(pool())))
    }

    fn pool() -> Pool {
        Pool::new(&[], None, MAX_WAIT)
    }

    fn budget(memory_total: usize) -> Arc<Budget> {
        Arc::new(Budget::new(&config::Spool { memory_total, ..config::Spool::default() }))
    }

    fn skipped(mirrors: &Mirrors) -> u64 {
        mirrors.counters.skipped.load(Relaxed)
    }

    #[test]
    fn the_share_is_drawn_for_each_message() {
        let (budget, mut random) = (budget(1 << 20), StdRng::seed_from_u64(7));
        for (share, expected) in [(1.0, 10_000..=10_000), (0.25, 2400..=2600), (0.001, 3..=20)] {
            let mirrors = mirrors(share, usize::MAX);
            let taken = (0..10_000).filter(|_| mirrors.take(&budget, false, &mut random).is_some()).count();
            assert!(expected.contains(&taken), "{taken} of 10000 at {share}");
            assert_eq!(skipped(&mirrors), 0);
        }
        let none = Arc::new(Mirrors::new(None, pool(), Arc::new(pool())));
        assert!(none.take(&budget, false, &mut random).is_none() && none.status().is_none());
    }

    #[test]
    fn without_room_a_message_is_skipped_and_counted() {
        let (budget, mut random) = (budget(1 << 20), StdRng::seed_from_u64(7));
        let mirrors = mirrors(1.0, 2);
        let mut take = |mirrors: &Arc<Mirrors>, tight| mirrors.take(&budget, tight, &mut random);
        let (first, second) = (take(&mirrors, false), take(&mirrors, false));
        assert!(first.is_some() && second.is_some());
        assert!(take(&mirrors, false).is_none());
        assert_eq!(skipped(&mirrors), 1);
        drop(first);
        assert!(take(&mirrors, true).is_none(), "buffers are nearly full");
        assert_eq!(skipped(&mirrors), 2);
        assert!(take(&mirrors, false).is_some());
        mirrors.configure(None);
        assert!(take(&mirrors, false).is_none());
        assert_eq!(skipped(&mirrors), 2, "nothing is to be mirrored");
    }

    #[test]
    fn a_node_that_judges_is_no_mirror_node_whatever_it_is_called() {
        let sites = |nodes: &[&str]| -> Vec<Site> {
            let site = |node: &&str| Site {
                address: node.parse().unwrap(),
                host: None,
                weight: 1,
                max_in_flight: 9,
            };
            nodes.iter().map(site).collect()
        };
        let [one, two, three] = ["10.3.0.11:25", "10.3.0.12:25", "10.3.0.11:26"];
        let mirrors = mirrors(1.0, 1);
        mirrors.set(&sites(&[one, two, three, "[::ffff:10.3.0.11]:25"]));
        assert_eq!(mirrors.pool.addresses().len(), 4);
        let others = || -> Vec<_> { mirrors.pool.addresses().iter().map(ToString::to_string).collect() };
        mirrors.judges.set(&sites(&[one]));
        mirrors.recheck();
        assert_eq!(others(), [two, three]);
        mirrors.judges.set(&sites(&[two]));
        mirrors.recheck();
        assert_eq!(others(), [three, one, "[::ffff:10.3.0.11]:25"]);
        mirrors.set(&sites(&[two, one]));
        assert_eq!(others(), [one]);
    }

    #[tokio::test]
    async fn one_that_panics_is_counted_and_its_place_is_given_back() {
        let (budget, mut random) = (budget(1 << 20), StdRng::seed_from_u64(7));
        let mirrors = mirrors(1.0, 1);
        let place = mirrors.take(&budget, false, &mut random).unwrap();
        let asking = async move {
            let _place = place;
            panic!("on purpose");
        };
        mirrors.watch(SessionId::new(1).message(1), asking).await;
        let counted = [&mirrors.counters.mirrored, &mirrors.counters.failed].map(|count| count.load(Relaxed));
        assert_eq!((counted, mirrors.in_flight.load(Relaxed)), ([1, 1], 0));
    }

    #[tokio::test]
    async fn at_most_half_of_the_spool_is_for_mirrors() {
        let (budget, mut random) = (budget(128 * 1024), StdRng::seed_from_u64(7));
        let mirrors = mirrors(1.0, 10);
        let mut spools: Vec<_> = (0..5).map(|_| crate::spool::Spool::new(budget.clone())).collect();
        let (last, four) = spools.split_last_mut().unwrap();
        for spool in four {
            spool.append(vec![0; 16 * 1024].into()).await.unwrap();
        }
        assert_eq!(budget.in_memory(), 64 * 1024);
        assert!(mirrors.take(&budget, false, &mut random).is_some());
        last.append(vec![0; 1].into()).await.unwrap();
        assert!(mirrors.take(&budget, false, &mut random).is_none());
        assert_eq!(skipped(&mirrors), 1);
    }
}

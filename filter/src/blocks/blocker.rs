//! Blocks at the wish of a policy script: of whoever sends the message that it judges, for a while, and not of too many.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tracing::{error, warn};
use weir_daemon::audit::{Actor, Audit};

use super::{Blocks, Who};
use crate::config::Script;
use crate::customers::Customers;
use crate::facts::Facts;
use crate::rate::{Ask, Counters, Moment, Once};

const HOUR: u64 = 3600;

/// Where blocks of all scripts are counted.
const NAMESPACE: &str = "script-blocks";
const ALL: &str = "all";

/// Orders that are carried out at a time; two for the same one never are.
const TURNS: usize = 64;

/// What a script wants done.
#[derive(Debug, Clone, Copy)]
pub struct Order<'o> {
    /// Its name.
    pub script: &'o str,
    pub duration: Duration,
    /// What the customer is told.
    pub reason: &'o str,
    /// Before the namespace of the count.
    pub before: &'static str,
    pub now: Moment,
    /// Whether it is only asked whether he would be blocked.
    pub only_asks: bool,
}

/// Blocks for scripts.
#[derive(Debug)]
pub struct Blocker {
    max_per_hour: u64,
    /// None: nobody is ever blocked, it is only asked.
    means: Option<Means>,
    /// By whom is meant.
    turns: Vec<Arc<Turn<()>>>,
    blocked: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    /// When one was refused last.
    alarm: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone)]
struct Means {
    blocks: Arc<Blocks>,
    customers: Arc<Customers>,
    audit: Audit,
}

impl Blocker {
    pub fn new(config: &Script, blocks: Arc<Blocks>, customers: Arc<Customers>, audit: Audit) -> Self {
        Self { means: Some(Means { blocks, customers, audit }), ..Self::asked_only(config) }
    }

    /// Blocks nobody, and says whether it would.
    pub fn asked_only(config: &Script) -> Self {
        Self {
            max_per_hour: config.max_blocks_per_hour,
            means: None,
            turns: (0..TURNS).map(|_| Arc::default()).collect(),
            blocked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            alarm: Mutex::new(None),
        }
    }

    /// Blocks whom the message is counted for: the customer, else his prefix, else the source; nothing that he could forge.
    /// Whether he is blocked now. A block that there is stays as it is.
    pub async fn block<C: Counters>(&self, facts: &Facts<'_>, counters: &Once<C>, order: Order<'_>) -> bool {
        let id = &facts.transaction().id;
        let who = match Who::try_from(facts.identity().to_string()) {
            Ok(who) => who,
            Err(cause) => {
                warn!(id, script = order.script, cause, "block() of the script: he cannot be blocked");
                return false;
            }
        };
        let means = self.means.as_ref().filter(|_| !order.only_asks);
        // Messages of his that are judged at the same time wait for what comes of the first one's order.
        let turn = match means {
            Some(_) => self.turn(&who).await,
            None => None,
        };
        if means.is_some_and(|means| means.blocks.has(&who)) {
            return true;
        }
        let namespace = &format!("{}{NAMESPACE}", order.before);
        let (limit, now) = (self.max_per_hour, order.now);
        let ask = Ask { namespace, key: ALL, limit, seconds: HOUR, weight: 1, message: None };
        // He counts once in an hour, however many of his messages want it: they must not use up what there is for others.
        let counted_as = format!("{who} {}", now.0 / 1000 / HOUR);
        // No limit at all would be asked for the sum.
        let within = match counters.rate(&counted_as, ask, now).await {
            Ok(answer) => limit > 0 && answer.within,
            Err(cause) => {
                warn!(id, script = order.script, %cause, "block() of the script: not blocked");
                return false;
            }
        };
        match means {
            None => within,
            Some(_) if !within => {
                self.refuse(id, &who, order.script);
                false
            }
            Some(means) => self.carry_out(means.clone(), id, who, order, turn).await,
        }
    }

    async fn turn(&self, who: &Who) -> Option<OwnedMutexGuard<()>> {
        let mut hasher = DefaultHasher::new();
        who.to_string().hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default();
        let turn = self.turns.get(place)?.clone();
        Some(turn.lock_owned().await)
    }

    async fn carry_out(
        &self,
        means: Means,
        id: &str,
        who: Who,
        order: Order<'_>,
        turn: Option<OwnedMutexGuard<()>>,
    ) -> bool {
        let arguments = json!({
            "who": who,
            "seconds": order.duration.as_secs(),
            "reason": order.reason,
            "script": order.script,
            "message": id,
        });
        let (script, reason, duration) = (order.script.to_owned(), order.reason.to_owned(), order.duration);
        // The disk is waited for: not on a thread that serves others.
        let work = move || -> Result<(), String> {
            // Held to the end of it, also where the script's time is over before.
            let _turn = turn;
            means.audit.require(Actor::own(), "block", &arguments)?;
            let blocked = means.blocks.block(&means.customers, &who, duration, &reason, &script);
            blocked.map_err(|error| error.to_string())
        };
        let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| Err(failure.to_string()));
        match done {
            Ok(()) => {
                self.blocked.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(cause) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                error!(id, script = order.script, cause, "block() of the script: not blocked");
                false
            }
        }
    }

    fn refuse(&self, id: &str, who: &Who, script: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        *self.alarm.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        error!(
            id,
            %who,
            script,
            max_blocks_per_hour = self.max_per_hour,
            "block() of the script: not blocked, for scripts have blocked too many in this hour"
        );
    }

    pub fn status(&self) -> Value {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let alarm = *self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let alarm = alarm.filter(|since| since.elapsed() < Duration::from_secs(HOUR)).map(|_| {
            let limit = self.max_per_hour;
            format!(
                "scripts want to block more than {limit} customers in an hour (script.max_blocks_per_hour)"
            )
        });
        json!({
            "blocked": of(&self.blocked),
            "failed": of(&self.failed),
            "refused": of(&self.refused),
            "alarm": alarm,
        })
    }
}

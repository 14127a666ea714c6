//! The scripts of a node: the active one and the candidate, as their files are now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Map, Value, json};

use super::live::{Counting, Live, Stats};
use super::recorded::{SCANNERS, cannot_ask};
use super::samples::Samples;
use super::slot::{Loaded, Loading, Slot};
use super::{Context, LoadError, Replies, ScriptError};
use crate::config::{Config, OnScriptError};
use crate::facts::Facts;
use crate::policy::{Refusal, Verdict};
use crate::rate::{Counters, Moment, Once};
use crate::scan::Scanners;

/// Before the namespaces of a candidate.
const CANDIDATE: &str = "candidate:";

/// Why the verdict is not the script's.
const ERROR: &str = "script-error";

#[derive(Debug)]
pub struct Keeper {
    loading: Loading,
    on_error: OnScriptError,
    active: Option<Slot>,
    candidate: Option<Slot>,
    stats: Stats,
    compared: AtomicU64,
    differing: AtomicU64,
}

impl Keeper {
    /// # Errors
    /// Which script cannot be used, and why.
    pub async fn new(config: &Config, scanners: &Scanners) -> Result<Self, LoadError> {
        let section = &config.script;
        let replies = Replies::of(config);
        let samples = Samples::new(section.samples.as_deref())?;
        let why = |scanner| cannot_ask(scanners, config.outbreak.enabled, scanner).map(|why| (scanner, why));
        let missing = SCANNERS.into_iter().filter_map(why).collect();
        let loading = Loading { bounds: section.bounds(), replies, samples, missing };
        let mut keeper = Self {
            loading,
            on_error: section.on_script_error,
            active: None,
            candidate: None,
            stats: Stats::default(),
            compared: AtomicU64::new(0),
            differing: AtomicU64::new(0),
        };
        if let Some(path) = &section.file {
            keeper.active = Some(Slot::new(path, &keeper.loading).await?);
        }
        if let Some(path) = &section.candidate {
            keeper.candidate = Some(Slot::new(path, &keeper.loading).await?);
        }
        Ok(keeper)
    }

    /// Looks whether a file has changed. `always`: whatever their times say.
    pub async fn look_again(&self, always: bool) {
        for slot in [&self.active, &self.candidate].into_iter().flatten() {
            slot.look_again(&self.loading, always).await;
        }
    }

    /// Whether a script has something to say then.
    pub fn is_asked(&self, context: Context) -> bool {
        [&self.active, &self.candidate].into_iter().flatten().any(|slot| slot.current().is_asked(context))
    }

    /// The verdict: the script's, or `preset` where there is none for this context or it errs.
    pub async fn judge<C: Counters>(
        &self,
        context: Context,
        facts: &Facts<'_>,
        counters: &Once<C>,
        now: Moment,
        preset: impl Future<Output = Verdict> + Send,
    ) -> Verdict {
        let scripted = match &self.active {
            Some(slot) => self.ask(slot, context, facts, Counting::Store(counters, ""), now).await,
            None => None,
        };
        match scripted {
            Some(Ok(verdict)) => verdict,
            Some(Err(_)) if self.on_error == OnScriptError::Defer => {
                let text = "Temporarily unable to judge your message, try later";
                Verdict::Refuse(Refusal::defer(ERROR, text))
            }
            Some(Err(_)) | None => preset.await,
        }
    }

    /// Asks the candidate, and says where it differs from this verdict. To be done when all is written down of the message:
    /// what is found out for the candidate alone is no part of it.
    pub async fn compare<C: Counters>(
        &self,
        context: Context,
        facts: &Facts<'_>,
        counters: &Once<C>,
        now: Moment,
        verdict: &Verdict,
    ) {
        let Some(slot) = &self.candidate else { return };
        let counting = Counting::Store(counters, CANDIDATE);
        if let Some(Ok(other)) = self.ask(slot, context, facts, counting, now).await {
            self.count(facts, verdict, &other);
        }
    }

    /// None: the script says nothing of this context.
    async fn ask<C: Counters>(
        &self,
        slot: &Slot,
        context: Context,
        facts: &Facts<'_>,
        counting: Counting<'_, C>,
        now: Moment,
    ) -> Option<Result<Verdict, ScriptError>> {
        let loaded: Arc<Loaded> = slot.current();
        if !loaded.is_asked(context) {
            return None;
        }
        let script = &loaded.script;
        let own = matches!(counting, Counting::Store(_, ""));
        let mut world = Live::new(facts, context, counting, &self.loading.replies, script.name(), now).await;
        if own {
            world.stats = Some(&self.stats);
        } else {
            (world.silent, world.only_asks) = (true, true);
        }
        let result = script.call(&mut world).await;
        let error = result.as_ref().err().map(ToString::to_string);
        if let Some(error) = &error {
            tracing::warn!(id = facts.transaction().id, script = script.name(), error, "script failed");
        }
        slot.ended(&loaded, context, error.as_deref());
        Some(result.map(|verdict| verdict.unwrap_or(Verdict::Accept)))
    }

    fn count(&self, facts: &Facts<'_>, verdict: &Verdict, other: &Verdict) {
        self.compared.fetch_add(1, Relaxed);
        if other.name() == verdict.name() {
            return;
        }
        self.differing.fetch_add(1, Relaxed);
        let reason = |verdict: &Verdict| verdict.refusal().map(|refusal| refusal.text.clone());
        tracing::info!(
            id = facts.transaction().id,
            verdict = verdict.name(),
            reason = reason(verdict),
            candidate = other.name(),
            candidate_reason = reason(other),
            "the candidate's verdict differs"
        );
    }

    /// Calls and errors, of the active script and of the candidate.
    pub(crate) fn calls(&self) -> [(u64, u64); 2] {
        [&self.active, &self.candidate].map(|slot| slot.as_ref().map_or((0, 0), Slot::calls))
    }

    pub(crate) fn stats(&self) -> Vec<(String, u64)> {
        self.stats.counts()
    }

    pub fn status(&self) -> Value {
        let stats: Map<String, Value> =
            self.stats.counts().into_iter().map(|(name, count)| (name, json!(count))).collect();
        json!({
            "active": self.active.as_ref().map(Slot::status),
            "candidate": self.candidate.as_ref().map(Slot::status),
            "compared": self.compared.load(Relaxed),
            "differing": self.differing.load(Relaxed),
            "stat": stats,
        })
    }
}

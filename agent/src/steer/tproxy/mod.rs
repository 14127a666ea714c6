//! The back end for hosts where eBPF cannot be used: one nftables table with `tproxy`.

mod beats;
mod kernel;
mod nft;
mod ruleset;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use serde_json::Value;

use super::loops::Loops;
use super::routing::{self, Routing};
use super::{
    BootTime, Claim, Connections, Events, Kept, Known, Pair, Plan, RuleKind, Rules, SteerError, Steering,
    Tables, Terms, ebpf, host,
};
use crate::config::WhenAgentDies;
use crate::pulse::{Heart, Pulse};
use beats::Beats;
use kernel::Kernel;
use ruleset::{CHAIN, CUSTOMERS, FAMILY, Names, Stage, TABLE};

/// The rules, without the sets: those may be long.
const LIST_CHAIN: [&str; 4] = ["chain", FAMILY, TABLE, CHAIN];

pub(super) struct Tproxy {
    plan: Plan,
    routing: Routing,
    stage: Stage,
    state: State,
    names: Names,
    removed: bool,
    pulse: Arc<Pulse>,
    beats: Beats,
    heart: Option<Heart>,
    /// Sets of which no rule knows any more, and that could not be removed yet.
    left: Vec<String>,
    loops: Loops,
    /// Last, so that it ends after everything else.
    claim: Option<Claim>,
}

/// What is in the sets, for a table that somebody else has removed.
#[derive(Debug, Clone)]
struct State {
    exempt: BTreeMap<Pair, Terms>,
    rules: BTreeMap<RuleKind, Rules>,
    tables: Tables,
    released: Option<BootTime>,
}

impl State {
    fn is_blocking(&self) -> bool {
        self.rules.get(&RuleKind::Blocked).is_some_and(|rules| !rules.is_empty())
    }
}

/// Whether nft works here.
pub(super) fn look() -> Result<(), SteerError> {
    nft::look()?;
    nft::list(&LIST_CHAIN).map(drop)
}

/// Makes the table, in a network namespace that is not the host's.
pub(super) fn trial(plan: &Plan) -> Result<String, SteerError> {
    let state = State {
        exempt: BTreeMap::new(),
        rules: BTreeMap::new(),
        tables: plan.tables.clone(),
        released: None,
    };
    make_table(plan, &state)?;
    Ok("nft and the kernel take the table".to_owned())
}

impl Tproxy {
    pub(super) fn install(
        plan: Plan,
        known: Known,
        pulse: Arc<Pulse>,
        claim: Claim,
    ) -> Result<Self, SteerError> {
        // Only to see whether nft works here, before anything is changed.
        look()?;
        let mut steering = Self::idle(plan, known, pulse);
        steering.routing.install()?;
        if let Err(error) = steering.make_table() {
            // The table of a dead agent is untouched by a failed transaction, and inert (`open`) or
            // dropping (`closed`) without the rules.
            if let Err(error) = routing::remove_all() {
                tracing::warn!(%error, "rules and routes are left behind");
            }
            return Err(error);
        }
        (steering.removed, steering.claim) = (false, Some(claim));
        steering.start_heart()?;
        ebpf::remove_pins(&steering.plan.pin_directory)?;
        ebpf::remove_filters(&[]);
        ebpf::remove_links(&[]);
        Ok(steering)
    }

    /// To take the place of a running agent: its table is left as it is until then.
    pub(super) fn prepare(plan: Plan, known: Known, pulse: Arc<Pulse>) -> Result<Self, SteerError> {
        look()?;
        let steering = Self::idle(plan, known, pulse);
        steering.routing.repair()?;
        Ok(steering)
    }

    /// With nothing on the host.
    fn idle(plan: Plan, known: Known, pulse: Arc<Pulse>) -> Self {
        let state = State {
            exempt: known.exempt.into_iter().collect(),
            rules: known.rules,
            tables: plan.tables.clone(),
            released: known.released,
        };
        let (routing, stage) = (plan.routing(), Stage::Steering);
        Self {
            plan,
            routing,
            stage,
            state,
            names: Names::beside(&[]),
            removed: true,
            pulse,
            beats: Beats::default(),
            heart: None,
            left: Vec::new(),
            loops: Loops::default(),
            claim: None,
        }
    }

    fn start_heart(&mut self) -> Result<(), SteerError> {
        let beats = self.beats.clone();
        let heart = Heart::start(self.pulse.clone(), ruleset::BEAT, Box::new(move || beats.beat()));
        self.heart =
            Some(heart.map_err(|source| SteerError::System { what: "the heart's thread".into(), source })?);
        Ok(())
    }

    /// In one transaction, with the heart still.
    fn change(&self, commands: &[Value]) -> Result<(), SteerError> {
        let _held = self.beats.hold_for_long().map_err(no_beat)?;
        nft::apply(commands)
    }

    fn apply_stage(&mut self, stage: Stage) -> Result<(), SteerError> {
        if self.stage != stage {
            self.change(&ruleset::replace_rules(&self.plan, &self.names, stage))?;
            self.stage = stage;
        }
        Ok(())
    }

    fn make_table(&mut self) -> Result<(), SteerError> {
        let mut held = self.beats.hold();
        // Without a table nobody is alive for it.
        let _ = held.say(ruleset::LONG_SILENCE);
        self.names = make_table(&self.plan, &self.state)?;
        Ok(())
    }

    /// Puts sets of these names in the place of those that there are: `sets` makes and fills them.
    fn replace_sets(&mut self, plan: &Plan, names: Names, sets: &[Value]) -> Result<(), SteerError> {
        let rules = ruleset::replace_rules(plan, &names, self.stage);
        let outcome = self.change(sets).and_then(|()| self.change(&rules));
        if outcome.is_ok() {
            self.left.extend(names.replaced(&self.names.all()));
            self.names = names;
        } else {
            self.left.extend(self.names.replaced(&names.all()));
            // Those of these names may be left, and not be what the next ones should be.
            self.names.leave_out(&names);
        }
        self.delete_left();
        outcome
    }

    /// What is left of sets that others have replaced does no harm, and goes with the next ones.
    fn delete_left(&mut self) {
        if self.left.is_empty() || self.change(&ruleset::delete_sets(&self.left)).is_ok() {
            self.left.clear();
            return;
        }
        // One that was never made cannot be removed, and keeps the others.
        let left = std::mem::take(&mut self.left);
        let stays = |set: &String| match self.change(&ruleset::delete_sets(std::slice::from_ref(set))) {
            Ok(()) => false,
            Err(error) => {
                tracing::debug!(%error, set, "a set of prefixes that was replaced is left");
                !error.to_string().contains("No such file")
            }
        };
        self.left = left.into_iter().filter(stays).collect();
    }

    /// Of the table, in packets; none where there is no table.
    fn ask_counters(&self) -> Result<Vec<(String, u64)>, SteerError> {
        self.beats.ask(Kernel::counters).map_err(not_answered)
    }

    /// Whether SYNs of ours come back.
    fn looped_back(&mut self) -> Result<Option<String>, SteerError> {
        let now = Instant::now();
        if self.loops.is_due(now) {
            let counters = self.ask_counters()?;
            let ours = counters.into_iter().filter(|(name, _)| name == ruleset::LOOPED_BACK_DROPPED);
            self.loops.count(ours.map(|(_, count)| count).sum(), now);
        }
        Ok(self.loops.problem(now))
    }

    fn repair_routing(&self, problems: &mut Vec<String>) {
        match self.routing.repair() {
            Ok(repaired) => {
                problems.extend(repaired.iter().map(|entry| format!("was missing, put back: {entry}")));
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
}

impl Steering for Tproxy {
    fn withdraw(&mut self) -> Result<(), SteerError> {
        self.apply_stage(Stage::Withdrawn)
    }

    fn remove(&mut self) -> Result<(), SteerError> {
        if self.removed {
            return Ok(());
        }
        // It would go on about a table that is gone.
        self.heart = None;
        let table = match self.plan.when_agent_dies {
            // Whoever is blocked stays so.
            WhenAgentDies::Open if self.state.is_blocking() => self.withdraw(),
            WhenAgentDies::Open => nft::apply(&ruleset::delete_table()),
            WhenAgentDies::Closed => self.withdraw(),
        };
        let routes = routing::remove_all();
        table?;
        routes?;
        self.removed = true;
        Ok(())
    }

    fn exempt(&mut self, pairs: &[(Pair, Terms)]) -> Result<(), SteerError> {
        self.change(&ruleset::exempt(pairs, BootTime::now()))?;
        self.state.exempt.extend(pairs.iter().copied());
        Ok(())
    }

    fn unexempt(&mut self, pairs: &[Pair]) -> Result<(), SteerError> {
        self.change(&ruleset::unexempt(pairs))?;
        for pair in pairs {
            self.state.exempt.remove(pair);
        }
        Ok(())
    }

    fn release(&mut self, until: Option<BootTime>) -> Result<(), SteerError> {
        self.change(&ruleset::release(until, BootTime::now()))?;
        self.state.released = until;
        Ok(())
    }

    fn set_tables(&mut self, tables: &Tables) -> Result<(), SteerError> {
        let (mut plan, mut state) = (self.plan.clone(), self.state.clone());
        plan.set_tables(tables)?;
        state.tables = tables.clone();
        let exempt = [RuleKind::ExemptCustomer, RuleKind::ExemptDestination];
        let names = self.names.with_new(ruleset::names_of_prefixes(&exempt).chain([CUSTOMERS]));
        let mut sets = ruleset::customers(&plan, &names);
        sets.extend(filled(&exempt, &names, &plan, &state));
        self.replace_sets(&plan, names, &sets)?;
        (self.plan, self.state) = (plan, state);
        Ok(())
    }

    fn set_rules(&mut self, kind: RuleKind, rules: &Rules) -> Result<(), SteerError> {
        let mut state = self.state.clone();
        state.rules.insert(kind, rules.clone());
        let names = self.names.with_new(ruleset::names_of_prefixes(&[kind]));
        let plan = self.plan.clone();
        let sets = filled(&[kind], &names, &plan, &state);
        self.replace_sets(&plan, names, &sets)?;
        self.state = state;
        Ok(())
    }

    fn applied(&mut self, _: RuleKind) -> Result<BTreeMap<IpNet, u64>, SteerError> {
        Ok(BTreeMap::new())
    }

    fn passed(&mut self, _: &[Pair]) -> Result<BTreeMap<Pair, u64>, SteerError> {
        Ok(BTreeMap::new())
    }

    fn connections(&mut self) -> Result<Option<Box<dyn Connections>>, SteerError> {
        Ok(None)
    }

    fn pause(&mut self) -> Result<(), SteerError> {
        // The heir's beats and this agent's must not be in each other's way.
        self.heart = None;
        self.beats.say(ruleset::SHORT_SILENCE).map_err(no_beat)
    }

    fn reclaim(&mut self, touched: bool) -> Result<(), SteerError> {
        let restore = |steering: &mut Self| {
            steering.make_table()?;
            steering.routing.repair().map(drop)
        };
        let outcome = if touched { restore(self) } else { Ok(()) };
        self.start_heart()?;
        outcome
    }

    fn take_charge(&mut self, claim: Claim) -> Result<(), SteerError> {
        // The agent before may have been stopped meanwhile, and have removed them.
        self.routing.repair()?;
        self.make_table()?;
        self.start_heart()?;
        (self.removed, self.claim) = (false, Some(claim));
        Ok(())
    }

    fn leave(mut self: Box<Self>) -> Kept {
        self.removed = true;
        Box::new(())
    }

    fn counters(&mut self) -> Result<BTreeMap<String, u64>, SteerError> {
        Ok(self.ask_counters()?.into_iter().collect())
    }

    fn problems(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        self.repair_routing(&mut problems);
        match self.beats.ask(|kernel| kernel.rules(CHAIN)).map_err(not_answered) {
            Ok(rules) if rules > 0 => {}
            Ok(_) => {
                let outcome = match self.make_table() {
                    Ok(()) if self.stage == Stage::Withdrawn => {
                        self.stage = Stage::Steering;
                        self.withdraw()
                    }
                    outcome => outcome,
                };
                problems.push(match outcome {
                    Ok(()) => format!("was missing, put back: nft table {FAMILY} {TABLE}"),
                    Err(error) => format!("nft table {FAMILY} {TABLE} is missing: {error}"),
                });
            }
            Err(error) => problems.push(error.to_string()),
        }
        match self.looped_back() {
            Ok(problem) => problems.extend(problem),
            Err(error) => problems.push(error.to_string()),
        }
        if self.plan.when_agent_dies == WhenAgentDies::Open {
            problems.extend(host::forwarding_off(&self.plan).map(|setting| {
                format!("{setting} is 0: mail will not flow straight when the agent is dead")
            }));
        }
        problems.extend(host::rules_on_bridges(&self.plan).map(|setting| {
            format!("{setting} is 1: connections that come in by a bridge are not answered; set it to 0")
        }));
        if std::fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies").is_ok_and(|value| value.trim() == "2")
        {
            // The last packet of such a handshake looks like one of a connection older than the agent.
            problems.push(
                "net.ipv4.tcp_syncookies is 2: customers' connections are reset; set it to 1".to_owned(),
            );
        }
        problems
    }

    fn events(&self) -> io::Result<Option<Events>> {
        Events::of_routing()?.and_of_table(TABLE).map(Some)
    }
}

impl Drop for Tproxy {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "steering is left behind; weir-agent cleanup removes it");
        }
    }
}

fn no_beat(source: io::Error) -> SteerError {
    SteerError::System { what: format!("heartbeat in nft table {FAMILY} {TABLE}"), source }
}

fn not_answered(source: io::Error) -> SteerError {
    SteerError::System { what: format!("nft table {FAMILY} {TABLE}"), source }
}

/// Whether the sets that rules fill are among those of a table.
fn remembers(present: &[String]) -> bool {
    ruleset::remembered().all(|set| present.iter().any(|name| name == set))
}

/// Has the table hold what holds now, whatever is there. Each call of nft takes milliseconds, in which a table that somebody
/// removed is not back.
fn make_table(plan: &Plan, state: &State) -> Result<Names, SteerError> {
    let present = sets()?;
    let names = Names::beside(&present);
    let mut sets = vec![ruleset::add_table()];
    sets.extend(ruleset::customers(plan, &names));
    sets.extend(filled(&RuleKind::ALL, &names, plan, state));
    let rest = |remembers| [ruleset::refill_table(plan, &names, remembers), contents(state)].concat();
    match nft::apply(&sets).and_then(|()| nft::apply(&rest(remembers(&present)))) {
        Ok(()) => delete_sets(&names.replaced(&present)),
        Err(error) => {
            tracing::debug!(%error, "the nft table that is there is not like ours");
            nft::apply(&[ruleset::delete_table(), sets, rest(false)].concat())?;
        }
    }
    Ok(names)
}

/// The names of the table's sets.
fn sets() -> Result<Vec<String>, SteerError> {
    let objects = nft::list(&["table", FAMILY, TABLE])?.unwrap_or_default();
    Ok(objects.iter().filter_map(|object| object["set"]["name"].as_str()).map(str::to_owned).collect())
}

/// What is left of sets that others have replaced does no harm, and goes when the table is made anew.
fn delete_sets(replaced: &[String]) {
    if !replaced.is_empty()
        && let Err(error) = nft::apply(&ruleset::delete_sets(replaced))
    {
        tracing::debug!(%error, "sets of prefixes that were replaced are left");
    }
}

/// Commands that make the sets of these kinds and put what holds now into them.
fn filled(kinds: &[RuleKind], names: &Names, plan: &Plan, state: &State) -> Vec<Value> {
    let mut commands = ruleset::sets_of_prefixes(kinds, names);
    commands.extend(ruleset::fill_prefixes(kinds, names, &plan.families, state, BootTime::now()));
    commands
}

/// Commands that put what holds now into the other sets, which are empty.
fn contents(state: &State) -> Vec<Value> {
    let pairs: Vec<(Pair, Terms)> = state.exempt.iter().map(|(pair, terms)| (*pair, *terms)).collect();
    let now = BootTime::now();
    let mut commands = vec![ruleset::first_beat()];
    commands.extend(ruleset::exempt_in_empty_sets(&pairs, now));
    commands.extend(ruleset::release(state.released.filter(|until| *until > now), now));
    commands
}

/// Removes the table, if there is one; says what it was.
pub(super) fn remove_table() -> Result<Option<String>, SteerError> {
    // Without nft on the host the table cannot have been made by us.
    if !nft::is_installed() || nft::list(&LIST_CHAIN)?.is_none() {
        return Ok(None);
    }
    nft::apply(&ruleset::delete_table())?;
    Ok(Some(format!("nft table {FAMILY} {TABLE}")))
}

#[cfg(test)]
mod tests;

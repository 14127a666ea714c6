//! The strict run: mail under faults, and then the reckoning.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weir_tests::components::Backend;
use weir_tests::lab::Lab;

use crate::account::{Account, Happened};
use crate::fault::Fault;
use crate::load::Load;
use crate::remains::{self, Held};
use crate::report::Progress;
use crate::sink;
use crate::stage::{Setting, Stage};

/// One time in so many two faults come together.
const TOGETHER: u32 = 5;

/// How a run is made.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) messages: usize,
    pub(crate) senders: usize,
    pub(crate) seed: u64,
    pub(crate) backend: Backend,
    pub(crate) limit: Duration,
}

/// What a run brought.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) wanted: Wanted,
    pub(crate) took: Duration,
    pub(crate) faults: BTreeMap<Fault, usize>,
    pub(crate) account: Account,
    pub(crate) before: Vec<Held>,
    pub(crate) after: Vec<Held>,
    /// What was left over, and what else was wrong.
    pub(crate) left: Vec<String>,
}

pub(crate) fn run(lab: &Lab, wanted: &Wanted, progress: &Progress) -> Result<Outcome> {
    let mut stage = Stage::set(lab, &Setting::new(wanted.backend))?;
    let before = Held::all(&mut stage)?;
    let load = Load::new(wanted.seed, wanted.messages);
    let mut happened = Vec::new();
    thread::scope(|scope| {
        let customers: Vec<_> = (0..wanted.senders)
            .map(|worker| {
                let load = &load;
                scope.spawn(move || {
                    lab.customer.in_network(|| {
                        load.work(worker);
                        Ok(())
                    })
                })
            })
            .collect();
        let scheduled = schedule(&mut stage, &load, wanted, progress, &mut happened);
        if scheduled.is_err() {
            load.over.store(true, Relaxed);
        }
        for customer in customers {
            customer.join().map_err(|_| anyhow!("a customer panicked"))??;
        }
        scheduled
    })?;
    let took = load.start.elapsed();
    progress.say("all mail is sent; looking at what is left");
    let (after, mut left) = remains::look(&mut stage, &before)?;
    let taken = sink::read_book(&stage.book())?;
    left.extend(panics(&mut stage));
    stop(stage)?;
    let mut faults = BTreeMap::new();
    for Happened { fault, .. } in &happened {
        *faults.entry(*fault).or_default() += 1;
    }
    let account = Account::of(&load.sent(), &taken, &happened);
    Ok(Outcome { wanted: wanted.clone(), took, faults, account, before, after, left })
}

/// Until all messages are done: every kind in turn, in an order by lot, so that none is left out.
fn schedule(
    stage: &mut Stage<'_>,
    load: &Load,
    wanted: &Wanted,
    progress: &Progress,
    happened: &mut Vec<Happened>,
) -> Result<()> {
    let mut random = StdRng::seed_from_u64(wanted.seed);
    let mut order = Vec::new();
    while !load.is_done() {
        if order.is_empty() {
            order = Fault::all();
        }
        let fault = order.swap_remove(random.random_range(0..order.len()));
        let second = (random.random_range(0..TOGETHER) == 0).then(|| fault.beside(&mut random));
        let hold = Duration::from_millis(random.random_range(200..2_500));
        let gap = Duration::from_millis(random.random_range(200..1_200));
        one(stage, load, &[Some(fault), second], hold, progress, happened)?;
        pause(load, gap, wanted, progress);
    }
    Ok(())
}

/// Begins them, holds them, and ends them; all of it is in the log.
fn one(
    stage: &mut Stage<'_>,
    load: &Load,
    faults: &[Option<Fault>; 2],
    hold: Duration,
    progress: &Progress,
    happened: &mut Vec<Happened>,
) -> Result<()> {
    let first = happened.len();
    for fault in faults.iter().flatten().copied() {
        let began = load.start.elapsed();
        fault.begin(stage)?;
        happened.push(Happened { fault, began, ended: Duration::MAX });
    }
    thread::sleep(hold);
    for happened in happened[first..].iter_mut().rev() {
        happened.fault.end(stage)?;
        happened.ended = load.start.elapsed();
        let Happened { fault, began, ended } = happened;
        progress.log(&format!("{:8.2} to {:8.2} s  {fault}", began.as_secs_f64(), ended.as_secs_f64()));
    }
    Ok(())
}

fn pause(load: &Load, gap: Duration, wanted: &Wanted, progress: &Progress) {
    thread::sleep(gap);
    progress.numbers(load);
    if load.start.elapsed() > wanted.limit {
        load.over.store(true, Relaxed);
    }
}

/// Everything in the logs that calls itself a defect.
fn panics(stage: &mut Stage<'_>) -> Vec<String> {
    let mut logs = Vec::new();
    if let Some(agent) = &mut stage.agent {
        logs.push(agent.process().log().to_path_buf());
    }
    logs.extend(stage.nodes.iter_mut().flatten().map(|node| node.process().log().to_path_buf()));
    let is_bad = |line: &&str| line.contains("a defect of") || line.contains("panicked");
    logs.iter()
        .flat_map(|log| {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            text.lines().filter(is_bad).take(3).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// Everything ends when it is told to.
fn stop(mut stage: Stage<'_>) -> Result<()> {
    let began = Instant::now();
    if let Some(agent) = stage.agent.take() {
        agent.stop()?;
    }
    for node in stage.nodes.iter_mut().filter_map(Option::take) {
        node.stop()?;
    }
    ensure!(began.elapsed() < Duration::from_secs(20), "the daemons took {:?} to stop", began.elapsed());
    Ok(())
}

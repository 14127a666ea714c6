//! What sessions cost that say nothing: opened, greeted, and held.

use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use nix::sys::resource::{Resource, getrlimit};

use crate::cell::{self, Cell, Counts, KIB};
use crate::path::{Part, Path, Route};
use crate::stage::{Stage, customers, destination};
use crate::talk::Talk;
use crate::usage;

const LEVELS: [usize; 4] = [0, 1_000, 10_000, 50_000];

/// Where there are fewer descriptors than the last level needs: as many sessions as the agent takes with what there is, which
/// counts five for each, and has a reserve.
const PER_SESSION: u64 = 5;
const RESERVE: u64 = 500;

const OPENERS: usize = 16;

/// Memory that was used a moment ago may be given back a moment later.
const REST: Duration = Duration::from_secs(2);

/// What was in memory with so many sessions.
#[derive(Debug, Clone)]
pub(crate) struct Idle {
    pub(crate) sessions: usize,
    /// Kilobytes of all parts but filter nodes, which have no part in it.
    pub(crate) resident: u64,
    /// Messages a second beside them.
    pub(crate) rate: Option<f64>,
}

/// None for a way without a program.
pub(crate) fn measure(stage: &Stage<'_>, path: Path, time: Duration, quick: bool) -> Result<Vec<Idle>> {
    let route = path.open(stage)?;
    let held_by = |part: &&Part| part.name != "nodes";
    let pids: Vec<u32> = route.parts.iter().filter(held_by).flat_map(|part| part.pids.clone()).collect();
    let mut found = Vec::new();
    if pids.is_empty() {
        return Ok(found);
    }
    let mut sessions = Vec::new();
    for level in levels(path, quick)? {
        match open(stage, level - sessions.len()) {
            Ok(more) => sessions.extend(more),
            // As far as it went.
            Err(error) if path.is_anothers() => {
                eprintln!("{}, {level} sessions: {error:#}", path.name());
                break;
            }
            Err(error) => return Err(error),
        }
        // Nothing else tells when a program is done with what it began.
        thread::sleep(REST);
        let resident = usage::resident(&pids)?;
        let rate = if path.is_slow() { None } else { beside(stage, &route, path, time)? };
        eprintln!("{}: {level} idle sessions, {resident} kB", path.name());
        found.push(Idle { sessions: level, resident, rate });
    }
    Ok(found)
}

/// Mail goes on while they are open.
fn beside(stage: &Stage<'_>, route: &Route<'_>, path: Path, time: Duration) -> Result<Option<f64>> {
    let cell = Cell { size: 4 * KIB, connections: 10, many: false };
    match cell::measure(stage, route, path, cell, time, &mut Counts::default()) {
        Ok(measured) => Ok(measured.rate),
        Err(error) if path.is_anothers() => {
            eprintln!("{}, beside idle sessions: {error:#}", path.name());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn levels(path: Path, quick: bool) -> Result<Vec<usize>> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let fit = usize::try_from(hard.saturating_sub(RESERVE) / PER_SESSION).unwrap_or(usize::MAX);
    let most = fit.min(path.most_connections() as usize).min(if quick { 1_000 } else { usize::MAX });
    let mut levels: Vec<usize> = LEVELS.into_iter().filter(|level| *level <= most).collect();
    let last = levels.last().copied().unwrap_or_default();
    if last < LEVELS[LEVELS.len() - 1] && most > last {
        levels.push(most);
    }
    Ok(levels)
}

fn open(stage: &Stage<'_>, count: usize) -> Result<Vec<TcpStream>> {
    let (next, opened) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let customers = customers();
    let opener = || {
        stage.lab.customer.in_network(|| {
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    return Ok(());
                }
                let mut talk = Talk::open(Some(customers[number % customers.len()]), destination())?;
                talk.say(b"EHLO customer.test\r\n", 250)?;
                opened.lock().map_err(|_| anyhow!("a panic"))?.push(talk.into_stream());
            }
        })
    };
    thread::scope(|scope| -> Result<()> {
        let opener = &opener;
        let started: Vec<_> = (0..OPENERS).map(|_| scope.spawn(opener)).collect();
        started.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a panic"))?)
    })?;
    opened.into_inner().map_err(|_| anyhow!("a panic"))
}

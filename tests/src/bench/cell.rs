//! What `smtp-source` sends to `smtp-sink` in a time: one size, so many connections, one message a connection or many.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::path::{Path, Route};
use crate::stage::{Stage, destination};
use crate::usage;

/// Messages that a first look needs to tell how many fit a time.
const FIRST: u32 = 200;

/// A run that takes so many times longer than wanted is given up.
const TOO_LONG: u32 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Octets of a message.
    pub(crate) size: u32,
    /// At a time.
    pub(crate) connections: u32,
    /// Many messages a connection, or one.
    pub(crate) many: bool,
}

pub(crate) const KIB: u32 = 1024;
pub(crate) const MIB: u32 = 1024 * KIB;

impl Cell {
    pub(crate) fn all() -> Vec<Self> {
        let one = |size, connections| Self { size, connections, many: false };
        let many = |size, connections| Self { size, connections, many: true };
        let mut cells: Vec<Self> =
            [1, 10, 50, 200, 1000].map(|connections| one(4 * KIB, connections)).to_vec();
        cells.extend([1, 10, 50].map(|connections| many(4 * KIB, connections)));
        cells.extend([1, 10, 50].map(|connections| one(100 * KIB, connections)));
        cells.push(many(100 * KIB, 10));
        cells.extend([one(2 * MIB, 1), one(2 * MIB, 10)]);
        cells
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.connections == 10
    }

    pub(crate) fn size_name(&self) -> String {
        if self.size < MIB { format!("{} KiB", self.size / KIB) } else { format!("{} MiB", self.size / MIB) }
    }

    pub(crate) fn name(&self) -> String {
        let size = self.size_name();
        let plural = if self.connections == 1 { "" } else { "s" };
        format!(
            "{size}, {} connection{plural}, {}",
            self.connections,
            if self.many { "many messages each" } else { "one message each" }
        )
    }
}

/// What was found in a cell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Messages a second; none where the way does not bear so many connections.
    pub(crate) rate: Option<f64>,
    /// Seconds of a processor for 1,000 messages, by the part of the way.
    pub(crate) cpu: BTreeMap<String, f64>,
}

/// How many messages took how long before, so that the next run takes as long as is wanted.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<String, (u32, Duration)>);

pub(crate) fn measure(
    stage: &Stage<'_>,
    route: &Route<'_>,
    path: Path,
    cell: Cell,
    time: Duration,
    counts: &mut Counts,
) -> Result<Measured> {
    if cell.connections > path.most_connections() {
        return Ok(Measured::default());
    }
    if path.is_slow() {
        return in_parts(route, || send_for(stage, cell, time.max(Duration::from_secs(3))));
    }
    let key = format!("{}: {}", path.name(), cell.name());
    let (before, took) = match counts.0.get(&key) {
        Some(before) => *before,
        None => send(stage, cell, FIRST.min(MIB * 20 / cell.size).max(cell.connections * 2), time)?,
    };
    // At least two messages for each connection, or most of a run is its beginning and its end.
    let fit = u128::from(before) * time.as_nanos() / took.as_nanos().max(1);
    let wanted = u32::try_from(fit)?.max(cell.connections * 2);
    in_parts(route, || {
        let sent = send(stage, cell, wanted, time)?;
        counts.0.insert(key, sent);
        Ok(sent)
    })
}

/// With what it costs each part of the way.
fn in_parts(route: &Route<'_>, send: impl FnOnce() -> Result<(u32, Duration)>) -> Result<Measured> {
    let used = || route.parts.iter().map(|part| usage::cpu(&part.pids)).collect::<Result<Vec<_>>>();
    let before = used()?;
    let (count, took) = send()?;
    ensure!(count > 0, "no message was taken");
    let thousands = f64::from(count) / 1000.0;
    let spent = used()?.into_iter().zip(before).map(|(after, before)| (after - before) / thousands);
    let cpu = route.parts.iter().map(|part| part.name.to_owned()).zip(spent).collect();
    Ok(Measured { rate: Some(f64::from(count) / took.as_secs_f64()), cpu })
}

/// So many messages, to the end.
fn send(stage: &Stage<'_>, cell: Cell, count: u32, time: Duration) -> Result<(u32, Duration)> {
    let limit = (time * TOO_LONG).as_secs().max(30);
    let begun = Instant::now();
    let output = source(stage, cell, limit, &["-m", &count.to_string()])?;
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "smtp-source ended with {} after {took:?}: {said}", output.status);
    Ok((count, took))
}

/// As many messages as are taken in a time.
fn send_for(stage: &Stage<'_>, cell: Cell, time: Duration) -> Result<(u32, Duration)> {
    let output = source(stage, cell, time.as_secs(), &["-c", "-m", "10000000"])?;
    // One number after the other, each over the one before.
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.split(['\r', '\n']).filter_map(|number| number.trim().parse::<u32>().ok()).next_back();
    Ok((last.with_context(|| format!("no count: {}", String::from_utf8_lossy(&output.stderr)))?, time))
}

/// smtp-source in the customers' host, for so many seconds at most.
fn source(stage: &Stage<'_>, cell: Cell, seconds: u64, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command.args([&seconds.to_string(), "smtp-source", "-s", &cell.connections.to_string()]);
    command.args(["-l", &cell.size.to_string(), "-f", "a@customer.test", "-t", "b@v4.destination.test"]);
    if cell.many {
        command.arg("-d");
    }
    command.args(arguments).arg(format!("inet:{}", destination()));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    stage.lab.customer.inside(|| command.output().context("smtp-source"))
}

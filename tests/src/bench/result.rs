//! What was found, round by round, and what is said of it: medians, and medians of ratios within a round.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cell::{Cell, Measured};
use crate::growth::Growth;
use crate::idle::Idle;
use crate::latency::{Latency, Times};
use crate::path::Path;

/// One way in one round.
#[derive(Default)]
pub(crate) struct Round {
    pub(crate) cells: BTreeMap<String, Measured>,
    pub(crate) latency: Option<Latency>,
    /// Cells that came to no end, and why.
    pub(crate) failed: Vec<String>,
}

impl Round {
    /// That came to no end.
    pub(crate) fn broken(error: &anyhow::Error) -> Self {
        eprintln!("{error:#}");
        Self { failed: vec![format!("a whole round: {error:#}")], ..Self::default() }
    }
}

pub(crate) struct Found {
    pub(crate) machine: String,
    pub(crate) date: String,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) paths: Vec<Path>,
    pub(crate) cells: Vec<Cell>,
    /// In the order of `paths`.
    taken: Vec<Vec<Round>>,
    idle: Vec<Vec<Idle>>,
    pub(crate) growth: Vec<Growth>,
}

/// Which times of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Alone,
    Coming,
}

impl Found {
    pub(crate) fn new(paths: &[Path], cells: &[Cell], rounds: usize, time: Duration) -> Result<Self> {
        Ok(Self {
            machine: machine()?,
            date: said_by("date", &["-u", "+%F"])?,
            rounds,
            seconds: time.as_secs(),
            paths: paths.to_vec(),
            cells: cells.to_vec(),
            taken: paths.iter().map(|_| Vec::new()).collect(),
            idle: paths.iter().map(|_| Vec::new()).collect(),
            growth: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, path: Path, round: Round) {
        if let Some(at) = self.at(path) {
            self.taken[at].push(round);
        }
    }

    pub(crate) fn set_idle(&mut self, path: Path, idle: Vec<Idle>) {
        if let Some(at) = self.at(path) {
            self.idle[at] = idle;
        }
    }

    fn at(&self, path: Path) -> Option<usize> {
        self.paths.iter().position(|one| *one == path)
    }

    fn measured(&self, path: Path, cell: Cell) -> Vec<Measured> {
        let rounds = self.at(path).map_or(&[][..], |at| &self.taken[at]);
        rounds.iter().map(|round| round.cells.get(&cell.name()).cloned().unwrap_or_default()).collect()
    }

    /// Cells that came to no end, and why.
    pub(crate) fn failed(&self, path: Path) -> Vec<String> {
        let rounds = self.at(path).map_or(&[][..], |at| &self.taken[at]);
        rounds.iter().flat_map(|round| round.failed.clone()).collect()
    }

    /// Messages a second.
    pub(crate) fn rate(&self, path: Path, cell: Cell) -> Option<f64> {
        median(self.measured(path, cell).iter().filter_map(|one| one.rate))
    }

    /// Of the rate of another way in the same round.
    pub(crate) fn ratio(&self, path: Path, to: Path, cell: Cell) -> Option<f64> {
        let (own, others) = (self.measured(path, cell), self.measured(to, cell));
        median(own.iter().zip(&others).filter_map(|(own, other)| Some(own.rate? / other.rate?)))
    }

    /// The parts of a way.
    pub(crate) fn parts(&self, path: Path) -> Vec<String> {
        let measured = self.cells.iter().flat_map(|cell| self.measured(path, *cell));
        let mut parts: Vec<String> = measured.flat_map(|one| one.cpu.into_keys()).collect();
        parts.sort();
        parts.dedup();
        parts
    }

    /// Seconds of a processor for 1,000 messages, of one part.
    pub(crate) fn cpu(&self, path: Path, part: &str, cell: Cell) -> Option<f64> {
        median(self.measured(path, cell).iter().filter_map(|one| one.cpu.get(part).copied()))
    }

    /// Milliseconds within which so many of a thousand messages were taken.
    pub(crate) fn within(&self, path: Path, kind: Kind, per_mille: usize) -> Option<f64> {
        let of = |latency: &Latency| -> Times {
            match kind {
                Kind::Alone => latency.alone.clone(),
                Kind::Coming => latency.coming.clone(),
            }
        };
        let rounds = self.at(path).map_or(&[][..], |at| &self.taken[at]);
        median(rounds.iter().filter_map(|round| round.latency.as_ref()).map(|one| of(one).within(per_mille)))
    }

    pub(crate) fn idle_of(&self, path: Path) -> &[Idle] {
        self.at(path).map_or(&[], |at| &self.idle[at])
    }

    /// Kilobytes for each session, with most of them.
    pub(crate) fn per_session(&self, path: Path) -> Option<f64> {
        let (first, last) = (self.idle_of(path).first()?, self.idle_of(path).last()?);
        let sessions = last.sessions.checked_sub(first.sessions).filter(|more| *more > 0)?;
        Some(last.resident.saturating_sub(first.resident) as f64 / sessions as f64)
    }

    pub(crate) fn to_json(&self) -> Value {
        let cell = |path: Path, cell: Cell| {
            let cpu: BTreeMap<String, Option<f64>> = self
                .parts(path)
                .into_iter()
                .map(|part| (part.clone(), self.cpu(path, &part, cell)))
                .collect();
            json!({
                "cell": cell.name(),
                "messages_per_second": self.rate(path, cell),
                "of_direct": self.ratio(path, Path::Direct, cell),
                "cpu_seconds_per_1000_messages": cpu,
                "rounds": self.measured(path, cell).iter().map(|one| one.rate).collect::<Vec<_>>(),
            })
        };
        let times = |path: Path, kind: Kind| {
            let of = |per_mille| self.within(path, kind, per_mille);
            json!({ "p50": of(500), "p90": of(900), "p99": of(990), "p99.9": of(999) })
        };
        let way = |path: &Path| {
            json!({
                "way": path.name(),
                "cells": self.cells.iter().map(|one| cell(*path, *one)).collect::<Vec<_>>(),
                "milliseconds_alone": times(*path, Kind::Alone),
                "milliseconds_coming": times(*path, Kind::Coming),
                "failed": self.failed(*path),
                "idle": self.idle_of(*path).iter()
                    .map(|one| json!({ "sessions": one.sessions, "resident_kilobytes": one.resident, "messages_per_second": one.rate }))
                    .collect::<Vec<_>>(),
            })
        };
        let growth = |growth: &Growth| {
            let level = |(level, rate, cpu): (usize, f64, f64)| json!({ "level": level, "messages_per_second": rate, "cpu_seconds_per_1000_messages": cpu });
            json!({ "what": growth.what.name(), "levels": growth.medians().map(level).collect::<Vec<_>>() })
        };
        json!({
            "machine": self.machine,
            "date": self.date,
            "rounds": self.rounds,
            "seconds_per_cell": self.seconds,
            "ways": self.paths.iter().map(way).collect::<Vec<_>>(),
            "growth": self.growth.iter().map(growth).collect::<Vec<_>>(),
        })
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// What it ran on.
fn machine() -> Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name).to_owned();
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("MemTotal")?;
    let gib = total.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0 / 1024.0;
    let kernel = said_by("uname", &["-r"])?;
    Ok(format!("{cores} processors ({model}), {gib:.0} GiB, Linux {kernel}"))
}

fn said_by(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

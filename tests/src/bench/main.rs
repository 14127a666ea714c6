//! `weir-bench`: mail through weir beside what it replaces and beside no proxy at all, in the lab. Its results are for reading.

mod cell;
mod count;
mod growth;
mod idle;
mod latency;
mod page;
mod path;
mod peers;
mod plot;
mod profile;
mod result;
mod stage;
mod submit;
mod talk;
mod targets;
mod usage;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use weir_tests::lab::{Lab, NarrowLink};

use crate::cell::{Cell, Measured};
use crate::path::Path;
use crate::result::{Found, Round};
use crate::stage::Stage;

#[derive(Parser)]
#[command(
    name = "weir-bench",
    about = "weir beside what it replaces and beside no proxy at all (needs root)"
)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Measures, round by round, and shows medians
    Run(Run),
    /// Draws where the time of a part of a way goes (needs perf)
    Profile(profile::Profile),
    /// Counts system calls, allocations and packets for a message (needs perf)
    Count(count::Count),
    /// Hands a message to a filter node, as proxsmtpd's FilterCommand
    #[command(hide = true)]
    Submit,
}

#[derive(clap::Args)]
struct Run {
    /// A few cells and ways, in three minutes
    #[arg(long)]
    quick: bool,
    /// All is measured so often, in turn [default: 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds for each cell in a round [default: 2, with --quick 1]
    #[arg(long)]
    seconds: Option<u64>,
    /// Only ways whose names begin so, beside the direct one
    #[arg(long)]
    only: Vec<String>,
    /// Only messages whose description in the table begins so
    #[arg(long)]
    cell: Vec<String>,
    /// Write docs/performance.md, and figures and curves in docs/performance
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().part {
        Part::Run(run) => measure(&run),
        Part::Profile(profile) => profile.draw(),
        Part::Count(count) => count.write(),
        Part::Submit => submit::submit(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(run: &Run) -> Result<()> {
    let rounds = run.rounds.unwrap_or(3);
    let time = Duration::from_secs(run.seconds.unwrap_or(if run.quick { 1 } else { 2 }));
    ensure!(rounds > 0 && !time.is_zero(), "nothing to measure");
    let chosen = |path: &Path| {
        let named = run.only.iter().any(|beginning| path.name().starts_with(beginning.as_str()));
        *path == Path::Direct || named || (run.only.is_empty() && (!run.quick || path.is_quick()))
    };
    let paths: Vec<Path> = Path::ALL.into_iter().filter(chosen).collect();
    let chosen = |cell: &Cell| {
        let named = run.cell.iter().any(|beginning| cell.name().starts_with(beginning.as_str()));
        named || (run.cell.is_empty() && (!run.quick || cell.is_quick()))
    };
    let cells: Vec<Cell> = Cell::all().into_iter().filter(chosen).collect();
    let mut found = Found::new(&paths, &cells, rounds, time)?;
    // What was found before is told in any case.
    let mut growth = Ok(());
    Lab::run("bench", NarrowLink::Nowhere, |lab| {
        let stage = Stage::set(lab)?;
        let begun = Instant::now();
        let mut counts = cell::Counts::default();
        for number in 1..=rounds {
            // Not always in the same order: a machine may grow slower, or faster.
            let shift = (number - 1) % paths.len();
            for &path in paths[shift..].iter().chain(&paths[..shift]) {
                eprintln!(
                    "round {number} of {rounds}, {:.0} s: {}",
                    begun.elapsed().as_secs_f64(),
                    path.name()
                );
                let no_latency = run.quick && number > 1;
                match one_round(&stage, path, &cells, time, &mut counts, no_latency) {
                    Ok(round) => found.add(path, round),
                    Err(error) if path.is_anothers() => found.add(path, Round::broken(&error)),
                    Err(error) => return Err(error.context(path.name())),
                }
            }
        }
        for &path in &paths {
            eprintln!("{:.0} s: idle sessions, {}", begun.elapsed().as_secs_f64(), path.name());
            match idle::measure(&stage, path, time, run.quick) {
                Ok(idle) => found.set_idle(path, idle),
                Err(error) if path.is_anothers() => eprintln!("{}: {error:#}", path.name()),
                Err(error) => return Err(error.context(path.name())),
            }
        }
        if run.only.is_empty() && run.cell.is_empty() && !run.quick {
            growth = growth::measure(&stage, rounds, time).map(|growth| found.growth = growth);
        }
        Ok(())
    })?;
    println!("{}", page::tables(&found));
    if run.write {
        page::write(&found)?;
    }
    growth
}

/// One way, once. `no_latency`: only what `smtp-source` sends.
fn one_round(
    stage: &Stage<'_>,
    path: Path,
    cells: &[Cell],
    time: Duration,
    counts: &mut cell::Counts,
    no_latency: bool,
) -> Result<Round> {
    let route = path.open(stage)?;
    let mut round = Round::default();
    for cell in cells {
        let measured = match cell::measure(stage, &route, path, *cell, time, counts) {
            Ok(measured) => measured,
            // What another program does not bear is a result as well.
            Err(error) if path.is_anothers() => {
                eprintln!("{}, {}: {error:#}", path.name(), cell.name());
                round.failed.push(format!("{}: {error:#}", cell.name()));
                Measured::default()
            }
            Err(error) => return Err(error.context(cell.name())),
        };
        round.cells.insert(cell.name(), measured);
    }
    if !no_latency && !path.is_slow() {
        round.latency = Some(latency::measure(stage, time)?);
    }
    Ok(round)
}

//! Where the time of a program goes while mail takes its way: a flame graph.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use weir_tests::lab::{Lab, NarrowLink};
use weir_tests::wait::{PATIENCE, wait_until};

use crate::cell::{self, Cell, Counts};
use crate::path::{Path as Way, Route};
use crate::stage::Stage;
use crate::usage;

#[derive(clap::Args)]
pub(crate) struct Profile {
    /// The way, as the tables name it
    #[arg(long, default_value = "weir, filter")]
    way: String,
    /// Messages whose description in the tables begins so
    #[arg(long, default_value = "4 KiB, 10 connections, one")]
    cell: String,
    /// The part of the way: agent, nodes, haproxy
    #[arg(long, default_value = "agent")]
    part: String,
    /// Seconds that are looked at
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// The file that is written (SVG)
    #[arg(long)]
    to: PathBuf,
}

/// Looks so often in a second; no divisor of what else happens at regular times.
const FREQUENCY: &str = "997";

/// Octets of a stack that are kept: frames are found by what the compiler says of them.
const STACK: &str = "dwarf,16384";

/// Frames narrower than this part of the whole, in percent, are left out.
const NARROW: &str = "0.3";

/// A second of a processor: by then all is under way.
const WARM: f64 = 1.0;

impl Profile {
    pub(crate) fn draw(&self) -> Result<()> {
        let path = Way::ALL.into_iter().find(|path| path.name() == self.way);
        let path = path.with_context(|| format!("no way is named {}", self.way))?;
        let cell = Cell::all().into_iter().find(|cell| cell.name().starts_with(&self.cell));
        let cell = cell.with_context(|| format!("no messages are {}", self.cell))?;
        let data = self.to.with_extension("data");
        Lab::run("profile", NarrowLink::Nowhere, |lab| {
            let stage = Stage::set(lab)?;
            let route = path.open(&stage)?;
            let part = route.parts.iter().find(|part| part.name == self.part);
            let part = part.with_context(|| format!("{} has no part {}", self.way, self.part))?;
            let time = Duration::from_secs(self.seconds);
            under_load(&stage, &route, path, cell, time, || record(&part.pids, time, &data))
        })?;
        let title = format!("{}: {}; {}", self.way, self.part, cell.name());
        let drawn = draw(&data, &title, &self.to);
        fs::remove_file(&data)?;
        drawn?;
        println!("written to {}", self.to.display());
        Ok(())
    }
}

/// Looks, for `time`, while mail takes its way.
pub(crate) fn under_load<T>(
    stage: &Stage<'_>,
    route: &Route<'_>,
    path: Way,
    cell: Cell,
    time: Duration,
    look: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let all: Vec<u32> = route.parts.iter().flat_map(|part| part.pids.clone()).collect();
    let send = || cell::measure(stage, route, path, cell, time + PATIENCE / 4, &mut Counts::default());
    thread::scope(|scope| {
        let sending = scope.spawn(send);
        let before = usage::cpu(&all)?;
        wait_until("the way to be in use", PATIENCE, || Ok(usage::cpu(&all)? > before + WARM))?;
        let found = look()?;
        sending.join().map_err(|_| anyhow!("a panic"))?.map(|_| found)
    })
}

fn record(pids: &[u32], time: Duration, data: &Path) -> Result<()> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY, "--call-graph", STACK]);
    perf.arg("--output")
        .arg(data)
        .args(["--pid", &pids.join(","), "--", "sleep"])
        .arg(time.as_secs().to_string());
    let output = perf.output().context("perf (Debian: linux-perf)")?;
    ensure!(output.status.success(), "perf record: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// With inferno's programs, which `scripts/install-deps profile` builds: their licence (CDDL) keeps them out of weir's own.
fn draw(data: &Path, title: &str, to: &Path) -> Result<()> {
    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "--input"]).arg(data).stderr(Stdio::null());
    let stacks = output_of(&mut script)?;
    let folded = through(Command::new("inferno-collapse-perf"), stacks)?;
    let mut graph = Command::new("inferno-flamegraph");
    graph.args(["--minwidth", NARROW, "--title", title]);
    Ok(fs::write(to, through(graph, folded)?)?)
}

fn through(mut program: Command, input: Vec<u8>) -> Result<Vec<u8>> {
    let child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("{program:?} (scripts/install-deps profile builds it)"))?;
    let (mut stdin, mut stdout) = (child.stdin.take(), child.stdout.take());
    let mut output = Vec::new();
    thread::scope(|scope| -> Result<()> {
        // It may write before it has read all.
        let writing = scope.spawn(move || stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(&input)));
        stdout.as_mut().context("its output")?.read_to_end(&mut output)?;
        writing.join().map_err(|_| anyhow!("a panic"))?.map_err(Into::into)
    })?;
    let status = child.wait()?;
    ensure!(status.success() && !output.is_empty(), "{program:?}: {status}, {} octets", output.len());
    Ok(output)
}

fn output_of(program: &mut Command) -> Result<Vec<u8>> {
    let output = program.output().with_context(|| format!("{program:?}"))?;
    ensure!(output.status.success() && !output.stdout.is_empty(), "{program:?}: {}", output.status);
    Ok(output.stdout)
}

//! How what a message costs grows: with customers' prefixes, with keys that are counted, with filter nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::components::{Backend, FilterConfig, WeirFilter};

use crate::cell::{self, Cell, Counts, KIB, Measured};
use crate::path::{Path, Size};
use crate::result::median;
use crate::stage::{Stage, destination};
use crate::talk::{Talk, message};

const CELL: Cell = Cell { size: 4 * KIB, connections: 10, many: false };

/// Keys that one message is counted under when a store is filled: a script may call 1,000 functions for it.
const KEYS_OF_A_MESSAGE: usize = 900;

/// How long keys are to be there.
const WINDOW: &str = "86400";

/// What there is more and more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Prefixes,
    Counters,
    Nodes,
}

impl What {
    pub(crate) const ALL: [Self; 3] = [Self::Prefixes, Self::Counters, Self::Nodes];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prefixes => "customers' prefixes",
            Self::Counters => "counted keys",
            Self::Nodes => "filter nodes",
        }
    }

    fn levels(self) -> &'static [usize] {
        match self {
            Self::Prefixes => &[10, 1_000, 10_000, 100_000],
            Self::Counters => &[10, 1_000, 100_000, 1_000_000],
            Self::Nodes => &[1, 2, 4, 8],
        }
    }

    fn size(self, level: usize) -> Size {
        let size = Size::default();
        match self {
            Self::Prefixes => Size { prefixes: level, ..size },
            // What is counted on one node is looked for on that node.
            Self::Counters => Size { counted: Some(level), nodes: 1, ..size },
            Self::Nodes => Size { nodes: level, ..size },
        }
    }
}

/// What was found at each level, round by round.
pub(crate) struct Growth {
    pub(crate) what: What,
    pub(crate) levels: Vec<(usize, Vec<Measured>)>,
}

impl Growth {
    /// By level: messages a second, and seconds of a processor for 1,000 of them, agent and nodes together.
    pub(crate) fn medians(&self) -> impl Iterator<Item = (usize, f64, f64)> {
        self.levels.iter().filter_map(|(level, measured)| {
            let rate = median(measured.iter().filter_map(|one| one.rate))?;
            Some((*level, rate, median(measured.iter().map(|one| one.cpu.values().sum()))?))
        })
    }
}

pub(crate) fn measure(stage: &Stage<'_>, rounds: usize, time: Duration) -> Result<Vec<Growth>> {
    let empty = |what: What| Growth {
        what,
        levels: what.levels().iter().map(|level| (*level, Vec::new())).collect(),
    };
    let mut found: Vec<Growth> = What::ALL.into_iter().map(empty).collect();
    for Growth { what, levels } in &found {
        for (level, _) in levels.iter().filter(|_| *what == What::Counters) {
            fill(stage, *level)?;
        }
    }
    let path = Path::Filter(Backend::Ebpf);
    for round in 1..=rounds {
        for Growth { what, levels } in &mut found {
            eprintln!("growth, round {round} of {rounds}: {}", what.name());
            for (level, measured) in levels {
                let route = path.open_in(stage, &what.size(*level))?;
                // Each level has its own number of messages that fit the time.
                measured.push(cell::measure(stage, &route, path, CELL, time, &mut Counts::default())?);
            }
        }
    }
    Ok(found)
}

/// Has a node count so many keys, and keep them in the file from which the measured one begins.
fn fill(stage: &Stage<'_>, keys: usize) -> Result<()> {
    let each = keys.min(KEYS_OF_A_MESSAGE);
    eprintln!("growth: counting {keys} keys");
    let script = format!(
        "function data(message)\n    for number = 1, {each} do\n        \
         rate(\"bench\", `{{message.id}} {{number}}`, 1000000, {WINDOW})\n    end\n    accept()\nend\n"
    );
    stage.lab.filter.write("/etc/weir/fill.luau", &script)?;
    let path = Path::Filter(Backend::Ebpf);
    let sections = "[script]\nfile = \"/etc/weir/fill.luau\"\n".to_owned();
    let size = Size { counted: Some(keys), nodes: 1, sections, ..Size::default() };
    let route = path.open_in(stage, &size)?;
    stage.lab.customer.in_network(|| {
        let mut talk = Talk::open(None, destination())?;
        talk.say(b"EHLO customer.test\r\n", 250)?;
        (0..keys.div_ceil(each)).try_for_each(|_| talk.send(&message(100)))
    })?;
    let status = WeirFilter::status(&stage.lab.filter)?;
    let counted = status["counters"]["keys"].as_u64().context("counters.keys in the node's status")?;
    ensure!(counted >= keys as u64, "{counted} keys are counted, not {keys}");
    route.close()
}

/// Where a node with so many keys has its counts.
pub(crate) fn file(keys: usize) -> String {
    format!("/var/lib/weir-filter/counters-{keys}.sqlite")
}

/// A node's configuration, with as many keys as there may be.
pub(crate) fn roomy(config: FilterConfig, keys: usize) -> FilterConfig {
    FilterConfig {
        counters_file: file(keys),
        counters_lines: format!("max_keys = {}", keys * 2 + 100_000),
        ..config
    }
}

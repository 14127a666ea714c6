//! `weir-faults`: mail through weir while everything that can fail does, in the lab; and then whether the laws held.
//! Ends with status 1 if one did not.

mod account;
mod customer;
mod fault;
mod load;
mod message;
mod overload;
mod remains;
mod report;
mod run;
mod scanner;
mod sink;
mod stage;
mod turns;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use weir_tests::components::Backend;
use weir_tests::lab::Lab;

use crate::report::Progress;
use crate::run::Wanted;
use crate::turns::Through;

#[derive(Parser)]
#[command(name = "weir-faults", about = "Mail through weir while everything that can fail does (needs root)")]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// All faults; every message must come out as its customer was told
    Run {
        #[arg(long, default_value_t = 100_000)]
        messages: usize,
        /// Customers' servers at a time
        #[arg(long, default_value_t = 48)]
        senders: usize,
        /// The same seed gives the same messages and the same order of faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value = "ebpf")]
        backend: BackendName,
        /// After so many minutes nothing is tried again, and what is not done is an error
        #[arg(long, default_value_t = 30)]
        minutes: u64,
        /// The result as one JSON object
        #[arg(long)]
        json: bool,
        /// Say every fault as it happens
        #[arg(long)]
        verbose: bool,
    },
    /// One of two nodes is killed every two seconds: how many customers see it
    Turns {
        #[arg(long, default_value = "weir")]
        through: ThroughName,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        #[arg(long, default_value = "ebpf")]
        backend: BackendName,
        #[arg(long)]
        json: bool,
        #[arg(long)]
        verbose: bool,
    },
    /// One customer who offers ten times the capacity, beside fifty others
    Overload {
        /// For each of the two measurements
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        #[arg(long, default_value = "ebpf")]
        backend: BackendName,
        /// The agent's `relay.max_sessions_per_customer`
        #[arg(long)]
        per_customer: Option<u32>,
        #[arg(long)]
        json: bool,
    },
    /// The destination of the lab (started by this program)
    #[command(hide = true)]
    Destination {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        book: PathBuf,
    },
    /// The scanner of the lab's nodes (started by this program)
    #[command(hide = true)]
    Scanner {
        #[arg(long)]
        port: u16,
        /// Milliseconds
        #[arg(long)]
        delay: u64,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BackendName {
    Ebpf,
    Tproxy,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ThroughName {
    Weir,
    Haproxy,
    Both,
}

impl From<BackendName> for Backend {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Ebpf => Self::Ebpf,
            BackendName::Tproxy => Self::Tproxy,
        }
    }
}

fn main() -> ExitCode {
    match perform(Arguments::parse().part) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir-faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(part: Part) -> Result<bool> {
    match part {
        Part::Destination { port, book } => sink::run(port, &book).map(|()| true),
        Part::Scanner { port, delay } => scanner::run(port, Duration::from_millis(delay)).map(|()| true),
        Part::Run { messages, senders, seed, backend, minutes, json, verbose } => {
            let limit = Duration::from_secs(minutes * 60);
            let wanted = Wanted { messages, senders, seed, backend: backend.into(), limit };
            strict(&wanted, json, verbose)
        }
        Part::Turns { through, seconds, backend, json, verbose } => {
            let through: &[_] = match through {
                ThroughName::Weir => &[Through::Weir],
                ThroughName::Haproxy => &[Through::Haproxy],
                ThroughName::Both => &[Through::Weir, Through::Haproxy],
            };
            let last = Duration::from_secs(seconds);
            through.iter().try_fold(true, |good, through| {
                Ok(by_turns(*through, backend.into(), last, json, verbose)? && good)
            })
        }
        Part::Overload { seconds, backend, per_customer, json } => {
            let lines = per_customer.map(|limit| format!("max_sessions_per_customer = {limit}"));
            let last = Duration::from_secs(seconds);
            overloaded(backend.into(), last, &lines.unwrap_or_default(), json)
        }
    }
}

fn strict(wanted: &Wanted, json: bool, verbose: bool) -> Result<bool> {
    let progress = Progress::new(verbose);
    in_lab("faults", |lab| {
        let outcome = run::run(lab, wanted, &progress)?;
        if json {
            println!("{:#}", outcome.json());
        } else {
            print!("{}", outcome.text());
        }
        Ok(outcome.is_good())
    })
}

/// Errors of haproxy's customers are what is to be seen; of weir's there must be none.
fn by_turns(through: Through, backend: Backend, last: Duration, json: bool, verbose: bool) -> Result<bool> {
    let progress = Progress::new(verbose);
    in_lab("faults-turns", |lab| {
        let seen = turns::run(lab, backend, through, last, &progress)?;
        if json {
            println!("{:#}", seen.json(through));
        } else {
            print!("{}", seen.text(through));
        }
        Ok(through == Through::Haproxy || seen.sessions_with_errors() == 0)
    })
}

fn overloaded(backend: Backend, last: Duration, relay_lines: &str, json: bool) -> Result<bool> {
    let progress = Progress::new(false);
    in_lab("faults-overload", |lab| {
        let measured = overload::run(lab, backend, last, relay_lines, &progress)?;
        if json {
            println!("{:#}", measured.json());
        } else {
            print!("{}", measured.text());
        }
        Ok(measured.is_good())
    })
}

/// What was logged in the lab is kept when the work was not good.
fn in_lab(name: &str, work: impl FnOnce(&Lab) -> Result<bool>) -> Result<bool> {
    let mut lab = Lab::new(name)?;
    let result = work(&lab);
    if !matches!(result, Ok(true)) {
        lab.keep_logs();
        eprintln!("{}", lab.report());
    }
    result
}

//! `weir-kernels`: the tests of steering on old kernels, in virtual machines with this machine's files, and on this
//! machine's own. Ends with status 1 if a test failed.

mod guest;
mod initramfs;
mod inside;
mod kernel;
mod plan;
mod record;
mod run;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::kernel::{HOST, NAMES};

#[derive(Parser)]
#[command(name = "weir-kernels", about = "The tests of steering on several kernels (needs root)")]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Runs the tests and says what came of them
    Run {
        /// 5.10, 6.1, 6.12 or host; all of them if none is given
        #[arg(long)]
        kernel: Vec<String>,
        /// Only tests whose names begin so
        #[arg(long)]
        only: Vec<String>,
        /// A handful of tests
        #[arg(long, conflicts_with = "only")]
        quick: bool,
        /// Without those that have passed on a kernel by the last --write, to go on with a run that was broken off
        #[arg(long)]
        rest: bool,
        /// After so many minutes a kernel is given up, and what is not done is an error
        #[arg(long, default_value_t = 120)]
        minutes: u64,
        /// Write the result to docs/kernels.md; of kernels and tests that were not asked for, the last there was
        #[arg(long)]
        write: bool,
    },
    /// Runs a program of this build in a virtual machine, as root with every right there is, and says what it says
    Exec {
        /// 5.10, 6.1 or 6.12
        #[arg(long, default_value = "6.12")]
        kernel: String,
        /// MiB
        #[arg(long, default_value_t = 3072)]
        memory: u32,
        /// After so many minutes it is given up
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// The program's name, and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
    /// What is run in a virtual machine (started by this program)
    #[command(hide = true)]
    Inside,
}

fn main() -> ExitCode {
    match perform(Arguments::parse().part) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir-kernels: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(part: Part) -> Result<bool> {
    match part {
        Part::Inside => inside::run().map(|()| true),
        Part::Exec { kernel, memory, minutes, program } => {
            run::exec(&kernel, memory, Duration::from_secs(60 * minutes), &program)
        }
        Part::Run { kernel, only, quick, rest, minutes, write } => {
            let all = NAMES.into_iter().chain([HOST]).map(str::to_owned).collect();
            let kernels: Vec<String> = if kernel.is_empty() { all } else { kernel };
            let only = if quick { plan::QUICK.map(str::to_owned).to_vec() } else { only };
            run::run(&kernels, &only, rest, Duration::from_secs(60 * minutes), write)
        }
    }
}

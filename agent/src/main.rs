//! The command line of weir-agent.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use weir_agent::config::Config;
use weir_agent::{serve, steer};
use weir_daemon::config::load;
use weir_daemon::{log, reference, status};

/// Transparent port-25 interception on the gateway.
#[derive(Parser)]
#[command(name = "weir-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Intercept and relay until SIGTERM
    Run {
        /// The configuration file (see agent.example.toml)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file and say everything that is wrong with it
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say what the running agent does
    Status {
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// The agent's socket, where several run
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Remove everything a dead agent left on this host; opens port 25 where it was closed
    Cleanup {
        /// The configuration file, where mark, table or pin directory are not the defaults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print an example configuration with every key
    ExampleConfig,
    /// Print the configuration reference in Markdown
    Reference,
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weir-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { config } => {
            let config = match load::<Config>(&config) {
                Ok(config) => config,
                Err(problems) => return Ok(say(&problems)),
            };
            log::init(config.log.format);
            runtime()?.block_on(serve::run(config))?;
        }
        Command::Check { config } => match load::<Config>(&config) {
            Ok(_) => println!("{}: OK", config.display()),
            Err(problems) => return Ok(say(&problems)),
        },
        Command::Status { json, socket } => show_status(json, socket.as_deref())?,
        Command::Cleanup { config } => {
            let config = match config.as_deref().map(load::<Config>).transpose() {
                Ok(config) => config,
                Err(problems) => return Ok(say(&problems)),
            };
            log::init(log::Format::Text);
            let mut report = runtime()?.block_on(steer::cleanup(config.as_ref()))?;
            let sockets = status::remove_remains("agent");
            report.removed.extend(sockets.iter().map(|path| format!("status socket {}", path.display())));
            println!("{report}");
        }
        Command::ExampleConfig => print!("{}", reference::example::<Config>()),
        Command::Reference => print!("{}", reference::markdown::<Config>()),
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("threads cannot be started")
}

fn say(problems: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::FAILURE
}

fn show_status(json: bool, socket: Option<&Path>) -> anyhow::Result<()> {
    let status = status::query("agent", socket)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status::summary(&status));
    }
    Ok(())
}

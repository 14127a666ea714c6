//! The command line of weir-agent.

mod ask;
mod live;
mod succeed;

use ask::Exempted;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use weir_agent::config::{Config, Mode};
use weir_agent::control::Side;
use weir_agent::policy::time;
use weir_agent::router_config::{Beside, Recipe};
use weir_agent::{doctor, prefixes, privileges, serve, steer};
use weir_daemon::config::load;
use weir_daemon::{command_line, control, log, reference};

/// Transparent port-25 interception on the gateway.
#[derive(Parser)]
#[command(name = "weir-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Intercept and relay until SIGTERM; SIGHUP reads the configuration anew
    Run {
        /// The configuration file (see agent.example.toml)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Take over from the agent that runs on this host, without a gap: no connection is refused and no session cut. That
        /// one goes on if this one cannot, and otherwise ends with its last session. Where none runs, just start
        #[arg(long)]
        take_over: bool,
    },
    /// Start an agent in the background that takes over, and wait until it is in charge: for a service's reload. If it does not,
    /// the one that runs goes on, and the exit status is 1
    TakeOver {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file and say everything that is wrong with it
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Look at configuration and host, and say what is wrong and what mends it; changes nothing. Exit status: 0 all is
    /// well (warnings or not), 1 something is wrong, 2 something could not be checked
    Doctor {
        #[arg(long, value_name = "FILE", default_value = "/etc/weir/agent.toml")]
        config: PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say what the running agent does
    Status {
        /// As one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show what the running agent does, again and again: rates, times, nodes, who sends most
    Top {
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
        interval: u64,
        /// End after so many
        #[arg(long, value_name = "TIMES")]
        times: Option<u64>,
        /// As JSON objects, one a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Let new connections go straight, unjudged, from now on: of a customer to one destination, of a customer or a
    /// prefix of them to anywhere, or to a destination
    Exempt {
        #[command(flatten)]
        whom: Whom,
        /// For how long: 90s, 15m, 24h, 7d; at most 365d
        #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = time::parse)]
        duration: Duration,
        /// Why, for those who will ask
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// Intercept them again; connections that went straight go on undisturbed
    Unexempt {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        socket: Socket,
    },
    /// Refuse customers' new connections in the kernel, at the SYN, with or without the agent; open sessions go on
    Block {
        /// The customers: an address or a prefix
        #[arg(value_parser = prefixes::parse)]
        prefix: IpNet,
        /// For how long: 90s, 15m, 24h, 7d; at most 365d
        #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = time::parse)]
        duration: Duration,
        /// Why, for those who will ask
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// Give no answer, where otherwise the customer's connection is reset
        #[arg(long)]
        drop: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Take their new connections again
    Unblock {
        #[arg(value_parser = prefixes::parse)]
        prefix: IpNet,
        #[command(flatten)]
        socket: Socket,
    },
    /// Say who is exempt or blocked, until when, by whom, why, and how often it mattered
    List {
        /// As one JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Give a filter node no more messages, before it is stopped; those that it has go on
    Drain {
        /// Its address:port, as `status` shows it
        node: SocketAddr,
        #[command(flatten)]
        socket: Socket,
    },
    /// Give it messages again
    Undrain {
        node: SocketAddr,
        #[command(flatten)]
        socket: Socket,
    },
    /// Switch what the verdicts mean, for a while, without a restart: all customers' or some
    Mode {
        #[arg(value_name = "MODE")]
        wanted: WantedMode,
        /// Only for these customers: an address or a prefix
        #[arg(long, value_name = "PREFIX", value_parser = prefixes::parse)]
        prefix: Option<IpNet>,
        /// For how long: 90s, 15m, 24h, 7d; at most 7d. Then it is as configured again
        #[arg(long = "for", value_name = "TIME", default_value = "30m", value_parser = time::parse)]
        duration: Duration,
        #[command(flatten)]
        socket: Socket,
    },
    /// Let all customers' new connections go straight, unjudged, for a while; open sessions finish in the agent
    Release {
        /// For how long: 90s, 15m, 24h, 7d; at most 7d. Then they are intercepted again
        #[arg(long = "for", value_name = "TIME", default_value = "30m", value_parser = time::parse)]
        duration: Duration,
        /// Intercept them again now
        #[arg(long, conflicts_with = "duration")]
        end: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Remove everything a dead agent left on this host; opens port 25 where it was closed
    Cleanup {
        /// The configuration file, where mark, table or pin directory are not the defaults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print what brings mail to the agent, filled in from its configuration: rules for its own host, with
    /// `steering.backend = "external"`, or the configuration of a router that it stands beside
    RouterConfig {
        /// For what it is
        recipe: Recipe,
        #[arg(long, value_name = "FILE", default_value = "/etc/weir/agent.toml")]
        config: PathBuf,
        #[command(flatten)]
        beside: Beside,
        /// What takes them away again
        #[arg(long)]
        undo: bool,
    },
    /// Print an example configuration with every key
    ExampleConfig,
    /// Print the configuration reference in Markdown
    Reference,
    /// Print completions of these commands, for a shell to read
    Completions { shell: command_line::Shell },
    /// Write a man page of each command to a directory
    #[command(hide = true)]
    ManPages { directory: PathBuf },
}

#[derive(Clone, Copy, ValueEnum)]
enum WantedMode {
    /// Verdicts hold
    Enforce,
    /// Verdicts are asked for and logged, and all mail passes
    Shadow,
    /// No filter node is asked
    Bypass,
    /// As the configuration says
    Configured,
}

#[derive(clap::Args)]
struct Whom {
    /// The customer's address, or, without a destination, a prefix of customers
    #[arg(value_parser = prefixes::parse, required_unless_present = "all_to")]
    customer: Option<IpNet>,
    /// The destination's address
    destination: Option<IpAddr>,
    /// All customers' connections to this destination: an address or a prefix
    #[arg(long = "destination", value_name = "PREFIX", value_parser = prefixes::parse, conflicts_with = "customer")]
    all_to: Option<IpNet>,
}

impl Whom {
    fn exempted(&self) -> anyhow::Result<Exempted> {
        match (self.customer, self.destination, self.all_to) {
            (Some(customer), Some(destination), _) if customer.prefix_len() == customer.max_prefix_len() => {
                Ok(Exempted::Pair { customer: customer.addr(), destination })
            }
            (Some(customer), Some(_), _) => anyhow::bail!(
                "{customer} is a prefix: to one destination a single customer can be exempt; name an address, or leave \
                 the destination out"
            ),
            (Some(prefix), None, _) => Ok(Exempted::Prefix { side: Side::Customer, prefix }),
            (None, _, Some(prefix)) => Ok(Exempted::Prefix { side: Side::Destination, prefix }),
            (None, _, None) => anyhow::bail!("a customer, or --destination, is expected"),
        }
    }
}

#[derive(clap::Args)]
struct Socket {
    /// The agent's socket, where several run
    #[arg(long = "socket", value_name = "PATH")]
    path: Option<PathBuf>,
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
        Command::Run { config: path, take_over } => {
            let config = match load::<Config>(&path) {
                Ok(config) => config,
                Err(problems) => return Ok(say(&problems)),
            };
            log::init(config.log.format);
            log::show_addresses(config.log.addresses);
            run(config, path, take_over).inspect_err(|_| control::remove_directory("agent"))?;
        }
        Command::TakeOver { config } => succeed::take_over(&config)?,
        Command::Check { config } => match load::<Config>(&config) {
            Ok(_) => println!("{}: OK", config.display()),
            Err(problems) => return Ok(say(&problems)),
        },
        Command::Doctor { config, json } => {
            let report = runtime()?.block_on(doctor::examine(&config));
            if json {
                println!("{}", serde_json::to_string_pretty(&report.to_json())?);
            } else {
                print!("{}", report.to_table());
            }
            return Ok(ExitCode::from(report.exit_status()));
        }
        Command::Status { json, socket } => ask::status(socket.path.as_deref(), json)?,
        Command::Top { interval, times, json, socket } => {
            live::top(socket.path.as_deref(), Duration::from_secs(interval), times, json)?;
        }
        Command::Exempt { whom, duration, reason, socket } => {
            ask::exempt(socket.path.as_deref(), whom.exempted()?, duration, reason)?;
        }
        Command::Unexempt { whom, socket } => {
            ask::unexempt(socket.path.as_deref(), whom.exempted()?)?;
        }
        Command::Block { prefix, duration, reason, drop, socket } => {
            ask::block(socket.path.as_deref(), prefix, duration, reason, drop)?;
        }
        Command::Unblock { prefix, socket } => ask::unblock(socket.path.as_deref(), prefix)?,
        Command::Drain { node, socket } => ask::drain(socket.path.as_deref(), node, true)?,
        Command::Undrain { node, socket } => ask::drain(socket.path.as_deref(), node, false)?,
        Command::Mode { wanted, prefix, duration, socket } => {
            let socket = socket.path.as_deref();
            match wanted {
                WantedMode::Enforce => ask::mode(socket, Mode::Enforce, prefix, duration)?,
                WantedMode::Shadow => ask::mode(socket, Mode::Shadow, prefix, duration)?,
                WantedMode::Bypass => ask::mode(socket, Mode::Bypass, prefix, duration)?,
                WantedMode::Configured => ask::configured_mode(socket, prefix)?,
            }
        }
        Command::Release { end: true, socket, .. } => ask::end_release(socket.path.as_deref())?,
        Command::Release { duration, socket, .. } => ask::release(socket.path.as_deref(), duration)?,
        Command::List { json, socket } => ask::list(socket.path.as_deref(), json)?,
        Command::Cleanup { config } => {
            let config = match config.as_deref().map(load::<Config>).transpose() {
                Ok(config) => config,
                Err(problems) => return Ok(say(&problems)),
            };
            log::init(log::Format::Text);
            let mut report = runtime()?.block_on(steer::cleanup(config.as_ref()))?;
            let sockets = control::remove_remains("agent");
            report.removed.extend(sockets.iter().map(|path| format!("control socket {}", path.display())));
            println!("{report}");
        }
        Command::RouterConfig { recipe, config, beside, undo } => {
            let config = match load::<Config>(&config) {
                Ok(config) => config,
                Err(problems) => return Ok(say(&problems)),
            };
            print!("{}", recipe.text(&config, &beside, undo).map_err(anyhow::Error::msg)?);
        }
        Command::ExampleConfig => print!("{}", reference::example::<Config>()),
        Command::Reference => print!("{}", reference::markdown::<Config>()),
        Command::Completions { shell } => command_line::print_completions(Arguments::command(), shell),
        Command::ManPages { directory } => command_line::write_man_pages(Arguments::command(), &directory)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run(config: Config, path: PathBuf, take_over: bool) -> anyhow::Result<()> {
    // Before there are other threads.
    let starter = privileges::settle(&config, &path)?;
    let runtime = runtime()?;
    // Where sessions are, so that a connection is not handed from one thread to another.
    runtime.block_on(runtime.spawn(serve::run(config, path, starter, take_over)))?
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("threads cannot be started")
}

fn say(problems: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::FAILURE
}

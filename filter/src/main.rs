//! The command line of weir-filter.

mod blocking;
mod quarantining;
mod rates;
mod reading;
mod trying;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use caps::Capability;
use clap::{CommandFactory, Parser, Subcommand};
use tokio::sync::watch;
use trying::Try;
use weir_daemon::listeners::{self, Listeners};
use weir_daemon::{command_line, config, control, log, privileges, reference, service};
use weir_filter::config::Config;
use weir_filter::control::Request;
use weir_filter::customers::READ_INTERVAL;
use weir_filter::events::Records;
use weir_filter::outside::Outside;
use weir_filter::policy::script::Keeper;
use weir_filter::quarantine::Quarantine;
use weir_filter::rate::{File, SAVE_INTERVAL};
use weir_filter::scan::{Address, Scanners};
use weir_filter::serve::{self, Node};
use weir_filter::{descriptors, doctor};

/// How often counters that have run out are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How often scripts are looked at.
const SCRIPT_INTERVAL: Duration = Duration::from_secs(1);

/// A filter node: judges the messages that weir-agent intercepts. It cannot send mail.
#[derive(Debug, Parser)]
#[command(name = "weir-filter", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM.
    Run {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file: exit 0, or 1 and every error with its line and key.
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Ask every scanner and look at what else a node needs, and say what is wrong and what mends it; changes nothing. Exit
    /// status: 0 all is well (warnings or not), 1 something is wrong, 2 something could not be checked
    Doctor {
        #[arg(long, value_name = "FILE", default_value = "/etc/weir/filter.toml")]
        config: PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show what the running node did since its start.
    Status {
        /// The whole object as JSON.
        #[arg(long)]
        json: bool,
        /// Which instance, if several run: /run/weir-filter/filter.PID.sock
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Show step by step what a script decides on a message. Nothing is changed, and no scanner asked.
    Try(Box<Try>),
    /// Say that an address is another customer's from now on: what was counted for it is dropped.
    CustomerChanged {
        #[arg(value_name = "ADDRESS")]
        address: IpAddr,
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Show the messages that this node judged, latest first.
    Log(reading::Log),
    /// Print all that is stored of a customer, as JSON.
    Export(reading::Whose),
    /// Remove all that is stored of a customer.
    Forget(reading::Whose),
    /// Show how many addresses sent mail, day by day: IP addresses and senders' mail addresses.
    Usage(reading::Usage),
    /// Show what is counted of senders, or drop it.
    #[command(subcommand)]
    Rates(rates::Rates),
    /// Refuse a customer's mail, or a prefix's, for a while: here and in the kernel of every agent.
    Block(blocking::Block),
    /// End a block.
    Unblock(blocking::Unblock),
    /// List who is blocked.
    Blocks(blocking::Blocks),
    /// Look at samples of messages, which are kept encrypted where `[quarantine]` says so.
    #[command(subcommand)]
    Quarantine(quarantining::Quarantining),
    /// Print an annotated configuration file with every key.
    ExampleConfig,
    /// Print the configuration reference in Markdown.
    Reference,
    /// Print completions of these commands, for a shell to read.
    Completions { shell: command_line::Shell },
    /// Write a man page of each command to a directory.
    #[command(hide = true)]
    ManPages { directory: PathBuf },
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    let done: anyhow::Result<()> = match command {
        Command::Run { config } => run(&config).inspect_err(|_| listeners::forget()),
        Command::Doctor { config, json } => return examine(&config, json),
        Command::Check { config } => {
            let read: Config = config::load(&config)?;
            Outside::new(&read)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(Keeper::new(&read, &Scanners::new(&read)))?;
            println!("{}: no problems", config.display());
            Ok(())
        }
        Command::Status { json, socket } => {
            let answer = control::status("filter", socket.as_deref())?;
            println!("{}", if json { answer.to_string() } else { control::summary(&answer) });
            Ok(())
        }
        Command::Try(given) => trying::execute(*given),
        Command::CustomerChanged { address, socket } => {
            let request = Request::CustomerChanged { address };
            control::ask("filter", socket.as_deref(), &request.to_json())?;
            println!("{address}: what was counted for it is dropped");
            Ok(())
        }
        Command::Log(arguments) => reading::log(&arguments),
        Command::Export(arguments) => reading::export(&arguments),
        Command::Forget(arguments) => reading::forget(&arguments),
        Command::Usage(arguments) => reading::usage(&arguments),
        Command::Rates(command) => rates::rates(command),
        Command::Block(arguments) => blocking::block(arguments),
        Command::Unblock(arguments) => blocking::unblock(arguments),
        Command::Blocks(arguments) => blocking::blocks(&arguments),
        Command::Quarantine(command) => quarantining::execute(command),
        Command::ExampleConfig => {
            print!("{}", reference::example::<Config>());
            Ok(())
        }
        Command::Reference => {
            print!("{}", reference::markdown::<Config>());
            Ok(())
        }
        Command::Completions { shell } => {
            command_line::print_completions(Arguments::command(), shell);
            Ok(())
        }
        Command::ManPages { directory } => {
            Ok(command_line::write_man_pages(Arguments::command(), &directory)?)
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn examine(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(doctor::examine(path));
    if json {
        println!("{}", serde_json::to_string_pretty(&report.to_json())?);
    } else {
        print!("{}", report.to_table());
    }
    Ok(ExitCode::from(report.exit_status()))
}

fn run(path: &Path) -> anyhow::Result<()> {
    let config: Config = config::load(path)?;
    log::init(config.log.format);
    descriptors::raise(&config);
    give_up_privileges(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(serve_until_stopped(&config))
}

/// Before any thread is started. A filter node reads its files and listens, and that is all.
fn give_up_privileges(config: &Config) -> anyhow::Result<()> {
    let mut needed = Vec::new();
    if config.smtp.listen.iter().any(|address| address.port() < 1024) {
        needed.push(Capability::CAP_NET_BIND_SERVICE);
    }
    // The socket is the scanner's user's, and need not let others in.
    if config.scanners().any(|address| matches!(address, Address::Unix(_))) {
        needed.push(Capability::CAP_DAC_OVERRIDE);
    }
    privileges::keep_only(&needed).context("capabilities cannot be given up")?;
    let (capabilities, no_new_privileges) = (privileges::held().join(" "), privileges::no_new());
    tracing::info!(capabilities, no_new_privileges, "privileges while running");
    Ok(())
}

async fn serve_until_stopped(config: &Config) -> anyhow::Result<()> {
    let shutdown = service::shutdown_signal().context("cannot watch for signals")?;
    let channel = config.channel.as_ref().map_or(&[][..], |channel| &channel.listen);
    let mut kept = Listeners::inherited(&[&config.smtp.listen, channel].concat());
    let listeners = serve::listen(&mut kept, &config.smtp.listen, "smtp.listen").await?;
    let channel = serve::listen(&mut kept, channel, "channel.listen").await?;
    kept.keep(listeners.iter().chain(&channel));
    let mut node = Node::new(config)?.with_scripts(config).await?;
    node.records = Records::open(&config.events)?;
    node.quarantine = Quarantine::open(&config.quarantine)?;
    let node = Arc::new(node);
    let file = counters_file(&config.counters.file, &node)?;
    let listen: Vec<String> =
        listeners.iter().filter_map(|one| Some(one.local_addr().ok()?.to_string())).collect();
    let asked = (node.clone(), listen.clone());
    let answer = move |request: &_, actor| weir_filter::control::answer(&asked.0, &asked.1, request, actor);
    let status = control::serve("filter", answer);
    let (stop, stopped) = watch::channel(false);
    let grace = Duration::from_secs(config.smtp.shutdown_timeout);
    let serving = tokio::spawn(serve::serve(node.clone(), listeners, stopped, grace));
    let sweeping = tokio::spawn(sweep(node.clone()));
    let connected =
        node.policy.counters().shared().cloned().map(|shared| tokio::spawn(shared.stay_connected()));
    let telling = tokio::spawn(tell_outbreaks(node.clone()));
    let refreshing = tokio::spawn(refresh_files(node.clone()));
    let hangups = service::Hangups::watch().context("cannot watch for signals")?;
    let watching = tokio::spawn(watch_scripts(node.clone(), hangups));
    for listener in channel {
        tokio::spawn(weir_filter::channel::serve(node.clone(), listener));
    }
    if let Some(metrics) = &config.metrics {
        let node = node.clone();
        let text = move || weir_filter::metrics::families(&node).text();
        tokio::spawn(weir_daemon::metrics::serve(metrics.listen.clone(), text));
    }
    let (last, saving) = match file {
        None => (None, None),
        Some(file) => {
            let file = Arc::new(Mutex::new(file));
            (Some(file.clone()), Some(tokio::spawn(save_now_and_then(file, node.clone()))))
        }
    };
    tracing::info!(listen = listen.join(" "), "listening");
    service::ready("weir-filter");
    shutdown.await;
    service::stopping();
    stop.send_replace(true);
    serving.await.context("the server failed")?;
    sweeping.abort();
    connected.inspect(tokio::task::JoinHandle::abort);
    telling.abort();
    refreshing.abort();
    watching.abort();
    if let Some(saving) = saving {
        saving.abort();
    }
    if let Some(file) = last {
        save(file, node.clone()).await;
    }
    let written =
        tokio::task::spawn_blocking(move || node.records.iter().for_each(|records| records.writer.sync()));
    written.await.context("the event store failed")?;
    drop(status);
    tracing::info!("stopped");
    Ok(())
}

fn counters_file(path: &Path, node: &Node) -> anyhow::Result<Option<File>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let memory = node.policy.counters().memory();
    let file = File::open(path, memory, node.clock.now())?;
    tracing::info!(file = %path.display(), counters = memory.usage().keys, "counts of before");
    Ok(Some(file))
}

async fn save_now_and_then(file: Arc<Mutex<File>>, node: Arc<Node>) {
    loop {
        tokio::time::sleep(SAVE_INTERVAL).await;
        save(file.clone(), node.clone()).await;
    }
}

async fn save(file: Arc<Mutex<File>>, node: Arc<Node>) {
    let save = move || {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = file.save(node.policy.counters().memory(), node.clock.now());
        node.counters.saved(saved.is_ok());
        saved
    };
    match tokio::task::spawn_blocking(save).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "counts not saved"),
        Err(failure) => tracing::error!(%failure, "counts not saved: a defect of weir-filter"),
    }
}

async fn tell_outbreaks(node: Arc<Node>) {
    if let Some(engine) = node.inside.outbreaks() {
        engine.exchange(&node.clock).await;
    }
}

/// The files of customers and maps, as often as they may change, and blocks that are over.
async fn refresh_files(node: Arc<Node>) {
    loop {
        tokio::time::sleep(READ_INTERVAL).await;
        let node = node.clone();
        let work = move || {
            node.customers.refresh();
            node.outside.maps().refresh();
            node.blocks.sweep();
        };
        if let Err(failure) = tokio::task::spawn_blocking(work).await {
            tracing::error!(%failure, "files not read again: a defect of weir-filter");
        }
    }
}

/// Scripts that have changed are taken within a second, and at SIGHUP.
async fn watch_scripts(node: Arc<Node>, mut hangups: service::Hangups) {
    let Some(scripts) = &node.scripts else { return };
    loop {
        tokio::select! {
            () = tokio::time::sleep(SCRIPT_INTERVAL) => scripts.look_again(false).await,
            true = hangups.next() => {
                service::reloading();
                scripts.look_again(true).await;
                service::reloaded();
            }
        }
    }
}

async fn sweep(node: Arc<Node>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        node.policy.counters().memory().sweep(node.clock.now());
    }
}

//! Commands that read what the node stored. They need no running node, only the right to read its files.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use weir_daemon::{config, control, time};
use weir_filter::config::Config;
use weir_filter::events::{self, Query};

/// Columns of a table where the terminal does not say how many it has.
const COLUMNS: usize = 100;

/// Which node's files.
#[derive(Debug, Args)]
pub struct Node {
    /// Its configuration; else the running node is asked where its files are.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which instance to ask, if several run: /run/weir/filter.PID.sock
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
}

/// What is looked for: all that is said must hold.
#[derive(Debug, Args)]
pub struct Log {
    /// Of this customer; where customers have no names, an address or a prefix.
    #[arg(long, value_name = "NAME|PREFIX")]
    customer: Option<String>,
    /// Sent from this address, or from one of this prefix.
    #[arg(long, value_name = "ADDRESS|PREFIX")]
    ip: Option<String>,
    /// With this Message-ID, angle brackets or not.
    #[arg(long, value_name = "MESSAGE-ID")]
    message_id: Option<String>,
    /// With this id, as in replies and in the logs of agent and node.
    #[arg(long)]
    id: Option<String>,
    /// Not before: 2026-11-21T06:00:00Z, 2026-11-21, or so long ago: 90s, 15m, 24h, 7d.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before; as --since.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The latest of all.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    /// Everything that is stored of each, as a line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

pub fn log(arguments: &Log) -> anyhow::Result<()> {
    let directory = directory(&arguments.node)?;
    let query = query(arguments)?;
    let found = events::search(&directory, &query)
        .with_context(|| format!("{}: the events cannot be read", directory.display()))?;
    for unread in &found.unread {
        eprintln!("warning: what is in this file is missing here: {unread}");
    }
    if arguments.json {
        for event in &found.events {
            println!("{}", serde_json::to_string(event)?);
        }
    } else if found.events.is_empty() {
        println!("no such message");
    } else {
        print!("{}", events::table(&found.events, columns()));
    }
    Ok(())
}

fn query(arguments: &Log) -> anyhow::Result<Query> {
    let now = time::now();
    let moment = |text: &Option<String>| text.as_deref().map(|text| time::moment(text, now)).transpose();
    let mut query = Query {
        id: arguments.id.clone(),
        message_id: arguments.message_id.as_deref().map(|id| id.trim_matches(['<', '>', ' ']).to_owned()),
        since: moment(&arguments.since).map_err(anyhow::Error::msg).context("--since")?,
        until: moment(&arguments.until).map_err(anyhow::Error::msg).context("--until")?,
        limit: arguments.limit,
        ..Query::default()
    };
    if let Some(ip) = &arguments.ip {
        let prefix = events::prefix(ip);
        query.prefix =
            Some(prefix.with_context(|| format!("--ip: {ip:?} is neither an address nor a prefix"))?);
    }
    if let Some(customer) = &arguments.customer {
        match events::prefix(customer) {
            Some(_) if query.prefix.is_some() => {
                bail!("--customer with an address and --ip are the same thing")
            }
            Some(prefix) => query.prefix = Some(prefix),
            None => query.customer = Some(customer.clone()),
        }
    }
    Ok(query)
}

/// Where the events are.
fn directory(node: &Node) -> anyhow::Result<PathBuf> {
    let directory = match &node.config {
        Some(file) => config::load::<Config>(file)?.events.directory,
        None => {
            let status = control::status("filter", node.socket.as_deref());
            let status = status.context("where the events are is not known; say it with --config FILE")?;
            status["events"]["directory"].as_str().unwrap_or_default().into()
        }
    };
    if directory.as_os_str().is_empty() {
        bail!("this node keeps no events: events.directory is empty");
    }
    Ok(directory)
}

fn columns() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(COLUMNS)
}

//! Commands about what the node stored. To read they need no running node, only the right to read its files.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use weir_daemon::audit::{Actor, Audit};
use weir_daemon::{config, control, time};
use weir_filter::channel::ask_others;
use weir_filter::config::Config;
use weir_filter::control::Request;
use weir_filter::events::{self, Event, Forgotten, Found, Query};
use weir_filter::quarantine;

/// Where a node's configuration is, unless somebody says otherwise.
const CONFIG: &str = "/etc/weir/filter.toml";

/// Keys of counts in one request.
const KEYS_AT_ONCE: usize = 500;

/// Columns of a table where the terminal does not say how many it has.
const COLUMNS: usize = 100;

/// Which node's files.
#[derive(Debug, Args)]
pub struct Node {
    /// Its configuration; else the running node is asked where its files are.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which instance to ask, if several run: /run/weir-filter/filter.PID.sock
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
    /// Of all nodes that channel.nodes names, not of this one alone; /etc/weir/filter.toml unless --config says another.
    #[arg(long, conflicts_with = "socket")]
    all_nodes: bool,
    /// Everything that is stored of each, as a line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

/// Whose.
#[derive(Debug, Args)]
pub struct Whose {
    /// This customer's; where customers have no names, an address or a prefix.
    #[arg(long, value_name = "NAME|PREFIX")]
    customer: String,
    #[command(flatten)]
    node: Node,
}

#[derive(Debug, Args)]
pub struct Usage {
    /// From this day on: 2026-11-21, or so long ago: 7d.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Senders' mail addresses a day that are licensed: a day with more is said to have more, and nothing else comes of it.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

/// Where a node keeps what it keeps.
pub struct Places {
    /// Empty: there are none.
    events: PathBuf,
    /// Empty: there are none.
    pub samples: PathBuf,
    pub audit: Audit,
}

impl Places {
    fn events(&self) -> anyhow::Result<&Path> {
        if self.events.as_os_str().is_empty() {
            bail!("this node keeps no events: events.directory is empty");
        }
        Ok(&self.events)
    }
}

pub fn log(arguments: &Log) -> anyhow::Result<()> {
    let places = places(&arguments.node)?;
    let directory = places.events()?;
    let query = query(arguments)?;
    let mut found = events::search(directory, &query)
        .with_context(|| format!("{}: the events cannot be read", directory.display()))?;
    if arguments.all_nodes {
        add_others(&mut found, &query, &arguments.node)?;
    }
    for unread in &found.unread {
        eprintln!("warning: missing here is what is in {unread}");
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

/// What other nodes find, too; those that do not answer are said.
fn add_others(found: &mut Found, query: &Query, node: &Node) -> anyhow::Result<()> {
    let config: Config = config::load(node.config.as_deref().unwrap_or(Path::new(CONFIG)))?;
    let channel = config.channel.context("--all-nodes: the configuration has no [channel]")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (other, answer) in runtime.block_on(ask_others(&channel, query))? {
        match answer {
            Ok(more) => {
                found.events.extend(more.events);
                found.unread.extend(more.unread.into_iter().map(|file| format!("{other}: {file}")));
            }
            Err(cause) => found.unread.push(format!("all of {other}: {cause}")),
        }
    }
    found.events.sort_by_key(|event| std::cmp::Reverse(event.at));
    // Of a node that listens on all its addresses, and so does not see that it has asked itself.
    found.events.dedup_by(|one, other| (one.at, &one.id, &one.node) == (other.at, &other.id, &other.node));
    found.events.truncate(query.limit);
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

pub fn places(node: &Node) -> anyhow::Result<Places> {
    let (events, samples, audit) = match &node.config {
        Some(file) => {
            let config = config::load::<Config>(file)?;
            (config.events.directory, config.quarantine.directory, config.privacy.audit_log)
        }
        None => {
            let status = control::status("filter", node.socket.as_deref());
            let status =
                status.context("where the node keeps its files is not known; say it with --config FILE")?;
            let path = |value: &Value| PathBuf::from(value.as_str().unwrap_or_default());
            let samples = path(&status["quarantine"]["directory"]);
            (path(&status["events"]["directory"]), samples, path(&status["audit_log"]))
        }
    };
    Ok(Places { events, samples, audit: Audit::new("weir-filter", &audit) })
}

pub fn export(arguments: &Whose) -> anyhow::Result<()> {
    let Places { events, samples, audit } = places(&arguments.node)?;
    let query = of_customer(&arguments.customer);
    record(&audit, "export", arguments)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let customer = json!(arguments.customer);
    write!(out, "{{\"customer\":{customer},\"exported\":{},\"events\":[", json!(time::rfc3339(time::now())))?;
    let mut keys = HashSet::from([arguments.customer.clone()]);
    let mut ids = HashSet::new();
    let mut between = "";
    let mut unread = visit(&events, &query, |event| {
        keys.extend(event.source());
        write!(out, "{between}\n{}", serde_json::to_string(&event).map_err(io::Error::other)?)?;
        ids.insert(event.id);
        between = ",";
        Ok(())
    })?;
    let mut counters = Vec::new();
    if arguments.node.config.is_none() {
        for keys in chunks(keys) {
            let shown = ask(arguments, &Request::RatesShow { keys })?;
            counters.extend(shown.as_array().cloned().unwrap_or_default());
        }
    }
    write!(out, "],\"counters\":{},\"samples\":[", json!(counters))?;
    let mut between = "";
    for sample in samples_of(&samples, &query, &ids, &mut unread)? {
        match quarantine::armored(&sample) {
            Ok(encrypted) => {
                write!(out, "{between}\n{}", json!({ "label": sample.label, "encrypted": encrypted }))?;
                between = ",";
            }
            Err(error) => unread.push(error.to_string()),
        }
    }
    writeln!(out, "],\"unread\":{}}}", json!(unread))?;
    out.flush()?;
    note_counters(arguments);
    Ok(())
}

pub fn forget(arguments: &Whose) -> anyhow::Result<()> {
    let Places { events, samples, audit } = places(&arguments.node)?;
    let query = of_customer(&arguments.customer);
    record(&audit, "forget", arguments)?;
    let mut keys = HashSet::from([arguments.customer.clone()]);
    let mut ids = HashSet::new();
    visit(&events, &query, |event| {
        keys.extend(event.source());
        ids.insert(event.id);
        Ok(())
    })?;
    let mut unread = Vec::new();
    let samples = samples_of(&samples, &query, &ids, &mut unread)?;
    for sample in &samples {
        quarantine::remove(sample)?;
    }
    let forgotten =
        if events.as_os_str().is_empty() { Forgotten::default() } else { events::forget(&events, &query)? };
    unread.extend(forgotten.unread);
    let mut counts = 0;
    if arguments.node.config.is_none() {
        for keys in chunks(keys) {
            let cleared = ask(arguments, &Request::RatesClear { namespace: None, keys })?;
            counts += cleared["cleared"].as_u64().unwrap_or_default();
        }
    }
    let (whose, events, samples) = (&arguments.customer, forgotten.events, samples.len());
    println!("{whose}: {events} events and {counts} counts forgotten, and {samples} samples");
    note_counters(arguments);
    if !unread.is_empty() {
        bail!("there may be more in these files:\n  {}", unread.join("\n  "));
    }
    Ok(())
}

fn visit(
    directory: &Path,
    query: &Query,
    each: impl FnMut(Event) -> io::Result<()>,
) -> io::Result<Vec<String>> {
    if directory.as_os_str().is_empty() { Ok(Vec::new()) } else { events::visit(directory, query, each) }
}

/// A customer's samples: those that bear his name, and those of his messages.
fn samples_of(
    directory: &Path,
    query: &Query,
    ids: &HashSet<String>,
    unread: &mut Vec<String>,
) -> io::Result<Vec<quarantine::Kept>> {
    let (mut samples, damaged) = quarantine::list(directory)?;
    unread.extend(damaged);
    samples.retain(|sample| {
        let label = &sample.label;
        let within = || Some((query.prefix?, events::prefix(&label.customer)?));
        query.customer.as_ref() == Some(&label.customer)
            || within().is_some_and(|(prefix, own)| prefix.contains(&own))
            || ids.contains(&label.id)
    });
    Ok(samples)
}

pub fn usage(arguments: &Usage) -> anyhow::Result<()> {
    let places = places(&arguments.node)?;
    let directory = places.events()?;
    let since = arguments.since.as_deref().map(|text| time::moment(text, time::now())).transpose();
    let usage = events::usage(directory, since.map_err(anyhow::Error::msg).context("--since")?)
        .with_context(|| format!("{}: the events cannot be read", directory.display()))?;
    for unread in &usage.unread {
        eprintln!("warning: what is in this file is not counted: {unread}");
    }
    for day in usage.days.iter().filter(|day| arguments.limit.is_some_and(|limit| day.senders > limit)) {
        let limit = arguments.limit.unwrap_or_default();
        eprintln!("warning: {}: {} senders are more than {limit}", day.day, day.senders);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&usage.days)?);
        return Ok(());
    }
    println!("{:12} {:>10} {:>10} {:>12}", "DAY (UTC)", "SOURCES", "SENDERS", "MESSAGES");
    for day in &usage.days {
        println!("{:12} {:>10} {:>10} {:>12}", day.day, day.sources, day.senders, day.messages);
    }
    Ok(())
}

fn of_customer(customer: &str) -> Query {
    let prefix = events::prefix(customer);
    let name = Some(customer.to_owned()).filter(|_| prefix.is_none());
    Query { customer: name, prefix, limit: usize::MAX, ..Query::default() }
}

fn record(audit: &Audit, action: &str, arguments: &Whose) -> anyhow::Result<()> {
    let whose = json!({ "customer": arguments.customer });
    audit.require(Actor::own(), action, &whose).map_err(anyhow::Error::msg)
}

fn ask(arguments: &Whose, request: &Request) -> Result<Value, control::Error> {
    control::ask("filter", arguments.node.socket.as_deref(), &request.to_json())
}

fn chunks(keys: HashSet<String>) -> Vec<Vec<String>> {
    let keys: Vec<String> = keys.into_iter().collect();
    keys.chunks(KEYS_AT_ONCE).map(<[String]>::to_vec).collect()
}

fn note_counters(arguments: &Whose) {
    if arguments.node.config.is_some() {
        eprintln!("with --config only files are looked at: what a node has counted is not among it");
    }
}

fn columns() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(COLUMNS)
}

//! Commands about samples. They look at files, and need no running node.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use weir_daemon::audit::Actor;
use weir_daemon::time;
use weir_filter::quarantine::{self, Kept};

use crate::reading::{Node, Places, places};

/// Octets of a file with a key.
const MAX_KEY: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub enum Quarantining {
    /// What there is, latest first; without the key nobody knows what is in it.
    List {
        /// As one line of JSON each
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        node: Node,
    },
    /// Print the message, byte for byte. The audit log says who did.
    Show {
        #[command(flatten)]
        which: Which,
        /// The file with the secret key, as `weir-filter quarantine key` or `age-keygen` wrote it.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Remove a sample before its time.
    Delete {
        #[command(flatten)]
        which: Which,
    },
    /// Make a pair of keys: the public one for `quarantine.public_key`, and the secret one, which is not to be on the node. Printed,
    /// and kept nowhere.
    Key,
}

#[derive(Debug, Args)]
pub struct Which {
    /// The message's id.
    id: String,
    #[command(flatten)]
    node: Node,
}

pub fn execute(command: Quarantining) -> anyhow::Result<()> {
    match command {
        Quarantining::List { json, node } => list(&samples(&node)?.samples, json),
        Quarantining::Show { which, key } => show(&which, &key),
        Quarantining::Delete { which } => {
            let (places, kept) = find(&which)?;
            record(&places, "quarantine delete", &kept)?;
            quarantine::remove(&kept)?;
            println!("{}: the sample is removed", which.id);
            Ok(())
        }
        Quarantining::Key => {
            let pair = Identity::generate();
            println!("# quarantine.public_key = \"{}\"", pair.to_public());
            println!("{}", pair.to_string().expose_secret());
            Ok(())
        }
    }
}

fn samples(node: &Node) -> anyhow::Result<Places> {
    let places = places(node)?;
    if places.samples.as_os_str().is_empty() {
        bail!("this node keeps no samples: quarantine.enabled is false");
    }
    Ok(places)
}

fn find(which: &Which) -> anyhow::Result<(Places, Kept)> {
    let places = samples(&which.node)?;
    let kept = quarantine::find(&places.samples, &which.id)?;
    Ok((places, kept))
}

fn record(places: &Places, action: &str, kept: &Kept) -> anyhow::Result<()> {
    let arguments = json!({ "id": kept.label.id, "customer": kept.label.customer });
    places.audit.require(Actor::own(), action, &arguments).map_err(anyhow::Error::msg)
}

fn list(directory: &Path, json: bool) -> anyhow::Result<()> {
    let (samples, unread) = quarantine::list(directory)
        .with_context(|| format!("{}: the samples cannot be read", directory.display()))?;
    for unread in &unread {
        eprintln!("warning: {unread}");
    }
    if json {
        for sample in &samples {
            println!("{}", json!({ "label": sample.label, "size": sample.size, "file": sample.path }));
        }
        return Ok(());
    }
    if samples.is_empty() {
        println!("no samples");
        return Ok(());
    }
    println!("{:20}  {:16}  {:>10}  {:12}  CUSTOMER", "TIME (UTC)", "ID", "SIZE", "RULE");
    for Kept { label, size, .. } in &samples {
        let time = time::rfc3339(label.time);
        println!("{time:20}  {:16}  {size:>10}  {:12}  {}", printable(&label.id), label.rule, label.customer);
    }
    Ok(())
}

fn show(which: &Which, key: &Path) -> anyhow::Result<()> {
    let (places, kept) = find(which)?;
    let key = secret(key).with_context(|| format!("--key {}", key.display()))?;
    record(&places, "quarantine show", &kept)?;
    let message = quarantine::decrypt(&kept, &key)?;
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        out.write_all(printable(&String::from_utf8_lossy(&message)).as_bytes())?;
    } else {
        out.write_all(&message)?;
    }
    out.flush()?;
    Ok(())
}

/// The key in a file; its other lines are comments.
fn secret(path: &Path) -> anyhow::Result<Identity> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(std::fs::File::open(path)?, MAX_KEY), &mut text)?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed = line.context("has no key")?.parse::<Identity>();
    parsed.map_err(|why| anyhow::anyhow!("has no secret key of age (AGE-SECRET-KEY-1...): {why}"))
}

/// What others wrote must not move the cursor.
fn printable(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() && letter != '\n' { '?' } else { letter };
    text.replace("\r\n", "\n").chars().map(plain).collect()
}

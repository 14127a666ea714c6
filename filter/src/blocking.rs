//! Commands about who is blocked.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use weir_daemon::{control, time};
use weir_filter::blocks::{Who, table};
use weir_filter::control::Request;

#[derive(Debug, Args)]
pub struct Block {
    /// A customer's id, an address or a prefix.
    #[arg(value_name = "CUSTOMER|PREFIX", value_parser = who)]
    who: Who,
    /// For example 90s, 30m, 2h or 7d.
    #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = time::duration)]
    duration: Duration,
    /// One line, which the customer is told.
    #[arg(long, default_value = "")]
    reason: String,
    /// Which instance, if several run: /run/weir-filter/filter.PID.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Unblock {
    #[arg(value_name = "CUSTOMER|PREFIX", value_parser = who)]
    who: Who,
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Blocks {
    #[arg(long)]
    json: bool,
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

fn who(text: &str) -> Result<Who, String> {
    Who::try_from(text.to_owned())
}

pub fn block(arguments: Block) -> anyhow::Result<()> {
    let Block { who, duration, reason, socket } = arguments;
    let request = Request::Block { who: who.clone(), seconds: duration.as_secs(), reason };
    let answer = control::ask("filter", socket.as_deref(), &request.to_json())?;
    let prefixes = answer["prefixes"].as_array().map_or(0, Vec::len);
    println!("{who} is blocked for {}: {prefixes} prefixes", time::left(duration));
    Ok(())
}

pub fn unblock(arguments: Unblock) -> anyhow::Result<()> {
    let Unblock { who, socket } = arguments;
    let request = Request::Unblock { who: who.clone() };
    control::ask("filter", socket.as_deref(), &request.to_json())?;
    println!("{who} is not blocked any more");
    Ok(())
}

pub fn blocks(arguments: &Blocks) -> anyhow::Result<()> {
    let blocks = control::ask("filter", arguments.socket.as_deref(), &Request::Blocks {}.to_json())?;
    println!("{}", if arguments.json { blocks.to_string() } else { table(&blocks) });
    Ok(())
}

//! Commands about what the running node has counted.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;
use weir_daemon::control;
use weir_filter::control::Request;
use weir_filter::rate::Shown;

#[derive(Debug, Args)]
pub struct Socket {
    /// Which instance, if several run: /run/weir-filter/filter.PID.sock
    #[arg(long = "socket", value_name = "PATH")]
    path: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Rates {
    /// Who has sent most, in the longest window of each count.
    Top {
        /// One count only, by its rule's name.
        #[arg(long)]
        namespace: Option<String>,
        #[arg(long, value_name = "NUMBER", default_value_t = 20)]
        limit: usize,
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Everything that is counted for a source (an IPv4 address, an IPv6 /64) or a customer.
    Show {
        key: String,
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Drop what is counted for a source or a customer: his limits are as if he had sent nothing.
    Clear {
        key: String,
        /// One count only, by its rule's name.
        #[arg(long)]
        namespace: Option<String>,
        #[command(flatten)]
        socket: Socket,
    },
}

pub fn rates(command: Rates) -> anyhow::Result<()> {
    match command {
        Rates::Top { namespace, limit, json, socket } => {
            show(&ask(&socket, &Request::RatesTop { namespace, limit })?, json)
        }
        Rates::Show { key, json, socket } => {
            show(&ask(&socket, &Request::RatesShow { keys: vec![key] })?, json)
        }
        Rates::Clear { key, namespace, socket } => {
            let cleared = ask(&socket, &Request::RatesClear { namespace, keys: vec![key.clone()] })?;
            println!("{key}: {} counts dropped", cleared["cleared"]);
            Ok(())
        }
    }
}

fn ask(socket: &Socket, request: &Request) -> Result<Value, control::Error> {
    control::ask("filter", socket.path.as_deref(), &request.to_json())
}

fn show(answer: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(answer)?);
        return Ok(());
    }
    let rows = Vec::<Shown>::deserialize(answer)?;
    print!("{}", table(&rows));
    Ok(())
}

fn table(rows: &[Shown]) -> String {
    if rows.is_empty() {
        return "nothing is counted\n".into();
    }
    let width =
        |of: fn(&Shown) -> &str, least: usize| rows.iter().map(|row| of(row).len()).fold(least, usize::max);
    let (first, second) = (width(|row| &row.namespace, 5), width(|row| &row.key, 3));
    let mut text = format!("{:first$}  {:second$}  {:>9}  IN\n", "COUNT", "KEY", "NUMBER");
    for row in rows {
        let (namespace, key, count) = (&row.namespace, &row.key, row.count);
        text += &format!("{namespace:first$}  {key:second$}  {count:>9}  {}\n", window(row.seconds));
    }
    text
}

fn window(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let whole = units.into_iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stand_below_each_other() {
        let row = |namespace: &str, key: &str, count, seconds| Shown {
            namespace: namespace.into(),
            key: key.into(),
            count,
            seconds,
        };
        assert_eq!(table(&[]), "nothing is counted\n");
        assert_eq!(
            table(&[row("source-minute", "10.1.0.2", 7, 60), row("spam", "fd01::/64", 12_000, 28_800)]),
            "COUNT          KEY           NUMBER  IN\n\
             source-minute  10.1.0.2           7  1m\n\
             spam           fd01::/64      12000  8h\n"
        );
        assert_eq!(window(90), "90s");
    }
}

//! Commands that ask the running agent.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use weir_agent::config::Mode;
use weir_agent::control::{Request, Side};
use weir_agent::policy::time;
use weir_daemon::control;

type Socket<'a> = Option<&'a Path>;

pub fn status(socket: Socket<'_>, json: bool) -> anyhow::Result<()> {
    let status = ask(socket, &Request::Status {})?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", control::summary(&status));
    }
    Ok(())
}

/// What a command about exemptions is about.
#[derive(Clone, Copy)]
pub enum Exempted {
    Pair { customer: IpAddr, destination: IpAddr },
    Prefix { side: Side, prefix: IpNet },
}

pub fn exempt(socket: Socket<'_>, whom: Exempted, duration: Duration, reason: String) -> anyhow::Result<()> {
    let seconds = duration.as_secs();
    let request = match whom {
        Exempted::Pair { customer, destination } => {
            Request::Exempt { customer, destination, seconds, reason }
        }
        Exempted::Prefix { side, prefix } => Request::ExemptPrefix { side, prefix, seconds, reason },
    };
    let rule = ask(socket, &request)?;
    println!("{}: new connections go straight, unjudged, until {}", whose(&rule), text(&rule, "until"));
    Ok(())
}

pub fn unexempt(socket: Socket<'_>, whom: Exempted) -> anyhow::Result<()> {
    let request = match whom {
        Exempted::Pair { customer, destination } => Request::Unexempt { customer, destination },
        Exempted::Prefix { side, prefix } => Request::UnexemptPrefix { side, prefix },
    };
    let rule = ask(socket, &request)?;
    println!("{}: new connections are intercepted again", whose(&rule));
    Ok(())
}

pub fn block(
    socket: Socket<'_>,
    prefix: IpNet,
    duration: Duration,
    reason: String,
    drop: bool,
) -> anyhow::Result<()> {
    let request = Request::Block { prefix, seconds: duration.as_secs(), reason, drop };
    let rule = ask(socket, &request)?;
    let how = if drop { "dropped" } else { "reset" };
    println!(
        "{}: new connections are {how} until {}, whether or not the agent lives; open sessions go on",
        whose(&rule),
        text(&rule, "until")
    );
    Ok(())
}

pub fn unblock(socket: Socket<'_>, prefix: IpNet) -> anyhow::Result<()> {
    let rule = ask(socket, &Request::Unblock { prefix })?;
    println!("{}: new connections are taken again", whose(&rule));
    Ok(())
}

/// In words: a pair, customers, or a destination.
fn whose(rule: &Value) -> String {
    match text(rule, "kind") {
        "exempt_destination" => format!("all to {}", text(rule, "prefix")),
        "exempt_customer" | "blocked" => text(rule, "prefix").to_owned(),
        _ => format!("{} to {}", text(rule, "customer"), text(rule, "destination")),
    }
}

pub fn drain(socket: Socket<'_>, node: SocketAddr, draining: bool) -> anyhow::Result<()> {
    let answer = ask(socket, &Request::Drain { node, draining })?;
    let in_flight = answer["in_flight"].as_u64().unwrap_or_default();
    if draining {
        println!("{node}: gets no more messages, and still has {in_flight}");
    } else {
        println!("{node}: gets messages again");
    }
    Ok(())
}

pub fn list(socket: Socket<'_>, json: bool) -> anyhow::Result<()> {
    let rules = ask(socket, &Request::List {})?;
    if json {
        println!("{}", serde_json::to_string_pretty(&rules)?);
    } else {
        print!("{}", table(rules.as_array().map_or(&[], Vec::as_slice)));
    }
    Ok(())
}

pub fn mode(socket: Socket<'_>, mode: Mode, prefix: Option<IpNet>, duration: Duration) -> anyhow::Result<()> {
    let switched = ask(socket, &Request::Mode { mode, prefix, seconds: duration.as_secs() })?;
    println!(
        "{} for {} customers from now on, for {}; then, or after a restart of the agent, as configured",
        text(&switched, "mode"),
        text(&switched, "customers"),
        time::left(duration)
    );
    Ok(())
}

pub fn configured_mode(socket: Socket<'_>, prefix: Option<IpNet>) -> anyhow::Result<()> {
    let ended = ask(socket, &Request::ConfiguredMode { prefix })?;
    let ended = ended.as_array().map(Vec::as_slice).unwrap_or_default();
    if ended.is_empty() {
        println!("no mode was switched: it is as configured");
    }
    for switched in ended {
        println!(
            "{} ended for {} customers: it is as configured again",
            text(switched, "mode"),
            text(switched, "customers")
        );
    }
    Ok(())
}

pub fn release(socket: Socket<'_>, duration: Duration) -> anyhow::Result<()> {
    let released = ask(socket, &Request::Release { seconds: duration.as_secs() })?;
    println!(
        "all customers: new connections go straight, unjudged, until {}, whether or not the agent lives; open sessions \
         finish in the agent",
        text(&released, "until")
    );
    Ok(())
}

pub fn end_release(socket: Socket<'_>) -> anyhow::Result<()> {
    ask(socket, &Request::EndRelease {})?;
    println!("all customers: new connections are intercepted again");
    Ok(())
}

fn ask(socket: Socket<'_>, request: &Request) -> Result<Value, control::Error> {
    control::ask("agent", socket, &request.to_json())
}

/// A line for each rule, below a line of headings.
fn table(rules: &[Value]) -> String {
    const COLUMNS: usize = 8;
    if rules.is_empty() {
        return "nobody is exempt or blocked\n".into();
    }
    let headings = ["RULE", "CUSTOMER", "DESTINATION", "UNTIL", "LEFT", "CONNECTIONS", "BY", "REASON"];
    let cells = |rule: &Value| {
        let left = Duration::from_secs(rule["seconds_left"].as_u64().unwrap_or_default());
        let (kind, prefix) = (text(rule, "kind"), text(rule, "prefix"));
        let (rule_name, customer, destination) = match kind {
            "blocked" => (format!("blocked ({})", text(rule, "refusal")), prefix, "any"),
            "exempt_customer" => ("exempt".into(), prefix, "any"),
            "exempt_destination" => ("exempt".into(), "any", prefix),
            _ => ("exempt".into(), text(rule, "customer"), text(rule, "destination")),
        };
        let connections = rule["connections"].as_u64().map_or("-".to_owned(), |count| count.to_string());
        let [customer, destination] = [customer, destination].map(str::to_owned);
        let [until, by, reason] = ["until", "by", "reason"].map(|name| text(rule, name).to_owned());
        [rule_name, customer, destination, until, time::left(left), connections, by, reason]
    };
    let rows: Vec<[String; COLUMNS]> =
        std::iter::once(headings.map(String::from)).chain(rules.iter().map(cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let line = |row: &[String; COLUMNS]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::table;

    #[test]
    fn rules_stand_below_each_other() {
        assert_eq!(table(&[]), "nobody is exempt or blocked\n");
        let rule = |more: Value| {
            let mut rule = json!({"until": "2026-11-22T06:00:00Z", "seconds_left": 3660, "by": "operator"});
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule
        };
        let rules = [
            json!({"kind": "exempt_pair", "customer": "10.1.0.2", "destination": "10.2.0.2", "reason": "TLS"}),
            json!({"kind": "exempt_customer", "prefix": "10.1.7.0/24", "connections": 12, "reason": ""}),
            json!({"kind": "exempt_destination", "prefix": "fd02::2/128", "connections": 0, "reason": ""}),
            json!({"kind": "blocked", "prefix": "10.1.0.200/32", "refusal": "reset", "reason": "a bot"}),
        ];
        assert_eq!(
            table(&rules.map(rule)),
            "RULE             CUSTOMER       DESTINATION  UNTIL                 LEFT   CONNECTIONS  BY        REASON\n\
             exempt           10.1.0.2       10.2.0.2     2026-11-22T06:00:00Z  1h 1m  -            operator  TLS\n\
             exempt           10.1.7.0/24    any          2026-11-22T06:00:00Z  1h 1m  12           operator\n\
             exempt           any            fd02::2/128  2026-11-22T06:00:00Z  1h 1m  0            operator\n\
             blocked (reset)  10.1.0.200/32  any          2026-11-22T06:00:00Z  1h 1m  -            operator  a bot\n"
        );
    }
}

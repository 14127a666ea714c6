//! Commands that ask the running agent.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use weir_agent::config::Mode;
use weir_agent::control::Request;
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

pub fn exempt(
    socket: Socket<'_>,
    customer: IpAddr,
    destination: IpAddr,
    duration: Duration,
    reason: String,
) -> anyhow::Result<()> {
    let request = Request::Exempt { customer, destination, seconds: duration.as_secs(), reason };
    let rule = ask(socket, &request)?;
    println!(
        "{} to {}: new connections go straight, unjudged, until {}",
        text(&rule, "customer"),
        text(&rule, "destination"),
        text(&rule, "until")
    );
    Ok(())
}

pub fn unexempt(socket: Socket<'_>, customer: IpAddr, destination: IpAddr) -> anyhow::Result<()> {
    let pair = ask(socket, &Request::Unexempt { customer, destination })?;
    println!(
        "{} to {}: new connections are intercepted again",
        text(&pair, "customer"),
        text(&pair, "destination")
    );
    Ok(())
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
    if rules.is_empty() {
        return "nobody is exempt\n".into();
    }
    let headings = ["EXEMPT CUSTOMER", "TO DESTINATION", "UNTIL", "LEFT", "BY", "REASON"].map(String::from);
    let cells = |rule: &Value| {
        let left = Duration::from_secs(rule["seconds_left"].as_u64().unwrap_or_default());
        let [customer, destination, until, by, reason] =
            ["customer", "destination", "until", "by", "reason"].map(|name| text(rule, name).to_owned());
        [customer, destination, until, time::left(left), by, reason]
    };
    let rows: Vec<[String; 6]> = std::iter::once(headings).chain(rules.iter().map(cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
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
    use serde_json::json;

    use super::table;

    #[test]
    fn rules_stand_below_each_other() {
        assert_eq!(table(&[]), "nobody is exempt\n");
        let rule = |customer: &str, reason: &str| {
            json!({"customer": customer, "destination": "10.2.0.2", "until": "2026-11-22T06:00:00Z",
                "seconds_left": 3660, "by": "operator", "reason": reason})
        };
        assert_eq!(
            table(&[rule("10.1.0.2", "insists on TLS"), rule("10.1.0.200", "")]),
            "EXEMPT CUSTOMER  TO DESTINATION  UNTIL                 LEFT   BY        REASON\n\
             10.1.0.2         10.2.0.2        2026-11-22T06:00:00Z  1h 1m  operator  insists on TLS\n\
             10.1.0.200       10.2.0.2        2026-11-22T06:00:00Z  1h 1m  operator\n"
        );
    }
}

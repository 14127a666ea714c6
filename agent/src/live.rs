//! `weir-agent top`: what the running agent does, again and again, on a terminal of 80 columns.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stdout};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use weir_agent::control::Request;
use weir_daemon::control;

/// Customers and nodes shown.
const MAX_CUSTOMERS: usize = 7;
const MAX_NODES: usize = 4;

/// Clears the screen, and begins at its top (ECMA-48 CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Goes on until it is interrupted, or has been said `times` times.
pub fn top(socket: Option<&Path>, pause: Duration, times: Option<u64>, json: bool) -> anyhow::Result<()> {
    let mut before = ask(socket)?;
    let mut asked = Instant::now();
    for time in 1.. {
        sleep(pause);
        let now = ask(socket)?;
        let seconds = asked.elapsed().as_secs_f64();
        asked = Instant::now();
        let mut out = stdout().lock();
        if json {
            writeln!(out, "{}", rates(&before, &now, seconds))?;
        } else {
            let clear = if out.is_terminal() { CLEAR } else { "" };
            write!(out, "{clear}{}", frame(&now, &rates(&before, &now, seconds)))?;
        }
        out.flush()?;
        if times.is_some_and(|times| time >= times) {
            break;
        }
        before = now;
    }
    Ok(())
}

fn ask(socket: Option<&Path>) -> anyhow::Result<Value> {
    Ok(control::ask("agent", socket, &Request::Status {}.to_json())?)
}

/// What changed in so many seconds: for `--json` all there is.
fn rates(before: &Value, now: &Value, seconds: f64) -> Value {
    let per_second = |path: &str| {
        let of = |status: &Value| status.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
        ((of(now) - of(before)).max(0.0) / seconds * 10.0).round() / 10.0
    };
    let mean_ms = |leg: &str| {
        let of = |status: &Value, what| status["timings"][leg][what].as_f64().unwrap_or(0.0);
        let count = of(now, "count") - of(before, "count");
        (count > 0.0).then(|| ((of(now, "seconds") - of(before, "seconds")) / count * 1e5).round() / 100.0)
    };
    let counted = |names: &[&str]| -> Value {
        names
            .iter()
            .map(|name| ((*name).to_owned(), json!(per_second(&format!("/counters/{name}")))))
            .collect()
    };
    json!({
        "seconds": seconds,
        "sessions": now["counters"]["sessions_now"],
        "connections_per_second": per_second("/counters/sessions"),
        "verdicts_per_second": counted(&["accepted", "deferred", "rejected", "abandoned"]),
        "outcomes_per_second":
            counted(&["delivered", "refused_by_destination", "withheld", "unreported", "unknown", "left"]),
        "passed_per_second": counted(&["unjudged", "bypassed", "passed_in_shadow"]),
        "octets_per_second": per_second("/counters/octets"),
        "mean_ms": {
            "connect": mean_ms("connect"),
            "verdict": mean_ms("verdict"),
            "answer": mean_ms("answer"),
            "message": mean_ms("message"),
        },
        "waiting_for_a_node": now["waiting_for_a_node"],
        "nodes": now["nodes"].as_array().into_iter().flatten().enumerate().map(|(index, node)| {
            let mut node = node.clone();
            node["verdicts_per_second"] = json!(per_second(&format!("/nodes/{index}/verdicts")));
            node
        }).collect::<Value>(),
        "busiest_customers": now["busiest_customers"],
        "problems": now["problems"],
    })
}

/// A screen of it.
fn frame(status: &Value, rates: &Value) -> String {
    let mut text = String::new();
    let number = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), short);
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let _ = writeln!(
        text,
        "weir-agent {}, {}, {} when dead, process {}",
        word(&status["version"]),
        word(&status["backend"]),
        word(&status["when_agent_dies"]),
        status["pid"]
    );
    let _ = writeln!(
        text,
        "sessions {}   new {}/s   bytes {}/s   waiting for a node {}",
        number(&rates["sessions"]),
        number(&rates["connections_per_second"]),
        number(&rates["octets_per_second"]),
        number(&rates["waiting_for_a_node"])
    );
    for (title, part) in [
        ("verdicts/s", "verdicts_per_second"),
        ("fates/s", "outcomes_per_second"),
        ("no verdict/s", "passed_per_second"),
    ] {
        let counts = rates[part].as_object().into_iter().flatten();
        let counts: Vec<_> =
            counts.map(|(name, value)| format!("{} {}", label(name), number(value))).collect();
        for (line, counts) in counts.chunks(4).enumerate() {
            let _ = writeln!(text, "{:<13}{}", if line == 0 { title } else { "" }, counts.join("  "));
        }
    }
    let legs = rates["mean_ms"].as_object().into_iter().flatten();
    let legs: Vec<_> = legs.map(|(leg, value)| format!("{leg} {}", number(value))).collect();
    let _ = writeln!(text, "{:<13}{}", "mean ms", legs.join("  "));
    for problem in status["problems"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "! {}", cut(problem.as_str().unwrap_or_default(), 77));
    }
    nodes(&mut text, rates);
    customers(&mut text, rates);
    text
}

fn nodes(text: &mut String, rates: &Value) {
    let all = rates["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let _ = writeln!(text, "\n{:<40}{:>9}{:>7}{:>8}{:>8}{:>8}", "NODE", "STATE", "HAS", "/s", "FAILED", "ms");
    for node in all.iter().take(MAX_NODES) {
        let state = match (node["draining"] == true, node["healthy"] == true) {
            (true, _) => "draining",
            (false, true) => "well",
            (false, false) => "FAILING",
        };
        let of = |name: &str| node[name].as_f64().map_or_else(|| "-".to_owned(), short);
        let _ = writeln!(
            text,
            "{:<40}{state:>9}{:>7}{:>8}{:>8}{:>8}",
            cut(node["address"].as_str().unwrap_or("-"), 39),
            of("in_flight"),
            of("verdicts_per_second"),
            of("failures"),
            of("latency_ms")
        );
    }
    more(text, all.len(), MAX_NODES);
}

fn customers(text: &mut String, rates: &Value) {
    let all = rates["busiest_customers"].as_array().map_or(&[][..], Vec::as_slice);
    let _ = writeln!(
        text,
        "\n{:<40}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "CUSTOMER, LAST MINUTE", "MAILS", "ACCEPT", "DEFER", "REJECT", "BYTES"
    );
    for customer in all.iter().take(MAX_CUSTOMERS) {
        let of = |name: &str| customer[name].as_f64().map_or_else(|| "-".to_owned(), short);
        let _ = writeln!(
            text,
            "{:<40}{:>8}{:>8}{:>8}{:>8}{:>8}",
            cut(customer["customer"].as_str().unwrap_or("-"), 39),
            of("messages"),
            of("accepted"),
            of("deferred"),
            of("rejected"),
            of("octets")
        );
    }
    more(text, all.len(), MAX_CUSTOMERS);
}

fn more(text: &mut String, there: usize, shown: usize) {
    if there > shown {
        let _ = writeln!(text, "and {} more", there - shown);
    }
}

fn label(counter: &str) -> &str {
    match counter {
        "abandoned" => "none",
        "refused_by_destination" => "refused",
        "passed_in_shadow" => "shadow",
        other => other,
    }
}

/// At most six characters.
fn short(value: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut value, mut unit) = (value, 0);
    while value >= 9999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    let whole = value >= 100.0 || (value - value.round()).abs() < 0.05;
    format!("{value:.*}{}", usize::from(!whole), UNITS[unit])
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(factor: u64) -> Value {
        let node = |last: u64| {
            json!({ "address": format!("[2001:db8:1:2:3:4:5:{last}]:10025"), "healthy": last != 2, "draining": last == 3,
                "in_flight": 123_456, "verdicts": 1_000_000 * factor, "failures": 10_000_000, "latency_ms": 12_345 })
        };
        let customer = |last: u64| {
            json!({ "customer": format!("2001:db8:{last:04x}:1234::/64"), "messages": 1_234_567, "accepted": 1_000_000,
                "deferred": 9_999, "rejected": 0, "octets": 123_456_789_012_u64 })
        };
        let names = [
            "sessions",
            "accepted",
            "deferred",
            "rejected",
            "abandoned",
            "delivered",
            "withheld",
            "octets",
            "left",
            "refused_by_destination",
            "unreported",
            "unknown",
            "unjudged",
            "bypassed",
            "passed_in_shadow",
        ];
        let mut counters: Value =
            names.iter().map(|name| ((*name).to_owned(), json!(12_345_678 * factor))).collect();
        counters["sessions_now"] = json!(50_000);
        let timing = json!({ "count": 1000 * factor, "seconds": 1234.5 * factor as f64 });
        json!({
            "version": "0.1.0", "backend": "external", "when_agent_dies": "closed", "pid": 4_194_304, "counters": counters,
            "waiting_for_a_node": 1234, "problems": ["x".repeat(200)],
            "timings": { "connect": timing, "verdict": timing, "answer": timing, "message": timing },
            "nodes": (1..20).map(node).collect::<Value>(), "busiest_customers": (1..50).map(customer).collect::<Value>(),
        })
    }

    #[test]
    fn a_frame_fits_on_a_terminal() {
        let (before, now) = (status(1), status(2));
        let frame = frame(&now, &rates(&before, &now, 0.001));
        for line in frame.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}\n{frame}", line.chars().count());
        }
        assert!(frame.lines().count() <= 25, "{frame}");
        for word in ["and 15 more", "FAILING", "draining", "2001:db8:0001:1234::/64", "…"] {
            assert!(frame.contains(word), "{word} is missing in\n{frame}");
        }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let rates = rates(&status(1), &status(2), 2.0);
        assert_eq!(rates["connections_per_second"], 6_172_839.0);
        assert_eq!(rates["nodes"][0]["verdicts_per_second"], 500_000.0);
        assert_eq!(rates["mean_ms"]["verdict"], 1234.5);
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.04, 0.5, 12.0, 99.96, 123.4, 9999.0, 10_000.0, 1_234_567.0, 9.9e12].map(short);
        assert_eq!(shown, ["0", "0", "0.5", "12", "100", "123", "9999", "10k", "1235k", "9900G"]);
    }
}

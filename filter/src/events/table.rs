//! Events for people: a line each, as wide as the terminal.

use weir_daemon::time;

use super::event::Event;

/// Narrower there is no room for the reason, wider nobody reads a line.
const WIDTHS: std::ops::RangeInclusive<usize> = 80..=200;

/// From this width on the sender's domain and the size are shown, too.
const ROOMY: usize = 110;

/// Widest column beside the last.
const MAX_CELL: usize = 24;

/// A line of headings, and one for each event; the last column takes what room is left.
pub fn table(events: &[Event], width: usize) -> String {
    let width = width.clamp(*WIDTHS.start(), *WIDTHS.end());
    let roomy = width >= ROOMY;
    let mut rows = vec![headings(roomy)];
    rows.extend(events.iter().map(|event| cells(event, roomy)));
    let columns = rows[0].len();
    let widest = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        if column + 1 < columns { longest.min(if roomy { MAX_CELL } else { MAX_CELL - 8 }) } else { longest }
    };
    let mut widths: Vec<usize> = (0..columns).map(widest).collect();
    // Times are all of one length, and are never cut.
    widths[0] = if roomy { 19 } else { 14 };
    let taken: usize = widths.iter().take(columns - 1).map(|width| width + 1).sum();
    if let Some(last) = widths.last_mut() {
        *last = width.saturating_sub(taken).max(8);
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", clipped(cell, *width)));
        text.push_str(cells.collect::<Vec<_>>().join(" ").trim_end());
        text.push('\n');
    }
    text
}

fn headings(roomy: bool) -> Vec<String> {
    let names: &[&str] = if roomy {
        &[
            "TIME (UTC)",
            "ID",
            "CUSTOMER",
            "FROM",
            "TO",
            "SIZE",
            "VERDICT",
            "WHY, AND WHAT THE DESTINATION SAID",
        ]
    } else {
        &["TIME (UTC)", "ID", "CUSTOMER", "TO", "VERDICT", "WHY"]
    };
    names.iter().map(ToString::to_string).collect()
}

fn cells(event: &Event, roomy: bool) -> Vec<String> {
    let time = time::rfc3339(event.seconds()).replace('T', " ").replace('Z', "");
    let address = event.address.map(|address| address.to_string()).unwrap_or_default();
    let customer = event.customer.clone().unwrap_or(address);
    let (time, to) = (if roomy { time } else { time[5..].to_owned() }, recipients(event));
    let head = [time, event.id.clone(), customer];
    let tail = [event.verdict.clone(), why(event)];
    let middle = if roomy {
        let sender = event.sender_domain.clone().unwrap_or_else(|| "<>".into());
        vec![sender, to, size(event.size)]
    } else {
        vec![to]
    };
    head.into_iter().chain(middle).chain(tail).map(|cell| printable(&cell)).collect()
}

fn recipients(event: &Event) -> String {
    let first = event.recipient_domains.first().map_or("-", String::as_str);
    match event.recipients {
        0 | 1 => first.to_owned(),
        several => format!("{first} ({several})"),
    }
}

fn why(event: &Event) -> String {
    let mut parts = Vec::new();
    if let (Some(rule), Some(reason)) = (&event.rule, &event.reason) {
        parts.push(format!("{rule}: {reason}"));
    }
    if event.rule.is_none() {
        parts.extend(event.scores.iter().map(|score| format!("{} {:.1}", score.scanner, score.score)));
    }
    parts.extend(event.bypassed.iter().map(|one| format!("{} not asked: {}", one.scanner, one.cause)));
    if let Some(reply) = &event.reply {
        parts.push(format!("destination: {reply}"));
    }
    parts.join("; ")
}

fn size(octets: u64) -> String {
    let units = [(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")];
    match units.into_iter().find(|(unit, _)| octets >= *unit) {
        Some((unit, name)) => format!("{}.{}{name}", octets / unit, octets % unit * 10 / unit),
        None => octets.to_string(),
    }
}

/// What customers and destinations wrote must not move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

fn clipped(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['~']).collect()
}

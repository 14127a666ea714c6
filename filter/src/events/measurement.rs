//! What ten million events cost: `make measure-events`.

use std::time::{Duration, Instant};

use super::tests::event;
use super::{Bounds, Query, Store, prefix, search};

/// 2026-11-21T00:00:00Z
const NOW: u64 = 1_795_219_200;
const DAYS: u64 = 30;

#[test]
#[ignore = "writes gigabytes; `make measure-events`"]
fn events() {
    let count: u64 = std::env::var("EVENTS").ok().and_then(|count| count.parse().ok()).unwrap_or(10_000_000);
    // Below target/: the system's own directory may be in memory.
    let program = std::env::current_exe().unwrap();
    let directory = tempfile::TempDir::new_in(program.parent().unwrap()).unwrap();
    let bounds = Bounds { keep_days: 365, max_size: 20 * 1024 * 1024 * 1024 };
    let mut store = Store::open(directory.path(), bounds).unwrap();
    let began = Instant::now();
    let second = |number: u64| NOW - DAYS * 86_400 + number * DAYS * 86_400 / count;
    let mut writing = Duration::ZERO;
    for batch in (0..count).step_by(1000) {
        let events: Vec<_> =
            (batch..(batch + 1000).min(count)).map(|number| spread(number, second(number))).collect();
        let before = Instant::now();
        store.write(&events, &[], second(batch)).unwrap();
        writing += before.elapsed();
    }
    let usage = store.usage();
    println!(
        "{count} events in {:.0} s ({:.0} s of it writing): {:.0} a second; {} files, {:.2} GiB, {} bytes an event",
        began.elapsed().as_secs_f64(),
        writing.as_secs_f64(),
        count as f64 / writing.as_secs_f64(),
        usage.files,
        usage.bytes as f64 / f64::from(1 << 30),
        usage.bytes / count
    );
    let last = Query { limit: 50, ..Query::default() };
    let some = count / 3;
    for (what, query) in [
        ("the last 50", last.clone()),
        ("an id, 20 days old", Query { id: Some(format!("id{some}")), ..last.clone() }),
        ("an id that is not there", Query { id: Some("none".into()), ..last.clone() }),
        ("a Message-ID", Query { message_id: Some(format!("<{some}@customer.test>")), ..last.clone() }),
        ("the last 50 of a customer", Query { customer: Some("c17".into()), ..last.clone() }),
        ("all of a customer", Query { customer: Some("c17".into()), limit: usize::MAX, ..last.clone() }),
        ("the last 50 of an address", Query { prefix: prefix("10.7.3.9"), ..last.clone() }),
        ("the last 50 of a /24", Query { prefix: prefix("10.7.3.0/24"), ..last.clone() }),
        ("the last 50 of 10.0.0.0/8", Query { prefix: prefix("10.0.0.0/8"), ..last.clone() }),
        (
            "a customer on one day",
            Query {
                customer: Some("c17".into()),
                since: Some(NOW - 10 * 86_400),
                until: Some(NOW - 9 * 86_400),
                ..last.clone()
            },
        ),
        (
            "a minute, 10 days ago",
            Query {
                since: Some(NOW - 10 * 86_400),
                until: Some(NOW - 10 * 86_400 + 60),
                limit: usize::MAX,
                ..last
            },
        ),
    ] {
        let before = Instant::now();
        let found = search(directory.path(), &query).unwrap();
        println!("{what}: {} in {:.0} ms", found.events.len(), before.elapsed().as_secs_f64() * 1000.0);
    }
    let before = Instant::now();
    let days = super::usage(directory.path(), None).unwrap();
    println!(
        "addresses a day: {} days in {:.0} ms",
        days.days.len(),
        before.elapsed().as_secs_f64() * 1000.0
    );
}

/// Ten thousand customers with a few addresses each, none of them in order.
fn spread(number: u64, second: u64) -> super::Event {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let octet = |shift: u32| u8::try_from(mixed >> shift & 0xff).unwrap_or_default();
    super::Event {
        customer: Some(format!("c{}", mixed % 10_000)),
        address: Some(std::net::IpAddr::from([10, octet(16) % 16, octet(8) % 16, octet(0)])),
        sender: Some(format!("{mixed:020x}")),
        ..event(number, second)
    }
}

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::segment::{self, Name};
use super::{
    Addresses, Bounds, Bypassed, Event, Forgotten, Outcome, Query, Score, Step, Store, Usage, Writer, forget,
    prefix, search, table, usage,
};

/// 2026-11-21T00:00:00Z
const NOW: u64 = 1_795_219_200;
const DAY: u64 = 86_400;
const ROOM: u64 = 64 * 1024 * 1024;

fn bounds() -> Bounds {
    Bounds { keep_days: 30, max_size: ROOM }
}

pub(super) fn event(number: u64, seconds: u64) -> Event {
    let octet = u8::try_from(number % 250).unwrap();
    Event {
        at: seconds * 1_000_000 + number % 1_000_000,
        id: format!("id{number}"),
        agent: Some("10.3.0.1".parse().unwrap()),
        node: "weir-filter".into(),
        customer: Some(format!("c{}", number % 50)),
        address: Some(IpAddr::from([10, 1, 0, octet])),
        destination: Some("fd02::2".parse().unwrap()),
        helo: Some("mail.customer.test".into()),
        sender: Some("0123456789abcdef0123".into()),
        sender_domain: Some("customer.test".into()),
        recipients: 2,
        recipient_addresses: vec!["00112233445566778899".into(), "aabbccddeeff00112233".into()],
        recipient_domains: vec!["example.net".into(), "example.org".into()],
        size: 2_500,
        message_id: Some(format!("<{number}@customer.test>")),
        verdict: "accept".into(),
        scores: vec![Score { scanner: "spamassassin".into(), score: 1.5, symbols: "HTML_MESSAGE".into() }],
        bypassed: vec![Bypassed { scanner: "clamav".into(), cause: "too-big".into() }],
        steps: vec![Step { step: "policy".into(), milliseconds: 12 }],
        ..Event::default()
    }
}

fn filled(directory: &Path, events: &[Event]) -> Store {
    let mut store = Store::open(directory, bounds()).unwrap();
    store.write(events, &[], NOW).unwrap();
    store
}

fn all(limit: usize) -> Query {
    Query { limit, ..Query::default() }
}

fn ids(directory: &Path, query: &Query) -> Vec<String> {
    let found = search(directory, query).unwrap();
    assert_eq!(found.unread, Vec::<String>::new());
    found.events.into_iter().map(|event| event.id).collect()
}

#[test]
fn an_event_comes_back_as_it_was_and_two_in_one_microsecond_are_one_apart() {
    let directory = TempDir::new().unwrap();
    let (first, empty) = (event(7, NOW), Event { at: NOW * 1_000_000 + 7, ..Event::default() });
    let _store = filled(directory.path(), &[first.clone(), empty.clone()]);
    let found = search(directory.path(), &all(10)).unwrap();
    assert_eq!(found.events, [Event { at: empty.at + 1, ..empty }, first]);
}

#[test]
fn events_are_found_by_all_that_the_command_line_has() {
    let directory = TempDir::new().unwrap();
    let mut events: Vec<Event> = (0..500).map(|number| event(number, NOW + number)).collect();
    events[499].address = Some("fd01::7:1".parse().unwrap());
    events[499].customer = None;
    let _store = filled(directory.path(), &events);
    let query = |change: &dyn Fn(&mut Query)| {
        let mut query = all(1000);
        change(&mut query);
        ids(directory.path(), &query)
    };
    assert_eq!(query(&|query| query.id = Some("id77".into())), ["id77"]);
    assert_eq!(query(&|query| query.message_id = Some("<9@customer.test>".into())), ["id9"]);
    assert_eq!(query(&|query| query.message_id = Some("' OR 1 --".into())), Vec::<String>::new());
    let of_c3 = query(&|query| query.customer = Some("c3".into()));
    assert_eq!((of_c3.len(), of_c3[0].as_str()), (10, "id453"));
    assert_eq!(query(&|query| query.prefix = prefix("10.1.0.12")), ["id262", "id12"]);
    assert_eq!(query(&|query| query.prefix = prefix("10.1.0.12/31")), ["id263", "id262", "id13", "id12"]);
    assert_eq!(query(&|query| query.prefix = prefix("10.0.0.0/8")).len(), 499);
    assert_eq!(query(&|query| query.prefix = prefix("fd01::/64")), ["id499"]);
    assert_eq!(query(&|query| query.prefix = prefix("::/0")), ["id499"]);
    let range = query(&|query| (query.since, query.until) = (Some(NOW + 5), Some(NOW + 7)));
    assert_eq!(range, ["id6", "id5"]);
    let narrow = query(&|query| {
        (query.since, query.prefix, query.limit) = (Some(NOW + 5), prefix("10.1.0.0/29"), 3);
    });
    assert_eq!(narrow, ["id257", "id256", "id255"]);
    assert_eq!(prefix("nonsense"), None);
}

#[test]
fn the_reply_of_the_destination_is_filled_in_also_after_midnight() {
    let directory = TempDir::new().unwrap();
    let mut store = filled(directory.path(), &[event(1, NOW)]);
    let outcome =
        |text: &str| Outcome { banner: Some("mx.example.net".into()), code: Some(250), reply: text.into() };
    let told = ["id1", "id2", "unknown"].map(|id| (id.to_string(), outcome(id)));
    let lost = store.write(&[event(2, NOW + DAY)], &told, NOW + DAY).unwrap();
    assert_eq!(lost.outcomes, 1);
    let found = search(directory.path(), &all(10)).unwrap().events;
    let told: Vec<_> = found.iter().map(|event| (event.reply.as_deref(), event.reply_code)).collect();
    assert_eq!(told, [(Some("id2"), Some(250)), (Some("id1"), Some(250))]);
    assert_eq!(found[1].banner.as_deref(), Some("mx.example.net"));
}

#[test]
fn a_day_goes_when_its_last_event_is_as_old_as_events_are_kept() {
    let directory = TempDir::new().unwrap();
    let mut store = filled(directory.path(), &[event(1, NOW)]);
    for day in 1..=30 {
        store.write(&[event(1 + day, NOW + day * DAY)], &[], NOW + day * DAY).unwrap();
    }
    store.retain(NOW + 31 * DAY - 1);
    assert_eq!(store.usage().files, 31);
    store.retain(NOW + 31 * DAY);
    assert_eq!((store.usage().files, ids(directory.path(), &all(100)).last().unwrap().as_str()), (30, "id2"));
    // Nothing more is sent: the last goes as well, with what lies beside it.
    store.retain(NOW + 62 * DAY);
    store.retain(NOW + 62 * DAY);
    assert_eq!(store.usage(), Usage::default());
    let left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn files_never_take_more_room_than_they_may_and_the_oldest_go() {
    let directory = TempDir::new().unwrap();
    let room = 4 * 1024 * 1024;
    let mut store = Store::open(directory.path(), Bounds { keep_days: 30, max_size: room }).unwrap();
    let mut largest = 0;
    for batch in 0..120_u64 {
        let events: Vec<Event> =
            (0..200).map(|number| event(batch * 200 + number, NOW + batch * 60)).collect();
        store.write(&events, &[], NOW + batch * 60).unwrap();
        if store.is_over() {
            store.retain(NOW + batch * 60);
        }
        largest = largest.max(store.usage().bytes);
    }
    assert!(largest > room / 2 && largest <= room + room / 16, "{largest} of {room}");
    let kept = ids(directory.path(), &all(100_000));
    assert_eq!(kept[0], "id23999");
    assert!(kept.len() > 2_000 && kept.len() < 23_000, "{}", kept.len());
    let gone = Query { id: Some("id0".into()), ..all(1) };
    assert_eq!(ids(directory.path(), &gone), Vec::<String>::new());
}

#[test]
fn a_clock_that_goes_back_makes_no_older_file() {
    let directory = TempDir::new().unwrap();
    let mut store = filled(directory.path(), &[event(1, NOW)]);
    store.write(&[event(2, NOW - 3 * DAY)], &[], NOW - 3 * DAY).unwrap();
    drop(store);
    let mut store = Store::open(directory.path(), bounds()).unwrap();
    store.write(&[event(3, NOW - 3 * DAY)], &[], NOW - 3 * DAY).unwrap();
    assert_eq!(store.usage().files, 1);
    assert_eq!(ids(directory.path(), &all(10)), ["id3", "id2", "id1"]);
}

/// Damage of several kinds: each is moved aside, the events of other files stay, and new ones are stored.
#[test]
fn a_damaged_file_is_moved_aside_and_its_time_comes_as_well() {
    for damage in [
        &b"no database at all, but long enough to be taken for one...."[..],
        &[0; 5000],
        &b"SQLite format 3\0"[..],
    ] {
        let directory = TempDir::new().unwrap();
        let mut store = filled(directory.path(), &[event(1, NOW - DAY)]);
        drop(store);
        let today = Name { day: segment::day(NOW), number: 1 };
        let before = today.path(directory.path());
        fs::rename(&before, Name { day: today.day - 1, number: 1 }.path(directory.path())).unwrap();
        fs::write(&before, damage).unwrap();
        store = Store::open(directory.path(), bounds()).unwrap();
        store.write(&[event(2, NOW)], &[], NOW).unwrap();
        assert_eq!(store.damaged, 1);
        let found = search(directory.path(), &all(10)).unwrap();
        assert_eq!(found.events.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["id2", "id1"]);
        assert_eq!(found.unread.len(), 1);
        assert_eq!(store.usage().files, 3);
        store.retain(NOW + 60 * DAY);
        assert_eq!(store.usage().files, 1);
    }
}

#[test]
fn a_file_that_is_damaged_while_it_is_written_is_moved_aside() {
    let directory = TempDir::new().unwrap();
    let events: Vec<Event> = (0..3000).map(|number| event(number, NOW)).collect();
    let mut store = filled(directory.path(), &events);
    drop(store);
    let path = Name { day: segment::day(NOW), number: 1 }.path(directory.path());
    let mut octets = fs::read(&path).unwrap();
    let length = octets.len();
    octets[8192..length - 4096].fill(0xa5);
    fs::write(&path, octets).unwrap();
    store = Store::open(directory.path(), bounds()).unwrap();
    let more: Vec<Event> = (3000..3500).map(|number| event(number, NOW)).collect();
    store.write(&more, &[], NOW).unwrap();
    assert_eq!((store.damaged, search(directory.path(), &all(9999)).unwrap().events.len()), (1, 500));
    let unread = Name { day: segment::day(NOW) - 1, number: 1 }.path(directory.path());
    fs::write(unread, "damaged before it is read").unwrap();
    let found = search(directory.path(), &all(9999)).unwrap();
    assert_eq!((found.events.len(), found.unread.len()), (500, 2));
}

#[test]
fn two_processes_do_not_write_to_one_directory() {
    let directory = TempDir::new().unwrap();
    let _first = Store::open(directory.path(), bounds()).unwrap();
    let second = Store::open(directory.path(), bounds()).unwrap_err().to_string();
    assert!(second.starts_with("events.directory: /") && second.contains("another weir-filter"), "{second}");
    let nowhere = Store::open(Path::new("/proc/none"), bounds()).unwrap_err().to_string();
    assert!(nowhere.starts_with("events.directory: /proc/none: "), "{nowhere}");
}

#[test]
fn the_writer_stores_all_in_order_and_drops_when_it_is_too_much() {
    let directory = TempDir::new().unwrap();
    let writer = Writer::start(Store::open(directory.path(), bounds()).unwrap()).unwrap();
    let now = weir_daemon::time::now();
    for number in 0..2_500 {
        writer.event(event(number, now));
        writer.outcome(&format!("id{number}"), Outcome { reply: "250 ok".into(), ..Outcome::default() });
        if number % 500 == 499 {
            writer.sync();
        }
    }
    let status = writer.status();
    assert_eq!((&status["stored"], &status["outcomes"]), (&2_500.into(), &2_500.into()), "{status}");
    let found = search(directory.path(), &all(9999)).unwrap().events;
    assert!(found.iter().all(|event| event.reply.as_deref() == Some("250 ok")));
    assert_eq!((found.len(), found[0].id.as_str()), (2_500, "id2499"));
    for number in 0..200_000 {
        writer.event(event(number, now));
    }
    let dropped = writer.status()["dropped"].as_u64().unwrap();
    assert!(dropped > 0);
    drop(writer);
    let stored = ids(directory.path(), &all(999_999)).len() as u64;
    assert_eq!(stored + dropped, 202_500);
}

#[test]
fn a_full_disk_costs_events_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    let mut store = filled(directory.path(), &[event(1, NOW)]);
    fs::remove_dir_all(directory.path()).unwrap();
    let error = store.write(&[event(2, NOW + DAY)], &[], NOW + DAY).unwrap_err();
    assert!(!segment::is_damage(&error), "{error}");
    fs::create_dir(directory.path()).unwrap();
    store.write(&[event(3, NOW + DAY)], &[], NOW + DAY).unwrap();
    assert_eq!(ids(directory.path(), &all(10)), ["id3"]);
}

#[test]
fn long_texts_are_cut_between_letters() {
    let long = "ä".repeat(1000);
    let event = Event {
        helo: Some(long.clone()),
        recipient_domains: vec![long.clone(); 50],
        message_id: Some(format!("a{long}")),
        ..Event::default()
    };
    let cut = event.bounded();
    assert_eq!(cut.helo.unwrap().len(), 500);
    assert_eq!(cut.message_id.unwrap().len(), 499);
    assert_eq!(cut.recipient_domains.iter().map(String::len).collect::<Vec<_>>(), [500; 20]);
}

#[test]
fn addresses_are_hashed_with_a_key_that_is_made_once_and_mended_loudly() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("address.key");
    let hashed = |file| Addresses::hashed(file).unwrap().of(b"User@Example.net");
    let first = hashed(&file);
    assert_eq!((first.len(), first.clone()), (20, hashed(&file)));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Addresses::hashed(&file).unwrap().of(b"user@example.net"), first);
    assert_ne!(Addresses::hashed(&file).unwrap().of(b"usex@example.net"), first);
    // HMAC-SHA256 as another implementation has it.
    let mut key = [0; 32];
    key[..20].fill(0x0b);
    assert_eq!(Addresses::keyed(&key).of(b"hi there"), "457dcb1b1c1bf655d15d");
    assert_eq!(Addresses::Stored.of(b"User@Example.net"), "user@example.net");
    fs::write(&file, "short").unwrap();
    assert_ne!(hashed(&file), first);
    assert_eq!(fs::read(directory.path().join("address.key.damaged")).unwrap(), b"short");
}

#[test]
fn a_table_fits_its_width_and_says_why() {
    let mut refused = event(2, NOW);
    refused.verdict = "defer".into();
    (refused.rule, refused.reason) = (Some("minute".into()), Some("You may only send 2\r\n messages".into()));
    let mut delivered = event(1, NOW);
    delivered.reply = Some("250 2.0.0 queued as 4ABC".into());
    let events = [refused, delivered];
    for width in [0, 80, 100, 110, 120, 500] {
        for line in table(&events, width).lines() {
            assert!(line.chars().count() <= width.clamp(80, 200), "{width}: {line}");
            assert!(!line.contains('\r'));
        }
    }
    assert_eq!(
        table(&events, 80),
        "TIME (UTC)     ID  CUSTOMER TO              VERDICT WHY\n\
         11-21 00:00:00 id2 c2       example.net (2) defer   minute: You may only send 2~\n\
         11-21 00:00:00 id1 c1       example.net (2) accept  spamassassin 1.5; clamav no~\n"
    );
    assert_eq!(
        table(&events, 154).lines().nth(2).unwrap(),
        "2026-11-21 00:00:00 id1 c1       customer.test example.net (2) 2.4k accept  spamassassin 1.5; clamav not asked: \
         too-big; destination: 250 2.0.0 queued as~"
    );
    assert_eq!(table(&[], 80).lines().count(), 1);
}

#[test]
fn a_customer_is_forgotten_while_the_node_writes() {
    let directory = TempDir::new().unwrap();
    let events: Vec<Event> = (0..60_000).map(|number| event(number, NOW)).collect();
    let mut store = filled(directory.path(), &events[..20_000]);
    store.write(&events[20_000..], &[], NOW + DAY).unwrap();
    let of_c3 = Query { customer: Some("c3".into()), ..all(0) };
    let forgotten = forget(directory.path(), &of_c3).unwrap();
    assert_eq!(forgotten, Forgotten { events: 1_200, unread: Vec::new() });
    assert_eq!(ids(directory.path(), &Query { limit: 10, ..of_c3 }), Vec::<String>::new());
    store.write(&[event(60_001, NOW)], &[], NOW + DAY).unwrap();
    assert_eq!(ids(directory.path(), &all(99_999)).len(), 58_801);
    // Nothing of them is left in the files; 53 and 1003 were his.
    drop(store);
    for entry in fs::read_dir(directory.path()).unwrap() {
        let octets = fs::read(entry.unwrap().path()).unwrap();
        let has = |text: &[u8]| octets.windows(text.len()).any(|some| some == text);
        assert!(
            !has(b"<53@customer.test>") && !has(b"<1003@customer.test>") && !has(b"<59953@customer.test>")
        );
    }
    let of_prefix = Query { prefix: prefix("10.1.0.0/25"), ..all(0) };
    assert_eq!(forget(directory.path(), &of_prefix).unwrap().events, 128 * 240 - 240 * 3 + 1);
}

#[test]
fn addresses_are_counted_by_day_and_a_slash_64_is_one() {
    let directory = TempDir::new().unwrap();
    let mut store = filled(directory.path(), &(0..700).map(|number| event(number, NOW)).collect::<Vec<_>>());
    let v6 = |number: u64, address: &str| Event {
        address: Some(address.parse().unwrap()),
        ..event(number, NOW + DAY)
    };
    let next = [
        v6(1, "fd01::1"),
        v6(2, "fd01::2"),
        v6(3, "fd01:0:0:1::1"),
        Event { sender: Some("another".into()), ..event(4, NOW + DAY) },
        Event { sender: None, ..event(4, NOW + DAY) },
    ];
    store.write(&next, &[], NOW + DAY).unwrap();
    let seen = |since| -> Vec<(String, usize, usize, u64)> {
        let days = usage(directory.path(), since).unwrap();
        assert_eq!(days.unread, Vec::<String>::new());
        days.days.into_iter().map(|day| (day.day, day.sources, day.senders, day.messages)).collect()
    };
    let (first, second) = (("2026-11-21".to_owned(), 250, 1, 700), ("2026-11-22".to_owned(), 3, 2, 5));
    assert_eq!(seen(None), [second.clone(), first]);
    assert_eq!(seen(Some(NOW + DAY)), [second]);
}

proptest! {
    #[test]
    fn days_and_their_ends_agree(unix in 0..4_102_444_800_u64) {
        let day = segment::day(unix);
        prop_assert_eq!(segment::end(day), Some(unix / DAY * DAY + DAY));
    }

    /// Whatever is looked for, what is found is what a look at every event finds.
    #[test]
    fn a_search_finds_what_a_look_at_all_finds(
        customer in proptest::option::of(0..60_u64), base in 0..255_u8, bits in 20..=32_u8, by_address: bool,
        since in proptest::option::of(0..400_u64), until in proptest::option::of(0..400_u64), limit in 0..50_usize,
    ) {
        thread_local! {
            static STORED: (TempDir, Vec<Event>) = {
                let directory = TempDir::new().unwrap();
                let events: Vec<Event> = (0..300).map(|number| event(number, NOW - 150 + number)).collect();
                let mut store = Store::open(directory.path(), bounds()).unwrap();
                for event in &events {
                    store.write(std::slice::from_ref(event), &[], event.seconds()).unwrap();
                }
                (directory, events)
            };
        }
        let query = Query {
            customer: customer.map(|number| format!("c{number}")),
            prefix: by_address.then(|| prefix(&format!("10.1.0.{base}/{bits}")).unwrap()),
            since: since.map(|since| NOW - 200 + since),
            until: until.map(|until| NOW - 200 + until),
            limit,
            ..Query::default()
        };
        STORED.with(|(directory, events)| {
            let fits = |event: &&Event| {
                query.customer.as_ref().is_none_or(|customer| event.customer.as_ref() == Some(customer))
                    && query.prefix.is_none_or(|prefix| event.address.is_some_and(|address| prefix.contains(&address)))
                    && query.since.is_none_or(|since| event.seconds() >= since)
                    && query.until.is_none_or(|until| event.seconds() < until)
            };
            let expected: Vec<String> =
                events.iter().rev().filter(fits).take(limit).map(|event| event.id.clone()).collect();
            prop_assert_eq!(ids(directory.path(), &query), expected);
            Ok(())
        })?;
    }
}

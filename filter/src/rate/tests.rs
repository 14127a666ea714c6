use std::net::IpAddr;

use proptest::prelude::*;

use super::{Answer, Ask, BUCKETS, Memory, Moment, Once, Source};

fn ask(limit: u64, seconds: u64) -> Ask<'static> {
    Ask { namespace: "outbound", key: "10.1.0.2", limit, seconds, weight: 1, message: None }
}

fn passes(memory: &Memory, ask: Ask<'_>, now: u64) -> bool {
    memory.ask(ask, Moment(now)).within
}

#[test]
fn the_hundred_and_first_in_a_minute_is_refused_and_refusals_do_not_count() {
    let memory = Memory::new(10);
    let start = 1_000_000_000;
    assert!((0..100).all(|n| passes(&memory, ask(100, 60), start + n * 500)));
    assert!(!passes(&memory, ask(100, 60), start + 50_000));
    // 500 refused retries move nothing: a minute after the first ones there is room again.
    assert!((0..500).all(|n| !passes(&memory, ask(100, 60), start + 50_000 + n)));
    assert_eq!(memory.ask(ask(0, 60), Moment(start + 50_500)), Answer { within: false, sum: 100 });
    assert!(passes(&memory, ask(100, 60), start + 62_000));
}

#[test]
fn what_is_counted_with_one_window_is_read_with_a_longer_one() {
    let memory = Memory::new(10);
    let start = 1_000_000_000;
    assert_eq!(memory.ask(ask(0, 86_400), Moment(start)).sum, 0);
    assert!((0..50).all(|n| passes(&memory, ask(200, 28_800), start + n * 1000)));
    let ten_hours = start + 36_000_000;
    assert_eq!(memory.ask(ask(0, 28_800), Moment(ten_hours)).sum, 0);
    assert_eq!(memory.ask(ask(0, 86_400), Moment(ten_hours)).sum, 50);
    // A window that is first asked later starts with what is known.
    assert_eq!(memory.ask(ask(0, 172_800), Moment(ten_hours)).sum, 50);
}

#[test]
fn memory_is_bounded_and_expired_keys_go_first() {
    let memory = Memory::new(100);
    for n in 0..1000u64 {
        let key = n.to_string();
        assert!(passes(&memory, Ask { key: &key, ..ask(1, 60) }, 1_000_000 + n));
        // Who keeps sending is not forgotten for those who sent once.
        assert_eq!(memory.ask(ask(2000, 60), Moment(1_000_000 + n)).sum, n + 1);
    }
    assert_eq!((memory.usage().keys, memory.usage().evicted), (100, 901));
    memory.sweep(Moment(1_000_000 + 1000 + 62_000));
    assert_eq!(memory.usage().keys, 0);
}

#[test]
fn what_is_forgotten_is_as_if_it_had_never_been() {
    let memory = Memory::new(10);
    assert!(
        (0..5).all(|_| passes(&memory, ask(5, 60), 1_000_000)) && !passes(&memory, ask(5, 60), 1_000_000)
    );
    let other = Ask { key: "10.1.0.3", ..ask(5, 60) };
    assert!(passes(&memory, other, 1_000_000));
    memory.forget("10.1.0.2");
    assert!((0..5).all(|_| passes(&memory, ask(5, 60), 1_000_000)));
    assert_eq!(memory.ask(Ask { limit: 0, ..other }, Moment(1_000_000)).sum, 1);
    memory.forget("10.1.0.2");
    memory.sweep(Moment(1_000_000));
    assert_eq!(memory.usage().keys, 1);
}

#[test]
fn a_source_is_an_address_or_a_slash_64() {
    let of = |text: &str| Source::of(text.parse::<IpAddr>().unwrap()).to_string();
    assert_eq!(of("10.1.0.2"), "10.1.0.2");
    assert_eq!(of("::ffff:10.1.0.2"), "10.1.0.2");
    assert_eq!(of("fd01:2:3:4:5:6:7:8"), "fd01:2:3:4::/64");
}

#[tokio::test]
async fn a_message_counts_once() {
    let once = Once::new(Memory::new(10), 2);
    let now = Moment(1_000_000);
    for _ in 0..3 {
        assert!(once.rate("a", ask(1, 60), now).await.unwrap().within);
    }
    // One that was refused has not been counted, so its replay is judged anew.
    assert!(!once.rate("b", ask(1, 60), now).await.unwrap().within);
    assert!(once.rate("b", ask(2, 60), now).await.unwrap().within);
    assert!(once.rate("c", ask(3, 60), now).await.unwrap().within);
    // Only the latest are remembered.
    assert!(!once.rate("a", ask(3, 60), now).await.unwrap().within);
    assert_eq!(once.counters().ask(ask(0, 60), now).sum, 3);
}

/// Every event with its time: what the buckets approximate.
#[derive(Default)]
struct Log(Vec<(u64, u64)>);

impl Log {
    /// Sum over the half-open span (now - length, now].
    fn sum(&self, now: u64, length: u64) -> u64 {
        self.0.iter().filter(|(at, _)| at + length > now).map(|(_, weight)| weight).sum()
    }
}

proptest! {
    /// In no span of the window do more than `limit` pass, and a refusal lasts at most a bucket
    /// longer than the exact log's.
    #[test]
    fn buckets_agree_with_an_exact_log(
        start in 0u64..10_000_000_000,
        seconds in prop_oneof![Just(60u64), Just(3600), 1u64..100_000],
        limit in 1u64..20,
        steps in prop::collection::vec((0.0f64..0.3, 1u64..4), 1..200),
    ) {
        let memory = Memory::new(10);
        let mut log = Log::default();
        let window = seconds * 1000;
        let bucket = window.div_ceil(BUCKETS);
        let mut now = start;
        for (step, weight) in steps {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            { now += (window as f64 * step * step) as u64; }
            let passed = passes(&memory, Ask { weight, ..ask(limit, seconds) }, now);
            let exact = log.sum(now, window);
            if passed {
                prop_assert!(exact + weight <= limit);
                log.0.push((now, weight));
            } else {
                prop_assert!(log.sum(now, window + bucket) + weight > limit);
            }
        }
    }
}

/// A second has no sixty buckets of whole milliseconds: they are 17 each, and cover more than it.
#[test]
fn what_is_over_is_gone_where_buckets_do_not_divide_the_window() {
    let memory = Memory::new(10);
    let ask = |now| passes(&memory, ask(1, 1), now);
    assert!(ask(0));
    // The last moment of the first bucket is 16: until then and a second it may have been counted.
    assert!(!ask(1015));
    assert!(ask(1016));
}

#[test]
fn counts_are_shown_and_cleared() {
    let memory = Memory::new(100_000);
    let count = |namespace, key: &str, seconds, times: u64, now| {
        let ask = Ask { namespace, key, limit: u64::MAX, seconds, weight: times, message: None };
        memory.ask(ask, Moment(now));
    };
    for number in 0..25_000_u64 {
        count("hour", &format!("k{number}"), 3600, number % 100 + 1, 1_000_000);
    }
    count("hour", "k7", 3600, 1000, 1_000_000);
    count("minute", "k7", 60, 5, 1_000_000);
    let now = Moment(1_001_000);
    let top = memory.top(None, 3, now);
    let seen: Vec<_> = top.iter().map(|shown| (shown.key.as_str(), shown.count, shown.seconds)).collect();
    assert_eq!(seen, [("k7", 1008, 3600), ("k10099", 100, 3600), ("k10199", 100, 3600)]);
    assert_eq!(memory.top(Some("minute"), 3, now).len(), 1);
    assert_eq!(memory.top(Some("none"), 3, now), []);
    let of_k7 = |now| {
        memory
            .show(&["k7".into(), "nobody".into()], now)
            .into_iter()
            .map(|shown| (shown.namespace, shown.count))
            .collect::<Vec<_>>()
    };
    assert_eq!(of_k7(now), [("hour".to_owned(), 1008), ("minute".to_owned(), 5)]);
    count("domain", "k7 example.net", 3600, 2, 1_000_000);
    assert_eq!(of_k7(now).len(), 3);
    assert_eq!(
        (
            memory.clear(Some("none"), &["k7".into()]),
            memory.clear(None, &["nobody".into()]),
            memory.clear(Some("hour"), &["k7".into()])
        ),
        (0, 0, 1)
    );
    assert_eq!(of_k7(now), [("minute".to_owned(), 5), ("domain".to_owned(), 2)]);
    assert_eq!((memory.clear(None, &["k7".into()]), of_k7(now)), (2 + 1, Vec::new()));
    assert_eq!(memory.top(None, 1, now)[0].key, "k10099");
}

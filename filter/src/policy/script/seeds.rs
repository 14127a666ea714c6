//! The ported scripts in `filter/examples`, each line of whose decision tables is a test: real counts, a clock that is
//! passed in, and results of scanners as they would have been.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::Map;

use super::live::{Counting, Live};
use super::tests::script_with;
use super::{Bounds, Context, File, Recorded, Replies, Script, Stats};
use crate::config;
use crate::customers::{Customer, Owner};
use crate::facts::Facts;
use crate::policy::Verdict;
use crate::quarantine::Quarantine;
use crate::rate::{Ask, Memory, Moment, Once};
use crate::scan::Scanners;
use crate::scan::tests::message;

/// 2020-09-13, in milliseconds, at the beginning of a day's bucket.
const START: u64 = 1_600_041_600_000;

const HOUR: u64 = 3600;

/// A node with fresh counters.
struct Bench {
    script: Script,
    counters: Once<Memory>,
    stats: Stats,
    sent: AtomicU64,
    quarantine: Option<Quarantine>,
}

fn quarantine(directory: &std::path::Path) -> config::Quarantine {
    let key = age::x25519::Identity::generate().to_public().to_string();
    let directory = directory.join("quarantine");
    config::Quarantine { enabled: true, public_key: Some(key), directory, ..Default::default() }
}

/// A message: when, from where, and what scanners say.
#[derive(Clone)]
struct Sent {
    address: &'static str,
    customer: Option<&'static str>,
    sender: &'static str,
    recipients: usize,
    recorded: Recorded,
}

fn clean() -> Sent {
    scored(0, 0.0)
}

/// Outbreak level and SpamAssassin's score.
fn scored(outbreak: u32, score: f64) -> Sent {
    let recorded = Recorded { outbreak, score, ..Recorded::default() };
    Sent { address: "10.1.0.2", customer: None, sender: "s@example.org", recipients: 1, recorded }
}

impl Bench {
    fn new(source: &str) -> Self {
        let script = script_with(source, Bounds::default()).unwrap();
        let counters = Once::new(Memory::new(10_000), 10_000);
        Self { script, counters, stats: Stats::default(), sent: AtomicU64::new(0), quarantine: None }
    }

    fn seed_000() -> Self {
        Self::new(include_str!("../../../examples/seed-000.luau"))
    }

    /// Milliseconds after the start.
    async fn send(&self, at: u64, sent: &Sent) -> Verdict {
        let mut message = message();
        message.transaction.id = format!("m{}", self.sent.fetch_add(1, Relaxed));
        message.transaction.customer.address = sent.address.parse().unwrap();
        let mailbox = message.transaction.envelope.sender.clone();
        message.transaction.envelope.sender.path = weir_smtp::envelope::Path::new(sent.sender.as_bytes());
        message.transaction.envelope.recipients = vec![mailbox; sent.recipients];
        let customer = sent.customer.map(|id| Arc::new(Customer { id: id.into(), metadata: Map::new() }));
        let scanners = Scanners::default();
        let owner = Owner { customer, ..Owner::default() };
        let facts =
            Facts::new(&message, &scanners).with_owner(owner).with_quarantine(self.quarantine.as_ref());
        let (now, replies) = (Moment(START + at), Replies::default());
        let counting = Counting::Store(&self.counters, "");
        let mut world = Live::new(&facts, Context::Data, counting, &replies, self.script.name(), now).await;
        world.recorded = Some(&sent.recorded);
        world.stats = Some(&self.stats);
        let verdict = self.script.call(&mut world).await.unwrap().unwrap();
        // Here messages come faster than any disk writes.
        while self.quarantine.as_ref().is_some_and(|quarantine| quarantine.status()["waiting"] != 0) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        verdict
    }

    /// `count` messages, the first at `from` seconds and the last `within` seconds behind it; how many were accepted.
    async fn send_all(&self, count: u64, from: u64, within: u64, sent: &Sent) -> u64 {
        let mut accepted = 0;
        for number in 0..count {
            let at = from * 1000 + within * 1000 * number / count.max(1);
            accepted += u64::from(self.send(at, sent).await == Verdict::Accept);
        }
        accepted
    }

    fn sum(&self, namespace: &str, key: &str, seconds: u64, at: u64) -> u64 {
        let ask = Ask { namespace, key, limit: 0, seconds, weight: 1, message: None };
        self.counters.counters().ask(ask, Moment(START + at * 1000)).sum
    }

    fn counted(&self, name: &str) -> u64 {
        self.stats.counts().iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count)
    }
}

fn rule(verdict: &Verdict) -> &str {
    verdict.refusal().map_or("accept", |refusal| &refusal.rule)
}

#[tokio::test]
async fn lines_1_to_5_the_minute_and_the_hour() {
    let bench = Bench::seed_000();
    assert_eq!(bench.send_all(100, 0, 60, &clean()).await, 100, "line 1");

    let bench = Bench::seed_000();
    assert_eq!(bench.send_all(100, 0, 59, &clean()).await, 100, "line 2");
    let refused = bench.send(59_500, &clean()).await;
    assert_eq!(
        refused.reply("ID").to_string(),
        "451 4.7.1 You may only send 100 messages a minute, try later (ID)",
        "line 2"
    );
    assert_eq!(rule(&bench.send(61_000, &clean()).await), "accept", "line 3");

    let bench = Bench::seed_000();
    assert_eq!(bench.send_all(1000, 0, 1200, &clean()).await, 1000, "line 4");
    assert_eq!(rule(&bench.send(1_200_000, &clean()).await), "outbound-hour", "line 4");

    let bench = Bench::seed_000();
    assert_eq!(bench.send_all(101, 0, 30, &clean()).await, 100, "line 5");
    assert_eq!(bench.send_all(500, 30, 10, &clean()).await, 0, "line 5");
    assert_eq!(rule(&bench.send(100_000, &clean()).await), "accept", "line 5");
    assert_eq!((bench.counted("actions/deliver"), bench.counted("actions/defer")), (101, 501));
}

const ADDRESSES: [&str; 6] = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"];

#[tokio::test]
async fn lines_6_and_7_a_customer_with_many_addresses() {
    for (customer, expected) in [(Some("c-1"), 500), (None, 600)] {
        let bench = Bench::seed_000();
        let mut accepted = 0;
        let mut refused = Vec::new();
        for number in 0..600 {
            let address = ADDRESSES[number % 6];
            let verdict = bench.send(number as u64 * 90, &Sent { address, customer, ..clean() }).await;
            match verdict {
                Verdict::Accept => accepted += 1,
                Verdict::Refuse(refusal) => refused.push(refusal.rule),
            }
        }
        assert_eq!(accepted, expected, "{customer:?}");
        assert!(refused.iter().all(|rule| rule == "customer-outbound-minute"), "{refused:?}");
    }
}

#[tokio::test]
async fn lines_8_and_9_bulk_and_spam() {
    let bench = Bench::seed_000();
    assert_eq!(bench.send_all(600, 0, 8 * HOUR - 1000, &scored(50, 0.0)).await, 600, "line 8");
    let refused = bench.send((8 * HOUR - 900) * 1000, &scored(50, 0.0)).await;
    assert_eq!(rule(&refused), "outbound-bulk", "line 8");
    assert!(refused.reply("m600").to_string().ends_with("(m600)"), "line 8");

    let bench = Bench::seed_000();
    assert_eq!(bench.send_all(200, 0, 8 * HOUR - 1000, &scored(0, 7.0)).await, 200, "line 9");
    assert_eq!(bench.sum("outbound-bulk", "10.1.0.2", 28_800, 8 * HOUR - 900), 200, "line 9");
    assert_eq!(rule(&bench.send((8 * HOUR - 900) * 1000, &scored(0, 7.0)).await), "outbound-spam", "line 9");
    // Line 21: spam comes before viruses.
    let mut both = scored(0, 7.0);
    both.recorded.virus = Some("Eicar".into());
    assert_eq!(rule(&bench.send((8 * HOUR - 800) * 1000, &both).await), "outbound-spam", "line 21");
}

/// The clean ones come when the spam is more than an hour old, or the limit for the hour would be met before.
#[tokio::test]
async fn lines_10_to_12_after_spam() {
    let spam = scored(100, 0.0);
    for (spams, later, accepted, line) in
        [(100, 2 * HOUR + 100, 11, 10), (100, 26 * HOUR, 12, 11), (99, 2 * HOUR + 100, 12, 12)]
    {
        let bench = Bench::seed_000();
        assert_eq!(bench.send_all(spams, 0, HOUR, &spam).await, spams, "line {line}");
        assert_eq!(bench.send_all(12, later, 50, &clean()).await, accepted, "line {line}");
        let next = bench.send((later + 51) * 1000, &clean()).await;
        let expected = if line == 10 { "spam-minute" } else { "accept" };
        assert_eq!(rule(&next), expected, "line {line}");
    }
}

#[tokio::test]
async fn lines_13_to_15_scores() {
    let bench = Bench::seed_000();
    assert_eq!(bench.send_all(601, 0, 7 * HOUR, &scored(0, 4.0)).await, 601, "line 13");
    let bench = Bench::seed_000();
    assert_eq!(bench.send_all(201, 0, 7 * HOUR, &scored(0, 6.0)).await, 201, "line 14");
    assert_eq!(bench.sum("outbound-bulk", "10.1.0.2", 28_800, 7 * HOUR), 201, "line 14");
    assert_eq!(bench.sum("outbound-spam", "10.1.0.2", 28_800, 7 * HOUR), 0, "line 14");
    let directory = tempfile::tempdir().unwrap();
    let config = quarantine(directory.path());
    let samples = || crate::quarantine::list(&config.directory).unwrap().0;
    for (sent, taken, line) in
        [(scored(0, 8.5), 2, "15"), (scored(100, 0.0), 2, "15, outbreak"), (scored(50, 8.0), 0, "15, below")]
    {
        let bench = Bench { quarantine: Quarantine::open(&config).unwrap(), ..Bench::seed_000() };
        assert_eq!(bench.send_all(5, 0, HOUR - 100, &sent).await, 5, "line {line}");
        // Ends when all is written.
        drop(bench);
        assert_eq!(samples().len(), taken, "line {line}");
        samples().iter().for_each(|sample| std::fs::remove_file(&sample.path).unwrap());
    }
    // 20 in all, however many customers there are.
    let bench = Bench { quarantine: Quarantine::open(&config).unwrap(), ..Bench::seed_000() };
    for customer in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"] {
        let sent = Sent { customer: Some(customer), ..scored(0, 8.5) };
        assert_eq!(bench.send_all(3, 0, 60, &sent).await, 3, "line 15, many");
    }
    drop(bench);
    assert_eq!(samples().len(), 20, "line 15, many");
}

#[tokio::test]
async fn lines_16_to_18_viruses_and_programs() {
    let bench = Bench::seed_000();
    let mut infected = clean();
    infected.recorded.virus = Some("Eicar".into());
    let refused = bench.send(0, &infected).await;
    assert_eq!(refused.reply("m0").to_string(), "550 5.7.1 Rejected by virus filter (m0)", "line 16");
    assert_eq!(bench.sum("outbound-minute", "10.1.0.2", 60, 1), 1, "line 16");
    assert_eq!(bench.sum("outbound-hour", "10.1.0.2", 3600, 1), 1, "line 16");

    let with = |name: &str, depth| {
        let mut sent = clean();
        sent.recorded.files = vec![File { name: name.into(), class: "executable".into(), depth }];
        sent
    };
    assert_eq!(rule(&bench.send(1000, &with("a.exe", 1)).await), "accept", "line 17");
    let refused = bench.send(2000, &with("report.pdf", 0)).await;
    assert_eq!((rule(&refused), refused.reply("m2").lines().count()), ("executable", 2), "line 18");
}

#[tokio::test]
async fn lines_19_20_and_22_once_for_each_message() {
    let bench = Bench::seed_000();
    let many = Sent { recipients: 50, customer: Some("c-1"), ..scored(100, 9.0) };
    assert_eq!(rule(&bench.send(0, &many).await), "accept", "line 19");
    for (namespace, key) in [
        ("outbound-minute", "10.1.0.2"),
        ("outbound-hour", "10.1.0.2"),
        ("customer-outbound-minute", "c-1"),
        ("customer-outbound-hour", "c-1"),
        ("outbound-bulk", "10.1.0.2"),
        ("outbound-spam", "10.1.0.2"),
    ] {
        assert_eq!(bench.sum(namespace, key, 60, 1), 1, "line 19: {namespace}");
    }

    let mut away = scored(0, 9.0);
    away.recorded.away = vec!["spamassassin".into()];
    assert_eq!(rule(&bench.send(1000, &away).await), "accept", "line 20");
    assert_eq!(bench.sum("outbound-bulk", "10.1.0.2", 28_800, 2), 1, "line 20");

    let bench = Bench::seed_000();
    assert_eq!(bench.send_all(101, 0, 10, &clean()).await, 100, "line 22");
    assert_eq!(rule(&bench.send(75_000, &clean()).await), "accept", "line 22");
    assert_eq!(bench.sum("outbound-hour", "10.1.0.2", 3600, 76), 101, "line 22");
}

#[tokio::test]
async fn seed_001_counts_by_user_script_or_domain() {
    let bench = Bench::new(include_str!("../../../examples/seed-001.luau"));
    assert_eq!(bench.send_all(301, 0, 7 * HOUR, &scored(50, 0.0)).await, 300);
    // The same domain, of another source; and another domain, of the same.
    let elsewhere = Sent { address: "10.1.0.3", ..scored(50, 0.0) };
    assert_eq!(rule(&bench.send(7 * HOUR * 1000, &elsewhere).await), "accept");
    let other = Sent { sender: "s@example.net", ..scored(50, 0.0) };
    assert_eq!(rule(&bench.send(7 * HOUR * 1000, &other).await), "accept");

    let bench = Bench::new(include_str!("../../../examples/seed-001.luau"));
    let many = Sent { recipients: 50, ..clean() };
    assert_eq!(bench.send_all(6, 0, 60, &many).await, 5);
    let bounce = Sent { sender: "", ..many };
    assert_eq!(bench.send_all(6, 0, 60, &bounce).await, 6);
    assert_eq!(bench.send_all(101, 0, 60, &Sent { sender: "", ..scored(0, 7.0) }).await, 100);
}

/// As agents report them (`filter/src/channel/outcomes.rs`), under the same key.
#[tokio::test]
async fn seed_001_defers_a_domain_most_of_whose_mail_cannot_be_delivered() {
    let bench = Bench::new(include_str!("../../../examples/seed-001.luau"));
    let fail = |key: &'static str, weight| {
        let ask = Ask {
            namespace: "delivery-failures",
            key,
            limit: u64::MAX,
            seconds: HOUR,
            weight,
            message: None,
        };
        bench.counters.counters().ask(ask, Moment(START));
    };
    fail("10.1.0.2 example.org", 999);
    assert_eq!(rule(&bench.send(1000, &clean()).await), "accept");
    fail("10.1.0.2 example.org", 1);
    let refused = bench.send(2000, &clean()).await;
    assert_eq!(
        refused.reply("ID").to_string(),
        "451 4.7.1 You may only send 1000 messages an hour that cannot be delivered, try later (ID)"
    );
    assert_eq!(rule(&bench.send(2000, &Sent { address: "10.1.0.3", ..clean() }).await), "accept");
    assert_eq!(rule(&bench.send(2000, &Sent { sender: "s@example.net", ..clean() }).await), "accept");
    assert_eq!(rule(&bench.send(2000, &Sent { sender: "", ..clean() }).await), "accept");
    assert_eq!(rule(&bench.send((HOUR + 120) * 1000, &clean()).await), "accept");
}

#[tokio::test]
async fn seed_003_lets_bounces_pass_unscanned_when_they_are_many() {
    let bench = Bench::new(include_str!("../../../examples/seed-003.luau"));
    assert_eq!(rule(&bench.send(0, &scored(0, 4.9)).await), "accept");
    let refused = bench.send(0, &scored(0, 5.0)).await;
    assert_eq!(refused.reply("ID").to_string(), "550 5.7.1 SpamAssassin thinks your message is SPAM (ID)");
    // Ten are scanned, and what is a bounce for one recipient more is not.
    let bounce = Sent { sender: "", ..scored(0, 9.0) };
    assert_eq!(bench.send_all(12, 0, 100, &bounce).await, 2);
    let mut infected = bounce;
    infected.recorded.virus = Some("Eicar".into());
    assert_eq!(rule(&bench.send(101_000, &infected).await), "virus");
}

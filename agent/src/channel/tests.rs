use std::net::IpAddr;
use std::time::{Duration, Instant};

use weir_daemon::channel::{Block, Blocks, Outcome, Outcomes as Report};

use super::Blocked;
use super::outcomes::Queue;
use crate::config::{Channel, Config};
use crate::orders::Bell;
use crate::steer::Refusal;

const NODES: [&str; 2] = ["http://10.3.0.11:10026", "http://10.3.0.12:10026"];

fn config(directory: &std::path::Path) -> Config {
    let text = weir_daemon::reference::example::<Config>();
    let mut config: Config = weir_daemon::config::parse("agent.toml", &text).unwrap();
    config.state.directory = directory.to_owned();
    config.filter.channel = Some(Channel {
        nodes: NODES.map(str::to_owned).to_vec(),
        token_file: "/etc/weir/channel.token".into(),
        ca_file: None,
    });
    config
}

fn said(prefixes: &[&str], seconds_left: u64, text: &str) -> Blocks {
    let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
    Blocks { blocks: vec![Block { who: "a".into(), prefixes, seconds_left, text: text.into() }] }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_nodes_say_holds_until_they_say_something_else_and_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let blocked = Blocked::of(&config, Bell::default());
    let version = blocked.version();
    blocked.set(NODES[0], said(&["10.1.7.0/24", "nonsense", "fd01:7::/64"], 3600, "a bot\r\n250 ok"));
    blocked.set(NODES[1], said(&["10.1.7.9/32", "10.1.8.0/24"], 1800, "another"));
    assert!(blocked.version() != version && blocked.take_news() && !blocked.take_news());
    let text = |asked: &str| blocked.of_customer(address(asked)).map(|text| text.to_string());
    for (asked, expected) in [
        ("10.1.7.1", Some("a bot  250 ok")),
        ("::ffff:10.1.7.1", Some("a bot  250 ok")),
        ("fd01:7::9", Some("a bot  250 ok")),
        ("10.1.7.9", Some("another")),
        ("10.1.9.1", None),
    ] {
        assert_eq!(text(asked).as_deref(), expected, "{asked}");
    }
    let rules = blocked.rules();
    assert_eq!(rules.len(), 4);
    assert!(rules.values().all(|terms| terms.refusal == Refusal::Tell));
    blocked.save().unwrap();

    let again = Blocked::of(&config, Bell::default());
    assert_eq!((again.count(), again.rules().len()), ((2, 4), 4));
    assert_eq!(again.of_customer(address("10.1.8.1")).as_deref(), Some("another"));
    again.set(NODES[1], Blocks::default());
    assert!(again.of_customer(address("10.1.8.1")).is_none());
    assert!(again.of_customer(address("10.1.7.9")).is_some(), "the other node says so");

    // A node that is none any more has nothing to say.
    let mut fewer = config.clone();
    fewer.filter.channel.as_mut().unwrap().nodes.pop();
    assert_eq!(Blocked::of(&fewer, Bell::default()).count(), (1, 2));
    fewer.filter.channel = None;
    assert_eq!(Blocked::of(&fewer, Bell::default()).count(), (0, 0));
}

#[test]
fn a_blocked_customer_is_told_once_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = Blocked::of(&config(directory.path()), Bell::default());
    blocked.set(NODES[0], said(&["10.1.7.0/24", "fd01::/32"], 3600, "why"));
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let told = |asked: &str, at| blocked.turns_away(address(asked), at).map(|turned| turned.text.is_some());
    assert_eq!(told("10.1.9.1", now), None);
    assert_eq!(told("10.1.7.1", now), Some(true));
    assert_eq!(told("10.1.7.1", now + second / 2), Some(false));
    assert_eq!(told("10.1.7.2", now), Some(true));
    assert_eq!(told("10.1.7.1", now + second), Some(true));
    assert_eq!((told("fd01::1", now), told("fd01::2", now)), (Some(true), Some(false)));
    blocked.set(NODES[0], said(&["10.1.7.0/24"], 0, "why"));
    assert_eq!(told("10.1.7.1", now + 10 * second), None, "it is over");
}

#[test]
fn reports_are_bounded_and_what_is_lost_is_told() {
    let queue = Queue::default();
    let outcome = |number: usize| Outcome {
        id: number.to_string(),
        customer: address("10.1.0.1"),
        destination: ([192, 0, 2, 1], 25).into(),
        outcome: "delivered".into(),
        code: Some(250),
        text: String::new(),
        time: 0,
    };
    assert_eq!(queue.report(), None);
    (0..10_500).for_each(|number| queue.push(outcome(number)));
    let report: Report = queue.report().unwrap();
    assert_eq!((report.lost, report.outcomes.len(), report.outcomes[0].id.as_str()), (500, 1000, "500"));
    // Until it is sent, it is the same report, whatever had to go meanwhile.
    queue.push(outcome(10_500));
    queue.sent(&report);
    assert_eq!(queue.counts(), (9001, 1000, 500));
    let report = queue.report().unwrap();
    assert_eq!((report.lost, report.outcomes[0].id.as_str()), (0, "1500"));
    queue.give_up(&report);
    assert_eq!(queue.counts(), (8001, 1000, 1500));
    assert_eq!(queue.report().unwrap().lost, 1000);
}

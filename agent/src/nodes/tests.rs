//! The choice of nodes by numbers, and the pool's bookkeeping.

use std::collections::BTreeMap;
use std::collections::btree_map::OccupiedEntry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weir_smtp::envelope::{Mailbox, Parameter, Path};
use weir_smtp::extension::Extensions;
use weir_smtp::{Envelope, Reply};

use super::latency::Latency;
use super::members::{Choice, Member, Members};
use super::names::{Names, Site};
use super::needs::Needs;
use super::standing::Severity;
use super::{Asked, Chosen, Family, NodeId, Pool, Role, probe};
use crate::failure::Cause;
use crate::relay::conversation::NodeFailure;

const V4: Family = Family::V4;

/// What mail needs that any node takes.
const PLAIN: Needs = Needs::NONE;

fn members(weights: &[u32]) -> Members {
    Members(weights.iter().map(|weight| Member::new(*weight, usize::MAX)).enumerate().collect())
}

/// Messages come every `gap` seconds, about, and each keeps its node busy for `service[node]` seconds, about. Shares of
/// the messages from `start` on.
fn simulate(members: &mut Members, service: &[f64], gap: f64, start: Instant, messages: u32) -> Vec<f64> {
    let mut random = StdRng::seed_from_u64(7);
    let mut vary = StdRng::seed_from_u64(8);
    let mut around = |mean: f64| Duration::from_secs_f64(mean * (0.5 + vary.random::<f64>()));
    let mut ends: BTreeMap<(Instant, u32), (usize, Duration)> = BTreeMap::new();
    let (mut now, mut chosen) = (start, vec![0u32; service.len()]);
    for message in 0..messages {
        now += around(gap);
        while let Some(((at, _), (node, took))) =
            ends.first_entry().filter(|end| end.key().0 <= now).map(OccupiedEntry::remove_entry)
        {
            let member = members.0.get_mut(&node).unwrap();
            member.in_flight -= 1;
            member.latency.observe(took, at);
        }
        let Choice::Node { node: NodeId(node), trial: false } =
            members.choose(&[], &[], V4, now, &mut random)
        else {
            panic!("no node")
        };
        chosen[node] += 1;
        members.0.get_mut(&node).unwrap().in_flight += 1;
        let took = around(service[node]);
        ends.insert((now + took, message), (node, took));
    }
    chosen.into_iter().map(|chosen| f64::from(chosen) / f64::from(messages)).collect()
}

fn assert_near(shares: &[f64], expected: &[f64], tolerance: f64) {
    let near = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < tolerance);
    assert!(near, "{shares:?}, not {expected:?}");
}

#[test]
fn load_spreads_by_weight() {
    let start = Instant::now();
    // Hundreds in flight, and one now and then.
    for gap in [0.001, 0.05, 2.0] {
        assert_near(&simulate(&mut members(&[1, 1, 1, 1]), &[0.3; 4], gap, start, 4000), &[0.25; 4], 0.04);
        let shares = simulate(&mut members(&[1, 2, 3]), &[0.3; 3], gap, start, 4000);
        assert_near(&shares, &[1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0], 0.09);
        assert!(shares.is_sorted(), "{shares:?}");
    }
}

#[test]
fn a_slow_node_gets_less_and_is_not_forgotten() {
    let start = Instant::now();
    let shares = simulate(&mut members(&[1, 1, 1]), &[0.1, 0.1, 2.0], 0.005, start, 40_000);
    assert!(shares[2] < 0.1, "{shares:?}");
    assert!(shares[2] > 0.001, "{shares:?}");
    assert_near(&shares[..2], &[0.47, 0.47], 0.06);
}

#[test]
fn a_node_that_returns_gets_a_growing_share() {
    let (mut members, start) = (members(&[1, 1]), Instant::now());
    members.0.get_mut(&0).unwrap().standing(V4).failed(Severity::Reach, start, false, start);
    let shares = simulate(&mut members, &[0.1; 2], 0.01, start, 90);
    assert_eq!(shares, [0.0, 1.0], "it is ejected");
    let back = start + Duration::from_secs(100);
    assert!(members.0.get_mut(&0).unwrap().standing(V4).probed_well(back));
    members.0.values_mut().for_each(|member| member.in_flight = 0);
    let shares = [0, 5, 20].map(|after| {
        let mut members = Members(members.0.clone());
        simulate(&mut members, &[0.1; 2], 0.005, back + Duration::from_secs(after), 200)[0]
    });
    assert!(shares[0] > 0.01 && shares[0] < 0.2, "{shares:?}");
    assert!(shares[1] > shares[0] && shares[1] < shares[2], "{shares:?}");
    assert_near(&shares[2..], &[0.5], 0.08);
}

#[test]
fn an_ejected_node_gets_its_trial_and_nothing_else() {
    let (mut members, now) = (members(&[1, 1, 1]), Instant::now());
    let mut random = StdRng::seed_from_u64(7);
    members.0.get_mut(&1).unwrap().standing(V4).failed(Severity::Message, now, false, now);
    for _ in 0..1000 {
        let chosen = members.choose(&[], &[], V4, now, &mut random);
        assert!(matches!(chosen, Choice::Node { node: NodeId(0 | 2), trial: false }), "{chosen:?}");
    }
    let due = members.0[&1].standing[0].trial_at().unwrap();
    let chosen = members.choose(&[NodeId(0)], &[], V4, due, &mut random);
    assert_eq!(
        chosen,
        Choice::Node { node: NodeId(2), trial: false },
        "no trial with a message that failed before"
    );
    assert_eq!(members.choose(&[], &[], V4, due, &mut random), Choice::Node { node: NodeId(1), trial: true });
    members.0.get_mut(&1).unwrap().standing(V4).begin_trial();
    for _ in 0..1000 {
        let chosen = members.choose(&[], &[], V4, due, &mut random);
        assert!(matches!(chosen, Choice::Node { node: NodeId(0 | 2), trial: false }), "{chosen:?}");
    }
    // Another family's customers are not concerned.
    let mut chosen = (0..1000).map(|_| members.choose(&[], &[], Family::V6, due, &mut random));
    assert!(chosen.any(|chosen| chosen == Choice::Node { node: NodeId(1), trial: false }));
}

proptest! {
    /// Whatever the state of the nodes: never a node that was tried, is drained or full; and as long as one is left,
    /// an answer, though all have failed a moment ago.
    #[test]
    fn there_is_an_answer_as_long_as_a_node_is_left(
        nodes in proptest::collection::vec((1u32..5, 1usize..4, 0usize..4, any::<[bool; 3]>(), any::<bool>()), 1..8),
        tried in proptest::collection::vec(0usize..8, 0..8),
        seed: u64,
        later in 0u64..3,
    ) {
        let now = Instant::now();
        let mut members = Members::default();
        for (id, (weight, limit, in_flight, [failed, on_trial, draining], cured)) in nodes.iter().copied().enumerate() {
            let mut member = Member::new(weight, limit);
            (member.in_flight, member.draining) = (in_flight, draining);
            if failed {
                member.standing(V4).failed(Severity::Reach, now, false, now);
                if on_trial {
                    member.standing(V4).begin_trial();
                }
                if cured {
                    member.standing(V4).probed_well(now);
                }
            }
            members.0.insert(id, member);
        }
        let tried: Vec<_> = tried.into_iter().map(NodeId).collect();
        let then = now + Duration::from_secs(later);
        let choice = members.choose(&tried, &[], V4, then, &mut StdRng::seed_from_u64(seed));
        let open: Vec<_> =
            members.0.iter().filter(|(id, member)| !member.draining && !tried.contains(&NodeId(**id))).collect();
        let has_room = |member: &Member| member.in_flight < member.max_in_flight;
        match choice {
            Choice::Node { node, .. } => {
                prop_assert!(open.iter().any(|(id, member)| **id == node.0 && has_room(member)));
            }
            Choice::None => prop_assert!(open.is_empty()),
            Choice::Full => {
                prop_assert!(!open.is_empty());
                prop_assert!(!open.iter().any(|(_, member)| has_room(member) && member.standing[0].is_well()));
            }
        }
    }
}

fn sites(nodes: &[&str]) -> Vec<Site> {
    Names::new(Role::Filter, nodes.iter().map(|node| node.parse().unwrap()).collect()).sites()
}

fn pool(nodes: &[&str]) -> Arc<Pool> {
    Arc::new(Pool::new(&sites(nodes), None, Duration::from_secs(5)))
}

fn two() -> Arc<Pool> {
    pool(&["10.3.0.11:25", "10.3.0.12:25"])
}

fn customer(family: Family) -> IpAddr {
    match family {
        Family::V4 => [192, 0, 2, 1].into(),
        Family::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
    }
}

fn ask(pool: &Arc<Pool>, tried: &[NodeId], family: Family, now: Instant) -> Asked {
    match pool.choose(tried, PLAIN, customer(family), now) {
        Chosen::Node(asked) => asked,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_that_failed_is_avoided_and_only_for_its_family() {
    let (pool, now) = (two(), Instant::now());
    let mut asked = ask(&pool, &[NodeId(1)], Family::V6, now);
    assert_eq!(asked.candidate.node, NodeId(0));
    assert!(asked.report(Err(&NodeFailure::NoXclient), now));
    drop(asked);
    for _ in 0..50 {
        assert_eq!(ask(&pool, &[], Family::V6, now).candidate.node, NodeId(1));
    }
    assert_eq!(ask(&pool, &[NodeId(1)], Family::V6, now).candidate.node, NodeId(0), "there is no other");
    assert!((0..200).any(|_| ask(&pool, &[], V4, now).candidate.node == NodeId(0)));
    assert!(matches!(pool.choose(&[NodeId(0), NodeId(1)], PLAIN, customer(V4), now), Chosen::None));
    let status = pool.status();
    assert_eq!((status[0].healthy, status[0].failures, status[1].healthy), (false, 1, true));
}

#[test]
fn what_was_chosen_is_in_flight_until_it_is_released() {
    let (pool, now) = (two(), Instant::now());
    let in_flight = || pool.status().iter().map(|node| node.in_flight).sum::<usize>();
    let mut first = ask(&pool, &[], V4, now);
    let second = ask(&pool, &[], V4, now);
    assert_eq!(in_flight(), 2);
    first.release();
    assert!(!first.report(Ok(Duration::from_millis(5)), now));
    drop(first);
    assert_eq!(in_flight(), 1);
    drop(second);
    assert_eq!(in_flight(), 0);
}

#[test]
fn a_drained_node_keeps_what_it_has_and_gets_nothing_more() {
    let (pool, now) = (two(), Instant::now());
    let address = |number| pool.address(NodeId(number)).unwrap();
    let kept = ask(&pool, &[NodeId(1)], V4, now);
    assert_eq!(pool.drain(address(0), true).unwrap(), 1);
    for _ in 0..100 {
        assert_eq!(ask(&pool, &[], V4, now).candidate.node, NodeId(1));
    }
    assert!(
        matches!(pool.choose(&[NodeId(1)], PLAIN, customer(V4), now), Chosen::None),
        "not even as the last"
    );
    assert_eq!(kept.address(), Some(address(0)));
    let last = pool.drain(address(1), true).unwrap_err().to_string();
    assert_eq!(last, "10.3.0.12:25 is the last node that is not drained: nobody could judge");
    let unknown = pool.drain("10.3.0.99:25".parse().unwrap(), true).unwrap_err().to_string();
    assert_eq!(unknown, "10.3.0.99:25 is no filter node; these are: 10.3.0.11:25, 10.3.0.12:25");
    drop(kept);
    assert_eq!(pool.drain(address(0), false).unwrap(), 0);
    assert!((0..200).any(|_| ask(&pool, &[], V4, now).candidate.node == NodeId(0)));
}

#[test]
fn nodes_that_stay_keep_what_is_known_and_those_that_go_finish() {
    let (pool, now) = (two(), Instant::now());
    let mut failed = ask(&pool, &[NodeId(1)], V4, now);
    failed.report(Err(&NodeFailure::NoXclient), now);
    drop(failed);
    let mut leaving = ask(&pool, &[NodeId(0)], V4, now);
    assert_eq!(leaving.candidate.node, NodeId(1));
    pool.set(&sites(&["10.3.0.13:25", "10.3.0.11:25 weight=2"]));
    assert_eq!(pool.ids(), [NodeId(0), NodeId(2)]);
    for _ in 0..50 {
        assert_eq!(ask(&pool, &[], V4, now).candidate.node, NodeId(2), "the other one is ejected still");
    }
    assert_eq!(leaving.address().unwrap().to_string(), "10.3.0.12:25", "for the log");
    assert!(!leaving.report(Ok(Duration::ZERO), now));
    drop(leaving);
    let status = pool.status();
    assert_eq!((status[0].weight, status[0].failures, status[0].healthy), (2, 1, false));
    pool.set(&sites(&["10.3.0.12:25"]));
    assert_eq!(pool.ids(), [NodeId(3)], "one that comes back is new");
    for number in 0..1000u16 {
        pool.set(&sites(&[&format!("10.3.0.12:{}", 1000 + number)]));
    }
    assert!(pool.state().about.len() <= super::FORMER + 1);
    pool.set(&[]);
    assert!(matches!(pool.choose(&[], PLAIN, customer(V4), now), Chosen::None));
    assert!(!pool.takes_binary());
}

/// What comes of one message when each node that it kills needs some time to start again, and those that are starting
/// refuse connections. The engine gives a message up after two nodes that died of it.
fn judged(pool: &Arc<Pool>, from: IpAddr, kills: bool, down: &mut [Instant], now: Instant) -> bool {
    let (mut tried, mut died) = (Vec::new(), 0);
    while died < 2 {
        let Chosen::Node(mut asked) = pool.choose(&tried, PLAIN, from, now) else { return false };
        let node = asked.candidate.node;
        tried.push(node);
        let closed = NodeFailure::Closed("in the body");
        let outcome = if now < down[node.0] {
            Err(&NodeFailure::Connect(Cause::Refused))
        } else if kills {
            died += 1;
            down[node.0] = now + Duration::from_secs(2);
            Err(&closed)
        } else {
            Ok(Duration::from_millis(100))
        };
        asked.report(outcome, now);
        if outcome.is_ok() {
            return true;
        }
    }
    false
}

/// One customer's messages kill two nodes each, every 3 s for 10 minutes. The others' have their verdicts all the time, though the
/// pauses of the nodes grow, and afterwards all nodes come back.
#[test]
fn a_customer_whose_messages_kill_nodes_does_not_empty_the_pool() {
    let start = Instant::now();
    let pool = pool(&["10.3.0.11:25", "10.3.0.12:25", "10.3.0.13:25", "10.3.0.14:25"]);
    let mut down = [start; 4];
    let killer = IpAddr::from([192, 0, 2, 66]);
    for tenth in 0..6000u64 {
        let now = start + Duration::from_millis(100 * tenth);
        if tenth % 30 == 0 {
            assert!(!judged(&pool, killer, true, &mut down, now));
        }
        assert!(judged(&pool, customer(V4), false, &mut down, now), "after {tenth} tenths of a second");
    }
    for second in 600..720 {
        assert!(judged(&pool, customer(V4), false, &mut down, start + Duration::from_secs(second)));
    }
    let status = pool.status();
    assert!(status.iter().all(|node| node.healthy), "{status:?}");
}

#[test]
fn a_trial_that_came_to_nothing_is_given_to_another_message() {
    let (pool, now) = (pool(&["10.3.0.11:25"]), Instant::now());
    ask(&pool, &[], V4, now).report(Err(&NodeFailure::Closed("in the body")), now);
    let trial = ask(&pool, &[], V4, now);
    assert!(trial.trial);
    assert!(!ask(&pool, &[], V4, now).trial, "one at a time");
    drop(trial);
    let mut trial = ask(&pool, &[], V4, now);
    assert!(trial.trial);
    assert!(trial.report(Ok(Duration::from_millis(5)), now));
    assert!(pool.status()[0].healthy);
}

#[tokio::test]
async fn messages_wait_for_room_in_their_order() {
    let (pool, now) = (pool(&["10.3.0.11:25 max_in_flight=1"]), Instant::now());
    let first = ask(&pool, &[], V4, now);
    let Chosen::Later(mut second) = pool.choose(&[], PLAIN, customer(V4), now) else {
        panic!("there is no room")
    };
    let woken = tokio::time::timeout(Duration::ZERO, std::future::poll_fn(|cx| second.poll(cx)));
    assert!(woken.await.is_err(), "nothing has changed");
    drop(first);
    assert!(matches!(pool.choose(&[], PLAIN, customer(V4), now), Chosen::Later(_)), "one was there before");
    std::future::poll_fn(|cx| second.poll(cx)).await;
    assert!(matches!(second.choose(now), Chosen::Node(_)));
    assert!(matches!(pool.choose(&[], PLAIN, customer(V4), now), Chosen::Node(_)));
}

#[tokio::test]
async fn who_would_wait_too_long_is_told_at_once() {
    let (pool, now) = (pool(&["10.3.0.11:25 max_in_flight=1"]), Instant::now());
    let first = ask(&pool, &[], V4, now);
    let Chosen::Later(waiting) = pool.choose(&[], PLAIN, customer(V4), now) else {
        panic!("there is no room")
    };
    assert!(matches!(waiting.choose(now + Duration::from_secs(5)), Chosen::Busy));
    drop(first);
    let mut slow = Latency::default();
    slow.observe(Duration::from_secs(3), Instant::now());
    pool.state().members.0.get_mut(&0).unwrap().occupation = slow;
    let now = Instant::now();
    let _first = ask(&pool, &[], V4, now);
    let second = pool.choose(&[], PLAIN, customer(V4), now);
    assert!(matches!(second, Chosen::Later(_)), "3 s are less than 5");
    assert!(matches!(pool.choose(&[], PLAIN, customer(V4), now), Chosen::Busy), "6 s are more than 5");
}

#[test]
fn a_refused_probe_is_told_to_the_engine() {
    let (pool, now) = (two(), Instant::now());
    let refused = || ask(&pool, &[NodeId(1)], V4, now).candidate.probe_refused;
    assert!(refused(), "not probed yet");
    pool.probed(NodeId(0), V4, &Err(probe::Error::XclientRefused("550 no".into())), now, now);
    ask(&pool, &[NodeId(1)], V4, now).report(Ok(Duration::ZERO), now);
    assert!(refused(), "a message changes nothing");
    pool.probed(NodeId(0), V4, &Ok(Extensions::default()), now, now);
    assert!(!refused());
}

fn announced(keywords: &str) -> Result<Extensions, probe::Error> {
    Ok(Extensions::from_reply(&Reply::new(250, format!("filter.example\n{keywords}"))))
}

#[test]
fn a_message_goes_to_a_node_that_has_what_it_needs() {
    let (pool, now) = (two(), Instant::now());
    let chosen = |tried: &[NodeId], needs| match pool.choose(tried, needs, customer(V4), now) {
        Chosen::Node(asked) => asked.candidate.node,
        other => panic!("{other:?}"),
    };
    let always = |node, needs| (0..100).all(|_| chosen(&[], needs) == NodeId(node));
    let (utf8, binary, large) = (needs(&["SMTPUTF8"]), needs(&["BODY=BINARYMIME"]), needs(&["SIZE=2000"]));
    pool.probed(NodeId(0), V4, &announced("SIZE 1000\nCHUNKING"), now, now);
    assert!([utf8, binary, large].into_iter().all(|needs| always(1, needs)), "nothing is known of the other");
    assert!(!always(0, PLAIN) && !always(1, PLAIN));
    pool.probed(NodeId(1), V4, &announced("SMTPUTF8\nSIZE 0"), now, now);
    assert!(always(1, utf8) && always(1, large));
    assert!(!always(0, binary) && !always(1, binary), "none has it");
    // As the last one it is asked all the same: it may have learned it.
    assert_eq!(chosen(&[NodeId(1)], utf8), NodeId(0));
    // Ill, but the only one that can.
    ask(&pool, &[NodeId(0)], V4, now).report(Err(&NodeFailure::Closed("in the body")), now);
    assert!(always(1, utf8) && always(0, PLAIN));
}

#[tokio::test]
async fn who_waits_for_the_only_fitting_node_holds_up_nobody() {
    let (pool, now) = (pool(&["10.3.0.11:25", "10.3.0.12:25 max_in_flight=1"]), Instant::now());
    pool.probed(NodeId(0), V4, &announced("CHUNKING"), now, now);
    pool.probed(NodeId(1), V4, &announced("SMTPUTF8"), now, now);
    let utf8 = needs(&["SMTPUTF8"]);
    let Chosen::Node(first) = pool.choose(&[], utf8, customer(V4), now) else { panic!("there is room") };
    let Chosen::Later(mut second) = pool.choose(&[], utf8, customer(V4), now) else { panic!("it is full") };
    assert_eq!(ask(&pool, &[], V4, now).candidate.node, NodeId(0));
    drop(first);
    std::future::poll_fn(|cx| second.poll(cx)).await;
    let Chosen::Node(second) = second.choose(now) else { panic!("there is room again") };
    assert_eq!(second.candidate.node, NodeId(1));
}

fn needs(parameters: &[&str]) -> Needs {
    let parameters = parameters.iter().map(|text| Parameter::parse(text.as_bytes()).unwrap());
    Needs::of(&Envelope::new(Mailbox { path: Path::new("a@b.example"), parameters: parameters.collect() }))
}

#[test]
fn binary_messages_are_taken_when_every_node_takes_them() {
    let (pool, now) = (two(), Instant::now());
    pool.probed(NodeId(0), V4, &announced("CHUNKING\nBINARYMIME"), now, now);
    assert!(!pool.takes_binary(), "the other one was not asked yet");
    pool.probed(NodeId(1), V4, &announced("CHUNKING\nBINARYMIME"), now, now);
    assert!(pool.takes_binary());
    pool.probed(NodeId(1), Family::V6, &Err(probe::Error::NoXclient), now, now);
    assert!(pool.takes_binary(), "a failure says nothing of it");
    pool.probed(NodeId(1), V4, &announced("CHUNKING"), now, now);
    assert!(!pool.takes_binary());
}

//! The hand-over with either side dying, or called off, at every moment: never two in charge, and never none while one
//! that was is alive.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::channel::{Channel, Line};
use super::give::give;
use super::take::{Taken, heritage, take};
use super::{
    Estate, FromHeir, FromOwner, HandoverError, Last, Offer, PROTOCOL, Part, Predecessor, differences,
};
use crate::nodes::Role;
use crate::nodes::names::Names;
use crate::places::Places;
use crate::shared::Shared;
use crate::steer::{Claim, SteerError};

/// A side whose process dies after so many words, said or heard; then the other finds nobody.
struct Mortal {
    channel: Channel,
    left: Cell<u32>,
    is_dead: Arc<AtomicBool>,
}

impl Mortal {
    fn new(channel: Channel, left: u32) -> Self {
        Self { channel, left: Cell::new(left), is_dead: Arc::default() }
    }

    /// An error: this was the last moment.
    fn live(&self) -> io::Result<()> {
        if self.left.get() == 0 {
            self.is_dead.store(true, Ordering::SeqCst);
            self.channel.end();
            return Err(ErrorKind::Interrupted.into());
        }
        self.left.set(self.left.get() - 1);
        Ok(())
    }

    fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }
}

impl Line for Mortal {
    fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.live()?;
        self.channel.send(message, descriptors)
    }

    fn receive<M: DeserializeOwned>(&self, limit: Duration) -> io::Result<(M, Vec<OwnedFd>)> {
        self.live()?;
        self.channel.receive(limit)
    }

    fn end(&self) {
        self.channel.end();
    }

    fn hear_no_more(&self) {
        self.channel.hear_no_more();
    }
}

/// What an owner went through.
#[derive(Debug, Default, PartialEq, Eq)]
struct Steps {
    offered: bool,
    held: bool,
    /// With `touched`.
    called_off: Option<bool>,
    refuses: bool,
}

fn offer() -> Offer {
    Offer {
        protocol: PROTOCOL,
        version: "9.9.9".into(),
        pid: 1,
        settings: serde_json::Map::new(),
        families: vec![4],
        layout: 1,
        proven: false,
        before: Vec::new(),
        modes: Vec::new(),
        drained: Vec::new(),
    }
}

fn descriptor() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

impl Estate for Steps {
    fn offer(&mut self) -> Result<(Offer, Vec<(Part, OwnedFd)>), String> {
        if self.refuses {
            return Err("not now".into());
        }
        self.offered = true;
        let map = |number: usize| (Part::Map { name: number.to_string() }, descriptor());
        // More than fit in one packet.
        let parts = [(Part::Listener {}, descriptor())].into_iter().chain((0..100).map(map));
        Ok((offer(), parts.collect()))
    }

    fn hold(&mut self) -> Result<Last, String> {
        self.held = true;
        let sessions = (0..2500_u32).map(|number| (number.to_be_bytes().into(), 1)).collect();
        Ok(Last { sessions, proven: true })
    }

    fn call_off(&mut self, touched: bool) {
        self.called_off = Some(touched);
    }
}

/// How it ended for the heir.
enum Heir {
    InCharge(Taken),
    Failed(HandoverError),
    Dead,
}

/// An heir as `serve` has it; it dies after so many words. `owner_is_dead`: the claim is free.
fn inherit(line: &Mortal, owner_is_dead: &AtomicBool) -> Heir {
    let outcome = heritage(line).and_then(|heritage| {
        assert_eq!((heritage.parts.len(), heritage.offer), (100, offer()));
        take(line, Claim::given, || match owner_is_dead.load(Ordering::SeqCst) {
            true => Ok(Claim::given(descriptor())),
            false => Err(SteerError::AgentRunning),
        })
    });
    match outcome {
        _ if line.is_dead() => Heir::Dead,
        Ok(taken) => match line.send(&FromHeir::Serving {}, &[]) {
            Err(_) if line.is_dead() => Heir::Dead,
            _ => Heir::InCharge(taken),
        },
        Err(error) => Heir::Failed(error),
    }
}

/// Both, with these words to live.
fn run(owner: u32, heir: u32) -> (Result<(), String>, Steps, bool, Heir) {
    let (one, other) = Channel::pair();
    let (owner, heir) = (Mortal::new(one, owner), Mortal::new(other, heir));
    let (mut steps, claim, owner_is_dead) = (Steps::default(), descriptor(), owner.is_dead.clone());
    thread::scope(|scope| {
        let inheriting = scope.spawn(move || {
            let outcome = inherit(&heir, &owner_is_dead);
            // Its process is over, or goes on and keeps the channel.
            if !matches!(outcome, Heir::InCharge(_)) {
                heir.end();
            }
            (outcome, heir)
        });
        let given = give(&owner, claim.as_fd(), &mut steps);
        if owner.is_dead() {
            owner.end();
        }
        let (outcome, _heir) = inheriting.join().unwrap();
        (given, steps, owner.is_dead(), outcome)
    })
}

/// More words than either side has.
const FOREVER: u32 = 1000;

fn check(owner_lives: u32, heir_lives: u32) {
    let (given, steps, owner_is_dead, heir) = run(owner_lives, heir_lives);
    let owner_is_in_charge = !owner_is_dead && given.is_err();
    let heir_is_in_charge = matches!(heir, Heir::InCharge(_));
    let words = format!("owner {owner_lives}, heir {heir_lives}: {given:?}, {steps:?}, {owner_is_dead}");
    assert!(!(owner_is_in_charge && heir_is_in_charge), "two: {words}");
    // The heir may die after it has served; an owner that died before had its time.
    let heir_had_served = given.is_ok();
    let heir_is_dead = matches!(heir, Heir::Dead);
    let somebody =
        owner_is_in_charge || heir_is_in_charge || owner_is_dead || (heir_is_dead && heir_had_served);
    assert!(somebody, "none: {words}");
    if owner_is_in_charge && steps.offered {
        assert!(steps.called_off.is_some(), "it does not go on: {words}");
    }
    if owner_is_in_charge && !heir_is_dead {
        assert_ne!(steps.called_off, Some(true), "nobody has touched anything: {words}");
    }
    if let Heir::Failed(error) = &heir {
        assert!(!error.to_string().is_empty() && (owner_is_in_charge || owner_is_dead), "{words}");
    }
    if let Heir::InCharge(taken) = heir {
        let last = taken.last.map(|last| (last.sessions.len(), last.proven));
        assert!(owner_is_dead || last == Some((2500, true)), "{words}");
    }
}

#[test]
fn the_heir_has_all_and_the_owner_leaves() {
    let (given, steps, _, heir) = run(FOREVER, FOREVER);
    assert_eq!(given, Ok(()));
    assert_eq!(steps, Steps { offered: true, held: true, called_off: None, refuses: false });
    let Heir::InCharge(taken) = heir else { panic!("not in charge") };
    assert_eq!(taken.last.map(|last| last.sessions.len()), Some(2500));
}

#[test]
fn whenever_one_of_them_dies_there_is_one_in_charge() {
    for words in 0..20 {
        check(words, FOREVER);
        check(FOREVER, words);
    }
}

proptest! {
    #[test]
    fn whenever_both_die_there_are_never_two(owner in 0_u32..20, heir in 0_u32..20) {
        check(owner, heir);
    }
}

/// The owner does not wait any longer, in the moment in which the heir takes: one of the two is right.
#[test]
fn who_is_called_off_is_not_in_charge() {
    for _ in 0..200 {
        let (one, other) = Channel::pair();
        let heir = thread::spawn(move || {
            let sent = other.send(&FromHeir::Taken {}, &[]).is_ok();
            (sent, other)
        });
        one.hear_no_more();
        let taken = matches!(one.receive(Duration::ZERO), Ok((FromHeir::Taken {}, _)));
        let (sent, _other) = heir.join().unwrap();
        // Looked at after the end, when nothing more can come.
        let taken = taken || matches!(one.receive(Duration::ZERO), Ok((FromHeir::Taken {}, _)));
        assert_eq!(taken, sent);
    }
}

#[test]
fn a_refusal_is_heard() {
    let (one, other) = Channel::pair();
    let owner = thread::spawn(move || {
        let mut steps = Steps { refuses: true, ..Steps::default() };
        (give(&one, descriptor().as_fd(), &mut steps), steps)
    });
    let Err(HandoverError::Refused { reason }) = heritage(&other) else { panic!("not refused") };
    assert_eq!(reason, "not now");
    let (given, steps) = owner.join().unwrap();
    assert_eq!((given, steps.called_off), (Err("not now".into()), None));
}

#[test]
fn another_protocol_is_refused_with_both_versions() {
    let (one, other) = Channel::pair();
    let hello = FromHeir::Hello { protocol: PROTOCOL + 1, version: "7.0.0".into() };
    other.send(&hello, &[]).unwrap();
    let mut steps = Steps::default();
    give(&one, descriptor().as_fd(), &mut steps).unwrap_err();
    let (FromOwner::Refused { reason }, _) = other.receive(Duration::from_secs(1)).unwrap() else {
        panic!("not refused")
    };
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(
        reason,
        format!(
            "weir-agent {own}, which runs, hands over by protocol 1, and 7.0.0 by 2: stop the one, start the other"
        )
    );
    assert_eq!(steps, Steps::default());
    let nonsense = Channel::pair();
    nonsense.1.send(&serde_json::json!({"message": "dance"}), &[]).unwrap();
    give(&nonsense.0, descriptor().as_fd(), &mut steps).unwrap_err();
    assert_eq!(steps, Steps::default());
}

#[test]
fn settings_that_differ_are_named() {
    let map = |text: &str| serde_json::from_str(text).unwrap();
    let old = map(r#"{"steering.mark": 1, "steering.table": 100, "steering.gone": 1}"#);
    let new = map(r#"{"steering.mark": 2, "steering.table": 100, "steering.new": 1}"#);
    assert_eq!(differences(&old, &new), ["steering.mark"]);
    let text = weir_daemon::reference::example::<crate::config::Config>();
    let config = weir_daemon::config::parse("agent.toml", &text).unwrap();
    let settings = super::settings(&config);
    assert_eq!(settings.len(), super::FIXED.len());
    assert!(settings.values().all(|value| !value.is_null()), "{settings:?}");
}

/// Of a hand-over, for the owner, and what it went through.
type Outcome = (Result<(), String>, Steps);

/// An owner, and the other end of its channel, on which an heir has said that it is ready.
fn owner_of_a_ready_heir<L: Line + Send + 'static>(
    line: impl FnOnce(Channel) -> L,
) -> (thread::JoinHandle<Outcome>, Channel) {
    let (one, other) = Channel::pair();
    let line = line(one);
    let owner = thread::spawn(move || {
        let mut steps = Steps::default();
        (give(&line, descriptor().as_fd(), &mut steps), steps)
    });
    heritage(&other).unwrap();
    other.send(&FromHeir::Ready {}, &[]).unwrap();
    while !matches!(other.receive(Duration::from_secs(9)).unwrap().0, FromOwner::Yours { .. }) {}
    (owner, other)
}

/// It may end as soon as it has handed over, and the heir has to say first that it is the service.
#[test]
fn the_owner_stays_until_the_heir_serves() {
    let (owner, heir) = owner_of_a_ready_heir(|channel| channel);
    heir.send(&FromHeir::Taken {}, &[]).unwrap();
    // Longer than any other answer is waited for.
    thread::sleep(Duration::from_secs(3));
    assert!(!owner.is_finished(), "it has left");
    heir.send(&FromHeir::Serving {}, &[]).unwrap();
    assert_eq!(owner.join().unwrap().0, Ok(()));
}

#[test]
fn an_heir_that_hangs_before_it_takes_is_called_off_soon() {
    let (owner, heir) = owner_of_a_ready_heir(|channel| channel);
    let begin = std::time::Instant::now();
    let (given, steps) = owner.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert_eq!((given.is_err(), steps.called_off), (true, Some(false)));
    heir.send(&FromHeir::Taken {}, &[]).unwrap_err();
}

/// Finds each time that it has waited long enough for `taken`, which comes in this moment.
struct Impatient(Channel);

impl Line for Impatient {
    fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.send(message, descriptors)
    }

    fn receive<M: DeserializeOwned>(&self, limit: Duration) -> io::Result<(M, Vec<OwnedFd>)> {
        if limit == super::give::ANSWER {
            thread::sleep(Duration::from_millis(300));
            return Err(ErrorKind::TimedOut.into());
        }
        self.0.receive(limit)
    }

    fn end(&self) {
        self.0.end();
    }

    fn hear_no_more(&self) {
        self.0.hear_no_more();
    }
}

#[test]
fn an_heir_that_took_in_the_last_moment_is_watched_too() {
    let (owner, heir) = owner_of_a_ready_heir(Impatient);
    heir.send(&FromHeir::Taken {}, &[]).unwrap();
    while heir.send(&FromHeir::Serving {}, &[]).is_ok() {
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(300));
    assert!(!owner.is_finished(), "it has left");
    drop(heir);
    let (given, steps) = owner.join().unwrap();
    assert_eq!((given, steps.called_off), (Err("it died as it took over".into()), Some(true)));
}

/// Its process is what counts: a channel may break.
#[tokio::test]
async fn an_agent_before_is_there_until_its_process_ends() {
    let text = "[steering]\nbackend = \"external\"\ncustomer_interfaces = [\"cust0\"]\ninternet_interfaces = [\"inet0\"]\n\
                [customers]\nprefixes = [\"10.1.0.0/16\"]\n[filter]\nnodes = [\"127.0.0.1:1\"]\n";
    let config: crate::config::Config = weir_daemon::config::parse("agent.toml", text).unwrap();
    let names = Names::new(Role::Filter, Vec::new());
    let (wanting, _) = tokio::sync::mpsc::channel(1);
    let shared = Arc::new(Shared::new(&config, [&names, &names], wanting).unwrap());
    let places = Arc::new(Places::new(9, None));
    let mut processes = [0, 1].map(|_| std::process::Command::new("sleep").arg("600").spawn().unwrap());
    let [direct, before] = [0, 1].map(|index: usize| processes[index].id());
    let (one, other) = Channel::pair();
    let source = "10.1.0.2".parse().unwrap();
    one.send(&FromOwner::Sessions { sources: vec![(source, 2)] }, &[]).unwrap();
    drop(one);
    let predecessor = Predecessor::listen(other, direct, &[before], places.clone(), shared).unwrap();
    while places.elsewhere() != 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let soon = tokio::time::timeout(Duration::from_millis(300), predecessor.gone()).await;
    assert!(soon.is_err(), "the channel's end is taken for its own");
    assert_eq!((predecessor.pid(), places.elsewhere()), (Some(direct), 2));
    processes[0].kill().unwrap();
    while places.elsewhere() != 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It was killed, and left another.
    assert_eq!(predecessor.pid(), Some(before));
    predecessor.stop();
    predecessor.gone().await;
    assert_eq!(predecessor.pid(), None);
    for mut process in processes {
        process.wait().unwrap();
    }
}

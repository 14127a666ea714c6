//! A judged message before mirror nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::server::{Server, Stage, Trouble};
use super::world::{Cuts, EHLO, ENFORCE, NODE_EHLO, World, settings};
use super::{BODY, CONTENT, ENVELOPE, node, one_message};
use crate::config::Mode;
use crate::failure::{Cause, Failure};
use crate::nodes::{Candidate, NodeId};
use crate::relay::mirror::{Comparison, Mirror, Original};
use crate::relay::record::Verdict;
use crate::relay::{Input, Leg, Output};
use crate::treatment::Treatment;

/// Mirror nodes and what goes between them and the engine, with a clock that moves when nothing else can.
struct Scene {
    mirror: Mirror,
    nodes: Vec<Option<Server>>,
    node: Option<usize>,
    to_engine: Vec<u8>,
    to_node: Vec<u8>,
    connected: bool,
    spool: Vec<u8>,
    cuts: Cuts,
    cut: usize,
    busy: bool,
    now: Instant,
}

impl Scene {
    fn new(original: Original, spool: &[u8], nodes: Vec<Option<Server>>, cuts: Cuts) -> Self {
        let now = Instant::now();
        Self {
            mirror: Mirror::new(Arc::new(settings()), original, now),
            nodes,
            node: None,
            to_engine: Vec::new(),
            to_node: Vec::new(),
            connected: false,
            spool: spool.to_vec(),
            cuts,
            cut: 0,
            busy: false,
            now,
        }
    }

    /// To the end, waiting where there is nothing else to do.
    fn play(mut self) -> (Comparison, Vec<Option<Server>>, Duration) {
        let began = self.now;
        for _ in 0..100_000 {
            self.perform();
            if self.mirror.is_over() {
                let took = self.now - began;
                return (self.mirror.compare(self.now), self.nodes, took);
            }
            if !self.step() {
                assert!(self.mirror.deadline() >= self.now, "a deadline in the past");
                self.now = self.mirror.deadline();
                self.mirror.handle(Input::Timeout, self.now);
            }
        }
        panic!("it goes on for ever");
    }

    fn server(&mut self) -> Option<&mut Server> {
        self.nodes[self.node?].as_mut()
    }

    fn size(&mut self, available: usize) -> usize {
        self.cut += 1;
        self.cuts.get(self.cut % self.cuts.len().max(1)).copied().unwrap_or(usize::MAX).clamp(1, available)
    }

    fn step(&mut self) -> bool {
        let leg = Leg::Filter;
        if !self.to_node.is_empty() {
            let size = self.size(self.to_node.len());
            let octets: Vec<u8> = self.to_node.drain(..size).collect();
            let replies = self.server().map(|server| server.feed(&octets)).unwrap_or_default();
            self.to_engine.extend_from_slice(&replies);
            self.mirror.handle(Input::Writable(leg, size), self.now);
            return true;
        }
        if !self.to_engine.is_empty() {
            let size = self.size(self.to_engine.len());
            let octets: Vec<u8> = self.to_engine.drain(..size).collect();
            self.mirror.handle(Input::Bytes(leg, &octets), self.now);
            return true;
        }
        let closed = self.connected && self.server().is_some_and(|server| server.closed);
        if closed {
            self.connected = false;
            self.mirror.handle(Input::Closed(leg), self.now);
        }
        closed
    }

    fn perform(&mut self) {
        while let Some(output) = self.mirror.poll() {
            match output {
                Output::ChooseNode { .. } if self.busy => {
                    self.mirror.handle(Input::NotAsked(Failure::FilterBusy), self.now);
                }
                Output::ChooseNode { tried, .. } => {
                    self.node = (0..self.nodes.len()).find(|node| !tried.contains(&NodeId(*node)));
                    let candidate = self.node.map(|node| Candidate {
                        node: NodeId(node),
                        probe_refused: false,
                        tls: false,
                    });
                    self.mirror.handle(Input::Chosen(candidate), self.now);
                }
                Output::Connect(Leg::Filter) => match self.server().map(Server::connect) {
                    Some(banner) => {
                        (self.to_engine, self.connected) = (banner, true);
                        self.mirror.handle(Input::Connected(Leg::Filter), self.now);
                    }
                    None => self.mirror.handle(Input::Failed(Leg::Filter, Cause::Refused), self.now),
                },
                Output::Write(Leg::Filter, octets) => self.to_node.extend_from_slice(&octets),
                Output::Keep(_) | Output::Close(Leg::Filter) => {
                    let last = std::mem::take(&mut self.to_node);
                    self.server().map(|server| server.feed(&last));
                    self.connected = false;
                }
                Output::Abort(Leg::Filter) => {
                    (self.to_node, self.to_engine, self.connected) = (vec![], vec![], false);
                }
                Output::Replay(Leg::Filter, range) => {
                    let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                    let size = self.size(range.len());
                    let octets = self.spool[range.start..range.start + size].to_vec();
                    self.mirror.handle(Input::Spooled(Leg::Filter, &octets), self.now);
                }
                Output::Report { .. } => {}
                other => panic!("nothing else is done for a mirror: {other:?}"),
            }
        }
    }
}

/// A message with the body `CONTENT` that was accepted.
pub fn original() -> Original {
    let mut world = one_message(vec![Some(node())]);
    world.originals.pop().unwrap()
}

fn mirrored(nodes: Vec<Option<Server>>) -> (Comparison, Vec<Option<Server>>, Duration) {
    Scene::new(original(), CONTENT, nodes, vec![]).play()
}

fn refusing() -> Server {
    node().with(Stage::EndOfData, Trouble::Say("550 5.7.1 stricter"))
}

#[test]
fn a_mirror_node_is_told_what_the_filter_node_was_told() {
    let mut world = one_message(vec![Some(node())]);
    let (comparison, nodes, _) = mirrored(vec![Some(node())]);
    let (real, mirror) = (world.nodes[0].take().unwrap(), nodes[0].as_ref().unwrap());
    assert_eq!(mirror.commands, real.commands);
    assert_eq!(mirror.messages, [CONTENT.to_vec()]);
    assert_eq!(comparison.id, world.logs[0].id);
    assert_eq!(comparison.verdict, Verdict::Accept);
    assert_eq!(comparison.mirrored.unwrap().verdict, Verdict::Accept);
}

#[test]
fn whatever_becomes_of_mirror_nodes_there_is_an_end_in_time() {
    let budget = settings().verdict_budget;
    let hanging = |stage| Some(node().with(stage, Trouble::Hang));
    let closing = |stage| Some(node().with(stage, Trouble::Close));
    for (nodes, verdict, failure) in [
        (vec![Some(refusing())], Verdict::Reject, None),
        (vec![Some(node().with(Stage::Rcpt, Trouble::Say("451 4.7.1 rate")))], Verdict::Defer, None),
        (vec![None, Some(refusing())], Verdict::Reject, None),
        (vec![None], Verdict::Defer, Some(Failure::FilterUnavailable)),
        (vec![], Verdict::Defer, Some(Failure::FilterUnavailable)),
        (vec![hanging(Stage::Banner)], Verdict::Defer, Some(Failure::FilterFailed)),
        (vec![hanging(Stage::EndOfData)], Verdict::Defer, Some(Failure::FilterSilent)),
        (vec![hanging(Stage::Ehlo), hanging(Stage::Mail)], Verdict::Defer, Some(Failure::FilterFailed)),
        (vec![closing(Stage::Body), closing(Stage::EndOfData)], Verdict::Defer, Some(Failure::Suspect)),
    ] {
        let (comparison, _, took) = mirrored(nodes);
        let decision = comparison.mirrored.unwrap();
        assert_eq!((decision.verdict, decision.failure), (verdict, failure));
        assert!(took <= budget, "{took:?}");
    }
    let mut busy = Scene::new(original(), CONTENT, vec![Some(node())], vec![]);
    busy.busy = true;
    assert_eq!(busy.play().0.mirrored.unwrap().failure, Some(Failure::FilterBusy));
}

#[test]
fn one_that_is_cut_short_ends_at_once() {
    for input in [Input::Cut, Input::ReplayFailed] {
        let mut scene = Scene::new(original(), CONTENT, vec![Some(node())], vec![]);
        scene.perform();
        assert!(!scene.mirror.is_over());
        scene.mirror.handle(input, scene.now);
        let (comparison, nodes, _) = scene.play();
        assert!(comparison.mirrored.is_none());
        assert_eq!(nodes[0].as_ref().unwrap().messages.len(), 0);
    }
}

/// Only what a node has judged can be compared, and only what is there as a whole can be shown.
#[test]
fn what_was_not_judged_or_not_kept_is_not_mirrored() {
    let of = |world: &World| world.originals.iter().map(|original| original.verdict).collect::<Vec<_>>();
    assert_eq!(of(&one_message(vec![Some(node())])), [Verdict::Accept]);
    assert_eq!(of(&one_message(vec![Some(refusing())])), [Verdict::Reject]);
    assert_eq!(of(&one_message(vec![None])), [], "deferred by weir");
    let in_mode = |mode, said: &[u8]| {
        let treatment = Treatment { mode, ..ENFORCE };
        let mut world =
            World::treated(treatment, Server::new(EHLO), vec![Some(refusing())], settings(), vec![]);
        world.say(said).run(true);
        world
    };
    let whole = [ENVELOPE, BODY].concat();
    assert_eq!(of(&in_mode(Mode::Shadow, &whole)), [Verdict::Reject]);
    assert_eq!(of(&in_mode(Mode::Bypass, &whole)), []);
    let with_cr = [ENVELOPE, &b"a\rb\r\n.\r\n"[..]].concat();
    assert_eq!(of(&in_mode(Mode::Enforce, &with_cr)), [], "refused for what it is");
    // The node refuses before the body comes, which is read over then.
    let early = node().with(Stage::Rcpt, Trouble::Say("550 5.7.1 no"));
    let mut world = World::new(Server::new(EHLO), vec![Some(early)], settings(), vec![]);
    world.say(ENVELOPE).run(false);
    world.say(BODY).run(false);
    assert_eq!((world.codes().last(), of(&world)), (Some(&550), vec![]));
    let mut world = World::new(Server::new(EHLO), vec![Some(node())], settings(), vec![]);
    world.say(ENVELOPE).say(b"Subject: half\r\n").run(false);
    world.customer_leaves = true;
    world.run(false);
    assert_eq!((world.logs.len(), of(&world)), (1, vec![]));
}

/// A body that DATA cannot carry is said in chunks, or not at all.
#[test]
fn a_body_that_is_not_lines_needs_chunking() {
    const CHUNKING: &str =
        "250-PIPELINING\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250-XCLIENT ADDR HELO\r\n250 XFORWARD IDENT";
    let original = || {
        let binary = || Some(Server::new(CHUNKING));
        let mut world =
            World::new(Server::new("250-CHUNKING\r\n250 BINARYMIME"), vec![binary()], settings(), vec![]);
        world
            .say(b"EHLO x\r\nMAIL FROM:<a@b.example> BODY=BINARYMIME\r\nRCPT TO:<c@d.example>\r\n")
            .run(false);
        world.say(b"BDAT 4 LAST\r\na\nb\n").run(false);
        assert_eq!(world.codes().last(), Some(&250), "{}", world.heard());
        world.originals.pop().unwrap()
    };
    let play = |ehlo| Scene::new(original(), b"a\nb\n", vec![Some(Server::new(ehlo))], vec![]).play();
    let (comparison, nodes, _) = play(CHUNKING);
    assert_eq!(comparison.mirrored.unwrap().verdict, Verdict::Accept);
    assert_eq!(nodes[0].as_ref().unwrap().messages, [b"a\nb\n".to_vec()]);
    let (comparison, nodes, _) = play(NODE_EHLO);
    assert_eq!(comparison.mirrored.unwrap().failure, Some(Failure::FilterLacks("CHUNKING")));
    assert_eq!(nodes[0].as_ref().unwrap().messages.len(), 0);
}

proptest! {
    /// However octets are cut on their way, the node gets all of the body and its answer is the verdict.
    #[test]
    fn every_split_is_the_same(cuts in proptest::collection::vec(1usize..40, 1..8), accepts: bool) {
        let server = if accepts { node() } else { refusing() };
        let (comparison, nodes, _) = Scene::new(original(), CONTENT, vec![Some(server)], cuts).play();
        let verdict = if accepts { Verdict::Accept } else { Verdict::Reject };
        prop_assert_eq!(comparison.mirrored.unwrap().verdict, verdict);
        prop_assert_eq!(&nodes[0].as_ref().unwrap().messages, &[CONTENT.to_vec()]);
    }
}

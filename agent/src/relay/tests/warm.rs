//! Connections to nodes that were kept ready.

use super::server::{Server, Stage, Trouble};
use super::world::{EHLO, ENFORCE, World, settings};
use super::{BODY, CONTENT, ENVELOPE, node, text};
use crate::config::WhenUnavailable;
use crate::treatment::Treatment;

/// The first node has a connection ready.
fn one_message(nodes: Vec<Option<Server>>) -> World {
    let mut world = World::new(Server::new(EHLO), nodes, settings(), vec![]);
    world.warm = true;
    world.say(ENVELOPE).say(BODY).say(b"QUIT\r\n").run(true);
    world
}

fn commands(world: &World, node: usize) -> Vec<&str> {
    text(&world.nodes[node].as_ref().unwrap().commands)
}

#[test]
fn a_conversation_begins_with_the_customer() {
    let world = one_message(vec![Some(node())]);
    assert_eq!((world.delivered(), world.judged(0)), (&[CONTENT.to_vec()][..], &[CONTENT.to_vec()][..]));
    let commands = commands(&world, 0);
    assert!(commands[0].starts_with("XCLIENT NAME=[UNAVAILABLE] ADDR=10.1.0.2"), "{commands:?}");
    assert_eq!(commands.iter().filter(|line| line.starts_with("EHLO")).count(), 1, "{commands:?}");
}

const AGAIN: &str =
    "250-PIPELINING\r\n250-XFORWARD IDENT\r\n250-XCLIENT-REPEATED\r\n250 XCLIENT NAME ADDR PORT PROTO HELO";

/// Two messages in one session, and what the one node was told.
fn two_messages(node: Server) -> World {
    let mut world = World::new(Server::new(EHLO), vec![Some(node)], settings(), vec![]);
    world.say(ENVELOPE).say(BODY).run(false);
    world.say(ENVELOPE).say(BODY).say(b"QUIT\r\n").run(true);
    world
}

/// One that takes XCLIENT again is told of the next message on the same connection, whatever it said of this one.
#[test]
fn a_node_that_takes_xclient_again_keeps_its_connection() {
    for (trouble, code) in [(None, 250), (Some((Stage::EndOfData, Trouble::Say("550 5.7.1 no"))), 550)] {
        let mut node = Server::new(AGAIN);
        node.trouble = trouble;
        let world = two_messages(node);
        let told = commands(&world, 0);
        let verbs = |verb: &str| told.iter().filter(|line| line.split(' ').next() == Some(verb)).count();
        assert_eq!((verbs("XCLIENT"), verbs("MAIL"), verbs("QUIT")), (2, 2, 0), "{told:?}");
        // Its own once, and the customer's after each XCLIENT.
        assert_eq!(told.iter().filter(|line| **line == "EHLO agent.example").count(), 1, "{told:?}");
        assert_eq!(world.codes(), [220, 250, 250, 250, 354, code, 250, 250, 250, 354, code, 221]);
    }
}

/// It was told of the message with XCLIENT, but takes none before it has taken the customer: it did not die of it.
#[test]
fn a_node_that_does_not_take_the_customer_does_not_have_the_message() {
    let stopping = || Some(Server::new(AGAIN).with(Stage::Xclient, Trouble::Say("421 4.3.2 stopping")));
    let mut world =
        World::new(Server::new(EHLO), vec![stopping(), stopping(), Some(node())], settings(), vec![]);
    world.say(ENVELOPE).say(BODY).say(b"QUIT\r\n").run(true);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221]);
    assert_eq!((world.judged(2).len(), world.logs[0].suspect), (1, false));
}

/// A node that was told of the message on a connection that was then lost, and cannot be reached any more, may have died of it:
/// that is no absence.
#[test]
fn a_node_that_dies_with_the_envelope_was_reached() {
    let accepting = Treatment { when_unavailable: WhenUnavailable::Accept, ..ENFORCE };
    for (ehlo, code) in [(AGAIN, 451), (super::world::NODE_EHLO, 250)] {
        let mut tired = Server::new(ehlo);
        tired.tired = Some(Trouble::Close);
        let mut world = World::treated(accepting, Server::new(EHLO), vec![Some(tired)], settings(), vec![]);
        (world.warm, world.dies_when_tired) = (true, true);
        world.say(ENVELOPE).say(BODY).say(b"QUIT\r\n").run(true);
        assert_eq!(world.codes(), [220, 250, 250, 250, 354, code, 221], "{ehlo}");
    }
}

/// After an envelope that it refused a node may still be answering the rest of it.
#[test]
fn a_connection_is_kept_only_after_the_end_of_a_message() {
    let world = two_messages(Server::new(AGAIN).with(Stage::Mail, Trouble::Say("550 5.7.1 no")));
    let told = commands(&world, 0);
    assert_eq!(told.iter().filter(|line| **line == "QUIT").count(), 2, "{told:?}");
}

/// The node was tired of waiting: nothing is said of it, and it is asked anew.
#[test]
fn one_that_was_given_up_is_replaced_by_a_new_one_to_the_same_node() {
    for trouble in [Trouble::Close, Trouble::Say("421 4.4.2 timeout")] {
        let mut tired = node();
        tired.tired = Some(trouble);
        let world = one_message(vec![Some(tired), Some(node())]);
        assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221], "{trouble:?}");
        let told = commands(&world, 0);
        assert!(told[0].starts_with("XCLIENT") && told[1] == "EHLO agent.example", "{told:?}");
        assert_eq!((world.judged(0).len(), world.judged(1).len()), (1, 0), "{trouble:?}");
        assert!(world.logs[0].node_failures.is_empty());
    }
}

/// A node that answers is as on any connection: the answer to XCLIENT is its verdict, or its failure.
#[test]
fn an_answer_is_an_answer() {
    let refusing = node().with(Stage::Xclient, Trouble::Say("554 5.7.1 not you"));
    assert_eq!(one_message(vec![Some(refusing), Some(node())]).codes(), [220, 250, 250, 250, 354, 554, 221]);
    for trouble in [Trouble::Hang, Trouble::Say("501 what"), Trouble::Say("no reply")] {
        let failing = node().with(Stage::Xclient, trouble);
        let world = one_message(vec![Some(failing), Some(node())]);
        assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221], "{trouble:?}");
        assert_eq!((world.judged(0).len(), world.judged(1).len()), (0, 1), "{trouble:?}");
        assert_eq!(world.logs[0].node_failures.len(), 1, "{trouble:?}");
    }
}

#[test]
fn one_that_died_meanwhile_is_a_node_that_is_not_reached() {
    let mut tired = node();
    tired.tired = Some(Trouble::Close);
    tired.trouble = Some((Stage::Banner, Trouble::Close));
    let world = one_message(vec![Some(tired), Some(node())]);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221]);
    assert_eq!((world.judged(1).len(), world.logs[0].node_failures.len()), (1, 1));
    assert!(!world.logs[0].suspect);
}

/// What it announced is an answer too: it is there, and the message is not accepted unjudged.
#[test]
fn a_node_that_announced_too_little_was_reached() {
    let without = Server::new("250 PIPELINING");
    let accepting = Treatment { when_unavailable: WhenUnavailable::Accept, ..ENFORCE };
    for (warm, node, code) in [(true, Some(without), 451), (false, None, 250)] {
        let mut world = World::treated(accepting, Server::new(EHLO), vec![node], settings(), vec![]);
        world.warm = warm;
        world.say(ENVELOPE).say(BODY).say(b"QUIT\r\n").run(true);
        assert_eq!(world.codes(), [220, 250, 250, 250, 354, code, 221]);
    }
}

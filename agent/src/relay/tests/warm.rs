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

//! RCPT asked of the filter before the destination.

use super::server::{Server, Stage, Trouble};
use super::world::{EHLO, ENFORCE, World, settings};
use super::{BODY, CONTENT, node, text};
use crate::config::Mode;
use crate::relay::record::{Outcome, Verdict};
use crate::relay::settings::Settings;
use crate::relay::{Input, Leg};
use crate::treatment::Treatment;

const START: &[u8] = b"EHLO mail.example\r\nMAIL FROM:<a@b.example>\r\n";

fn asking(nodes: Vec<Option<Server>>) -> World {
    in_mode(Mode::Enforce, nodes)
}

fn in_mode(mode: Mode, nodes: Vec<Option<Server>>) -> World {
    let settings = Settings { ask_recipients: true, ..settings() };
    World::treated(Treatment { mode, ..ENFORCE }, Server::new(EHLO), nodes, settings, vec![])
}

/// A node that refuses recipients at `blocked.example`.
fn refusing() -> Server {
    let mut server = node();
    server.refuses = "blocked.example";
    server
}

fn destination(world: &World) -> String {
    text(&world.destination.as_ref().unwrap().commands).join("|")
}

#[test]
fn a_refusal_is_the_answer_to_the_recipient_and_the_destination_never_hears_of_it() {
    let mut world = asking(vec![Some(refusing())]);
    world
        .say(START)
        .say(b"RCPT TO:<c@d.example>\r\nRCPT TO:<x@blocked.example>\r\nRCPT TO:<e@nowhere.invalid>\r\n");
    world.say(b"DATA\r\n").say(BODY).run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 550, 550, 354, 250]);
    assert!(!destination(&world).contains("blocked"), "{}", destination(&world));
    assert!(destination(&world).contains("RCPT TO:<c@d.example>|RCPT TO:<e@nowhere.invalid>|DATA"));
    assert_eq!(world.delivered(), [CONTENT.to_vec()]);
    let commands = &world.nodes[0].as_ref().unwrap().commands;
    // One conversation for all recipients, with the message's id, and one for the message.
    assert_eq!(commands.iter().filter(|line| line.starts_with("XCLIENT")).count(), 2, "{commands:?}");
    assert_eq!(commands.iter().filter(|line| *line == "XFORWARD IDENT=000000000000-1").count(), 2);
    assert_eq!(commands.iter().filter(|line| line.starts_with("RCPT")).count(), 4);
}

#[test]
fn a_node_that_refuses_customer_or_sender_refuses_each_recipient() {
    for (stage, said) in [(Stage::Xclient, "554 5.7.1 customer blocked"), (Stage::Mail, "451 4.7.1 later")] {
        let mut world = asking(vec![Some(node().with(stage, Trouble::Say(said)))]);
        world.say(START).say(b"RCPT TO:<c@d.example>\r\nRCPT TO:<e@d.example>\r\nDATA\r\n").run(false);
        let code = said[..3].parse().unwrap();
        assert_eq!(world.codes(), [220, 250, 250, code, code, 554], "{stage:?}");
        assert!(!destination(&world).contains("RCPT"));
    }
}

#[test]
fn without_an_answer_the_recipient_goes_to_the_destination() {
    for nodes in [
        vec![None],
        vec![Some(node().with(Stage::Rcpt, Trouble::Close)), Some(node().with(Stage::Banner, Trouble::Hang))],
        vec![Some(node().with(Stage::Rcpt, Trouble::Hang))],
        vec![Some(node().with(Stage::Rcpt, Trouble::Say("354 what"))), None],
    ] {
        let mut world = asking(nodes);
        world.say(START).say(b"RCPT TO:<c@d.example>\r\nQUIT\r\n").run(true);
        assert_eq!(world.codes(), [220, 250, 250, 250, 221]);
    }
    // Another node answers in the place of one that failed.
    let mut second = asking(vec![Some(node().with(Stage::Rcpt, Trouble::Close)), Some(refusing())]);
    second.say(START).say(b"RCPT TO:<x@blocked.example>\r\n").run(true);
    assert_eq!(second.codes()[3], 550);
}

#[test]
fn in_shadow_mode_every_recipient_passes_and_in_bypass_none_is_asked_about() {
    for (mode, asked) in [(Mode::Shadow, true), (Mode::Bypass, false)] {
        let mut world = in_mode(mode, vec![Some(refusing())]);
        world.say(START).say(b"RCPT TO:<x@blocked.example>\r\n").run(false);
        assert_eq!(world.codes(), [220, 250, 250, 250]);
        assert_eq!(!world.nodes[0].as_ref().unwrap().commands.is_empty(), asked);
    }
}

#[test]
fn a_transaction_that_is_given_up_ends_the_conversation_and_its_name_is_not_used_again() {
    let mut world = asking(vec![Some(node())]);
    world
        .say(START)
        .say(b"RCPT TO:<c@d.example>\r\nRSET\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n");
    world.say(b"DATA\r\n").say(BODY).run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 250, 250, 250, 354, 250]);
    let commands = text(&world.nodes[0].as_ref().unwrap().commands).join("|");
    assert!(commands.contains("IDENT=000000000000-1|") && commands.contains("IDENT=000000000000-2|"));
    assert!(commands.contains("RCPT TO:<c@d.example>|QUIT|EHLO"), "{commands}");
    assert_eq!(world.logs[0].id.as_str(), "000000000000-2");
}

#[test]
fn a_node_that_leaves_between_two_recipients_is_asked_anew() {
    let mut world = asking(vec![Some(node())]);
    world.say(START).say(b"RCPT TO:<c@d.example>\r\n").run(false);
    world.session.handle(Input::Closed(Leg::Filter), world.now);
    world.say(b"RCPT TO:<e@d.example>\r\nDATA\r\n").say(BODY).run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 250, 354, 250]);
    assert_eq!((world.logs[0].verdict, world.logs[0].outcome), (Verdict::Accept, Outcome::Delivered));
}

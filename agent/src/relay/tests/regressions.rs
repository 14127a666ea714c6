//! Defects that a review found, each as it was found.

use std::time::Duration;

use super::server::{Server, Stage, Trouble};
use super::world::{EHLO, ENFORCE, NODE_EHLO, World, settings};
use super::{BODY, CONTENT, ENVELOPE, node, text, world};
use crate::config::WhenUnavailable;
use crate::failure::Failure;
use crate::relay::record::{Outcome, Verdict};
use crate::relay::{Input, Leg};
use crate::treatment::Treatment;

/// Octets that the engine wrote and that have not left yet.
fn stall(world: &mut World, leg: Leg) {
    world.stalled = Some(leg);
}

#[test]
fn a_slow_body_does_not_use_up_the_destinations_time() {
    let mut world = world(vec![Some(node())]);
    world.say(ENVELOPE).run(false);
    for _ in 0..3 {
        world.wait(Duration::from_secs(200)).say(b"line\r\n").run(false);
    }
    world.say(b".\r\n").run(false);
    assert_eq!(world.codes()[5], 250);
}

#[test]
fn our_own_exhaustion_never_opens_the_path() {
    let accepting = Treatment { when_unavailable: WhenUnavailable::Accept, ..ENFORCE };
    let mut world = World::treated(accepting, Server::new(EHLO), vec![None, None], settings(), vec![]);
    world.connect_error = crate::failure::Cause::Exhausted;
    world.say(ENVELOPE).say(BODY).run(false);
    assert_eq!(world.codes()[5], 451);
    assert_eq!(world.delivered().len(), 0);
}

#[test]
fn an_answer_before_the_message_has_left_is_none() {
    for (said, code, outcome) in [
        (&b"250 2.0.0 taken\r\n"[..], 421, Outcome::Unknown),
        (b"552 5.3.4 too large\r\n", 552, Outcome::Refused),
        (b"421 4.4.2 bye\r\n", 421, Outcome::Refused),
    ] {
        let mut world = world(vec![Some(node())]);
        world.say(ENVELOPE).run(false);
        // The destination takes DATA and not one octet of the body.
        world.stall_after = Some((Leg::Destination, b"DATA\r\n".len()));
        world.say(BODY).run(false);
        assert!(world.session.is_committed(), "{}", world.heard());
        world.session.handle(Input::Bytes(Leg::Destination, said), world.now);
        world.run(false);
        assert_eq!(world.codes()[5], code);
        assert_eq!(world.logs[0].outcome, outcome);
        assert!(world.customer_closed, "the rest of the body was on its way");
    }
    let mut early = world(vec![Some(node()), Some(node())]);
    stall(&mut early, Leg::Filter);
    early.say(ENVELOPE).say(BODY).run(false);
    early.session.handle(Input::Bytes(Leg::Filter, b"250 2.0.0 accepted\r\n"), early.now);
    early.stalled = None;
    early.run(false);
    assert_eq!(early.judged(1), [CONTENT.to_vec()], "the other node judges");
}

#[test]
fn a_lost_answer_is_logged_as_unknown() {
    for trouble in [Trouble::Close, Trouble::Hang, Trouble::Say("what")] {
        let destination = Server::new(EHLO).with(Stage::EndOfData, trouble);
        let mut world = World::new(destination, vec![Some(node())], settings(), vec![]);
        world.say(ENVELOPE).say(BODY).run(true);
        let record = &world.logs[0];
        assert_eq!((record.verdict, record.outcome), (Verdict::Accept, Outcome::Unknown), "{trouble:?}");
        assert!(record.failure.is_some());
    }
}

#[test]
fn a_trickled_answer_is_no_answer() {
    let destination = Server::new(EHLO).with(Stage::EndOfData, Trouble::Hang);
    let mut world = World::new(destination, vec![Some(node())], settings(), vec![]);
    world.say(ENVELOPE).say(BODY).run(false);
    let sent = world.now;
    let limit = settings().end_of_data_timeout;
    for octet in b"250-".iter().cycle().take(20) {
        world.now += Duration::from_secs(100);
        if world.session.deadline().is_none_or(|due| due <= world.now) {
            break;
        }
        world.session.handle(Input::Bytes(Leg::Destination, &[*octet]), world.now);
    }
    world.session.handle(Input::Timeout, world.now);
    world.run(true);
    assert!(world.session.is_over() && world.now <= sent + limit);
}

#[test]
fn too_many_recipients_are_no_errors_and_cannot_be_smuggled_past_the_limit() {
    let mut many = world(vec![Some(node())]);
    many.say(b"EHLO x\r\nMAIL FROM:<a@b>\r\n")
        .say(&b"RCPT TO:<c@d>\r\n".repeat(12))
        .say(b"DATA\r\n")
        .say(BODY);
    many.run(false);
    assert_eq!(many.codes().last(), Some(&250));
    assert_eq!(many.logs[0].recipients, 3);

    let mut nested = world(vec![Some(node())]);
    nested
        .say(b"EHLO x\r\n")
        .say(&[&b"MAIL FROM:<a@b>\r\n"[..], &b"RCPT TO:<c@d>\r\n".repeat(3)].concat().repeat(4));
    nested.say(b"DATA\r\n").say(BODY).run(false);
    let passed =
        nested.destination.as_ref().unwrap().commands.iter().filter(|c| c.starts_with("RCPT")).count();
    assert_eq!(passed, 3, "one envelope holds no more, however often MAIL is said");
}

#[test]
fn nothing_is_sent_in_a_group_with_our_own_rset() {
    let destination = Server::new("250 HELP").with(Stage::Data, Trouble::Say("452 4.3.1 full"));
    let mut world = World::new(destination, vec![Some(node())], settings(), vec![]);
    world.say(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n").run(false);
    world.say(BODY).run(false);
    let silent = world.destination.as_mut().unwrap();
    assert_eq!(silent.commands.last().map(String::as_str), Some("RSET"));
    silent.hangs = true;
    world.say(b"MAIL FROM:<c@d>\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 452]);
}

#[test]
fn a_cut_and_a_time_limit_say_why() {
    let mut cut = world(vec![Some(node())]);
    cut.say(ENVELOPE).say(b"half a line").run(false);
    cut.session.handle(Input::Cut, cut.now);
    cut.run(false);
    assert_eq!(cut.codes().last(), Some(&421));
    assert_eq!(cut.logs[0].failure, Some(Failure::Stopping));

    let mut blocked = world(vec![Some(node())]);
    blocked.say(ENVELOPE).say(b"half a line").run(false);
    while !blocked.session.is_over() {
        blocked.session.handle(Input::Blocked, blocked.now);
        blocked.run(false);
    }
    assert_eq!((blocked.codes().last(), blocked.delivered().len()), (Some(&421), 0));
    assert_eq!(blocked.logs[0].failure, Some(Failure::Blocked));

    let mut idle = world(vec![Some(node())]);
    idle.say(ENVELOPE).say(b"half a line").run(true);
    assert_eq!(idle.codes().last(), Some(&421));
    assert_eq!(idle.logs[0].failure, Some(Failure::CustomerIdle));
    assert_eq!((idle.delivered().len(), idle.judged(0).len()), (0, 0));
}

#[test]
fn a_message_refused_at_once_is_shown_to_no_node() {
    let mut world = world(vec![Some(node())]);
    world.say(ENVELOPE).say(&[b'a'; 3000]).say(b"\r\n.\r\n").run(false);
    assert_eq!(world.codes()[5], 550);
    let commands = &world.nodes[0].as_ref().unwrap().commands;
    assert!(!text(commands).contains(&"DATA"), "{commands:?}");
}

#[test]
fn what_no_node_takes_is_refused_for_good_and_what_one_takes_goes_there() {
    const UTF8: &str = "250-PIPELINING\r\n250-SMTPUTF8\r\n250 8BITMIME";
    const NODE_UTF8: &str = "250-SMTPUTF8\r\n250-XCLIENT ADDR\r\n250 XFORWARD IDENT";
    let message = b"EHLO x\r\nMAIL FROM:<a@b> SMTPUTF8\r\nRCPT TO:<c@d>\r\nDATA\r\n";
    for (second, code) in [(NODE_EHLO, 554), (NODE_UTF8, 250)] {
        let nodes = vec![Some(node()), Some(Server::new(second))];
        let mut world = World::new(Server::new(UTF8), nodes, settings(), vec![]);
        world.say(message).say(BODY).run(false);
        assert_eq!(world.codes()[5], code, "{}", world.heard());
    }
}

#[test]
fn a_nul_is_refused() {
    let mut world = world(vec![Some(node())]);
    world.say(ENVELOPE).say(b"a\r\n\0.\r\nMAIL FROM:<x@y>\r\n.\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 550]);
    assert_eq!((world.delivered().len(), world.judged(0).len()), (0, 0));
}

#[test]
fn a_late_answer_to_our_own_noop_is_not_taken_for_another() {
    let refusing = node().with(Stage::EndOfData, Trouble::Say("550 5.7.1 spam"));
    let mut world = world(vec![Some(refusing)]);
    world.say(ENVELOPE).run(false);
    stall(&mut world, Leg::Destination);
    world.wait(Duration::from_secs(130)).say(BODY).run(false);
    world.say(b"MAIL FROM:<e@f>\r\nRCPT TO:<g@nowhere.invalid>\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 550]);
    world.stalled = None;
    world.run(false);
    assert!(world.heard().ends_with("250 2.1.0 sender ok\r\n550-5.1.1 no such\r\n550 5.1.1 recipient\r\n"));
}

#[test]
fn a_goodbye_before_data_has_left_ends_the_session_without_more() {
    let mut world = world(vec![Some(node())]);
    world.say(ENVELOPE).run(false);
    stall(&mut world, Leg::Destination);
    world.say(BODY).run(false);
    world.session.handle(Input::Bytes(Leg::Destination, b"421 4.3.2 shutting down\r\n"), world.now);
    world.run(false);
    assert_eq!(world.codes()[5], 421);
    let commands = &world.destination.as_ref().unwrap().commands;
    assert_eq!(
        commands.last().map(String::as_str),
        Some("RCPT TO:<c@d.example>"),
        "no DATA and RSET after it"
    );
}

#[test]
fn a_reply_that_comes_before_its_command_has_left_is_no_answer() {
    for (said, command) in
        [(&b"EHLO x\r\n"[..], &b"MAIL FROM:<a@b>\r\n"[..]), (b"EHLO x\r\nMAIL FROM:<a@b>\r\n", b"RSET\r\n")]
    {
        let mut world = world(vec![Some(node())]);
        world.say(said).run(false);
        world.stalled = Some(Leg::Destination);
        world.say(command).run(false);
        world.session.handle(Input::Bytes(Leg::Destination, b"250 2.0.0 early\r\n"), world.now);
        world.run(false);
        assert_eq!(world.codes().last(), Some(&421), "{}", world.heard());
        assert!(!world.heard().contains("early"));
    }
}

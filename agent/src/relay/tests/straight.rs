//! In bypass, what is longer than a few octets goes on while it comes.

use std::time::Duration;

use super::server::{Server, Stage, Trouble};
use super::world::{EHLO, ENFORCE, World, settings};
use super::{BODY, CONTENT, ENVELOPE};
use crate::config::Mode;
use crate::failure::Failure;
use crate::relay::record::Outcome;
use crate::relay::settings::Settings;
use crate::relay::wire::HIGH_WATER;
use crate::relay::{Input, Leg};
use crate::treatment::Treatment;

const BEGINNING: &[u8] = b"Subject: x\r\n\r\n..dot\r\n";
const END: &[u8] = b".\r\n";

fn bypass(destination: Server, settings: Settings) -> World {
    World::treated(Treatment { mode: Mode::Bypass, ..ENFORCE }, destination, vec![], settings, vec![])
}

/// A message has begun, and its end has not come.
fn begun(destination: Server, settings: Settings) -> World {
    let mut world = bypass(destination, settings);
    world.say(ENVELOPE).run(false).say(BEGINNING).run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354], "nothing more is said before its end");
    world
}

#[test]
fn the_destination_has_the_beginning_before_there_is_an_end() {
    let mut world = begun(Server::new(EHLO), settings());
    assert!(world.destination.as_ref().unwrap().received.ends_with(b"DATA\r\nSubject: x\r\n\r\n..dot\r\n"));
    world.say(b"..more\r\n").run(false);
    assert!(world.destination.as_ref().unwrap().received.ends_with(b"..more\r\n"));
    world.say(END).run(false);
    assert_eq!(world.delivered(), [[CONTENT, b".more\r\n"].concat()]);
    assert_eq!((world.codes()[5], world.logs[0].outcome), (250, Outcome::Delivered));
    assert_eq!(world.logs[0].size, 27);
    world.say(&ENVELOPE["EHLO mail.example\r\n".len()..]).say(BODY).run(false);
    assert_eq!(world.codes()[6..], [250, 250, 354, 250]);
}

#[test]
fn with_a_verdict_to_come_nothing_goes_before_it() {
    let mut world = World::new(Server::new(EHLO), vec![Some(super::node())], settings(), vec![]);
    world.say(ENVELOPE).run(false).say(BEGINNING).run(false);
    assert!(!world.destination.as_ref().unwrap().commands.contains(&"DATA".to_owned()));
}

#[test]
fn what_is_refused_in_its_middle_never_ends_at_the_destination() {
    let mut world = begun(Server::new(EHLO), settings());
    world.say(b"a\rb\r\n").run(false).say(b"more\r\n").say(END).run(false);
    assert_eq!((world.codes()[5], world.customer_closed), (550, true));
    assert_eq!((world.delivered().len(), world.logs[0].outcome), (0, Outcome::Withheld));
    assert!(!world.destination.as_ref().unwrap().received.ends_with(b"\r\n.\r\n"));
}

#[test]
fn a_customer_who_leaves_in_the_middle_leaves_no_message() {
    let mut world = begun(Server::new(EHLO), settings());
    world.customer_leaves = true;
    world.run(false);
    assert_eq!((world.delivered().len(), world.logs[0].outcome), (0, Outcome::Abandoned));
}

#[test]
fn an_answer_that_comes_early_is_told_at_the_end() {
    let too_large = Trouble::Say("552 5.3.4 too large");
    for (stage, trouble, reply, outcome, goes_on) in [
        (Stage::Data, Trouble::Say("554 5.7.1 not you"), 554, Outcome::Refused, true),
        (Stage::Data, Trouble::Say("421 4.3.2 not now"), 421, Outcome::Refused, false),
        (Stage::Data, Trouble::Say("250 2.0.0 what?"), 421, Outcome::Withheld, false),
        (Stage::Data, Trouble::Close, 421, Outcome::Withheld, false),
        (Stage::Body, too_large, 552, Outcome::Refused, false),
        (Stage::Body, Trouble::Close, 421, Outcome::Withheld, false),
    ] {
        let mut world = begun(Server::new(EHLO).with(stage, trouble), settings());
        world.say(b"more\r\n").run(false).say(END).run(false);
        assert_eq!((world.codes()[5], world.logs[0].outcome), (reply, outcome), "{stage:?} {trouble:?}");
        assert_eq!(
            (world.session.is_over(), world.delivered().len()),
            (!goes_on, 0),
            "{stage:?} {trouble:?}"
        );
    }
}

#[test]
fn a_destination_that_refused_and_left_ends_the_session() {
    let refusing = Server::new(EHLO).with(Stage::Data, Trouble::Say("554 5.7.1 not you"));
    let mut world = begun(refusing, settings());
    let now = world.now;
    world.session.handle(Input::Closed(Leg::Destination), now);
    world.say(END).run(false);
    assert_eq!((world.codes()[5], world.session.is_over()), (554, true));
}

#[test]
fn a_slow_customer_is_not_the_destinations_fault() {
    let second = Duration::from_secs(1);
    let mut world = begun(Server::new(EHLO), Settings { reply_timeout: 10 * second, ..settings() });
    for _ in 0..5 {
        world.wait(60 * second).say(b"more\r\n").run(false);
    }
    world.wait(60 * second).say(END).run(false);
    assert_eq!((world.codes()[5], world.delivered().len()), (250, 1));
}

#[test]
fn a_slow_destination_holds_the_customer_up_and_fails_of_its_own() {
    const READ: usize = 4096;
    let second = Duration::from_secs(1);
    let limits = Settings { max_message_size: 1_000_000, reply_timeout: 100 * second, ..settings() };
    for recovers in [true, false] {
        let mut world = bypass(Server::new(EHLO), limits.clone());
        world.say(ENVELOPE).run(false).say(BEGINNING).run(false);
        world.set_cuts(vec![READ]);
        world.stalled = Some(Leg::Destination);
        world.say(&b"0123456789abcde\r\n".repeat(20_000)).say(END).run(false);
        let held = world.session.wire.flow(Leg::Destination).outgoing;
        assert!((HIGH_WATER..HIGH_WATER + 2 * READ).contains(&held), "{held}");
        assert_eq!(world.session.unread(Leg::Customer), 0);
        if recovers {
            world.wait(90 * second);
            world.stalled = None;
            world.run(false);
            assert_eq!((world.codes()[5], world.delivered().len()), (250, 1));
            continue;
        }
        world.wait(110 * second);
        assert_eq!(world.codes()[5], 421);
        assert_eq!(world.logs[0].failure, Some(Failure::DestinationSilent));
    }
}

#[test]
fn a_destination_that_is_lost_early_leaves_no_wait_behind() {
    let second = Duration::from_secs(1);
    let limits = Settings { reply_timeout: 10 * second, idle_timeout: 600 * second, ..settings() };
    for trouble in [Trouble::Close, Trouble::Hang] {
        let mut world = begun(Server::new(EHLO).with(Stage::Data, trouble), limits.clone());
        for _ in 0..5 {
            world.wait(20 * second).say(b"more\r\n").run(false);
        }
        world.say(END).run(false);
        assert_eq!((world.codes()[5], world.delivered().len()), (421, 0), "{trouble:?}");
    }
}

#[test]
fn data_that_is_not_answered_runs_out_of_time_whatever_the_customer_sends() {
    let second = Duration::from_secs(1);
    let limits = Settings { reply_timeout: 50 * second, ..settings() };
    let mut world = begun(Server::new(EHLO).with(Stage::Data, Trouble::Hang), limits);
    for _ in 0..6 {
        world.wait(10 * second).say(b"more\r\n").run(false);
    }
    world.say(END).run(false);
    assert_eq!(world.logs[0].failure, Some(Failure::DestinationSilent));
}

#[test]
fn a_customer_is_not_held_up_for_a_body_that_nobody_wants() {
    let limits = Settings { max_message_size: 1_000_000, ..settings() };
    let refusing = Server::new(EHLO).with(Stage::Body, Trouble::Say("552 5.3.4 too large"));
    let mut world = begun(refusing, limits);
    world.stalled = Some(Leg::Destination);
    world.set_cuts(vec![4096]);
    world.say(&b"0123456789abcde\r\n".repeat(20_000)).say(END).run(false);
    assert_eq!((world.codes()[5], world.logs[0].outcome), (552, Outcome::Refused));
}

#[test]
fn an_early_refusal_is_logged_though_the_customer_leaves() {
    let refusing = Server::new(EHLO).with(Stage::Data, Trouble::Say("554 5.7.1 not you"));
    let mut world = begun(refusing, settings());
    world.customer_leaves = true;
    world.run(false);
    let record = &world.logs[0];
    assert_eq!(
        (record.outcome, record.reply.as_ref().map(weir_smtp::Reply::code)),
        (Outcome::Abandoned, Some(554))
    );
}

#[test]
fn a_body_that_comes_slowly_before_a_verdict_does_not_silence_the_noops() {
    let second = Duration::from_secs(1);
    let mut world = World::new(Server::new(EHLO), vec![Some(super::node())], settings(), vec![]);
    world.say(ENVELOPE).run(false);
    for _ in 0..20 {
        world.wait(30 * second).say(b"more\r\n").run(false);
    }
    world.say(END).run(false);
    let commands = &world.destination.as_ref().unwrap().commands;
    assert!(commands.iter().filter(|command| *command == "NOOP").count() >= 4, "{commands:?}");
    assert_eq!(world.delivered().len(), 1);
}

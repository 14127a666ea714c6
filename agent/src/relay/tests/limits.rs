//! What the configuration allows or forbids.

use std::time::Duration;

use super::server::{Server, Stage, Trouble};
use super::world::{EHLO, World, settings};
use super::{BODY, ENVELOPE, node, world};
use crate::config::{BareLf, EarlyTalkers, LongLines, OnConnectFailure};
use crate::failure::Failure;
use crate::relay::Notice;
use crate::relay::record::Outcome;
use crate::relay::settings::Settings;

fn with(change: impl FnOnce(&mut Settings)) -> World {
    let mut changed = settings();
    change(&mut changed);
    World::new(Server::new(EHLO), vec![Some(node())], changed, vec![])
}

#[test]
fn bare_lf_and_long_lines_by_option() {
    let mut strict = with(|settings| settings.bare_lf = BareLf::Reject);
    strict.say(ENVELOPE).say(b"a\nb\r\n.\r\n").run(false);
    assert_eq!(strict.codes()[5], 550);
    assert_eq!(strict.logs[0].failure, Some(Failure::BareLf));

    let mut lax = with(|settings| settings.long_lines = LongLines::Pass);
    let line = [&[b'a'; 5000][..], b"\r\n"].concat();
    lax.say(ENVELOPE).say(&line).say(b".\r\n").run(false);
    assert_eq!(lax.codes()[5], 250);
    assert_eq!(lax.delivered(), [line]);
}

#[test]
fn early_talkers_are_counted_and_refused_by_option() {
    for (policy, codes) in [(EarlyTalkers::Accept, &[220, 250][..]), (EarlyTalkers::Reject, &[554])] {
        let mut world = with(|settings| settings.early_talkers = policy);
        world
            .session
            .handle(super::super::Input::Bytes(super::super::Leg::Customer, b"EHLO x\r\n"), world.now);
        world.run(false);
        assert_eq!(world.codes(), codes);
        assert_eq!(world.noticed, [Notice::EarlyTalker]);
    }
}

#[test]
fn text_before_the_go_ahead_is_counted_and_refused_by_option() {
    for (policy, codes) in [(EarlyTalkers::Accept, &[354, 250][..]), (EarlyTalkers::Reject, &[554])] {
        let mut world = with(|settings| settings.early_talkers = policy);
        world.run(false);
        world.say(&[ENVELOPE, BODY].concat()).run(false);
        assert_eq!(world.codes()[4..], *codes);
        assert_eq!(world.noticed, [Notice::EarlyTalker]);
    }
    let mut polite = with(|settings| settings.early_talkers = EarlyTalkers::Reject);
    polite.run(false);
    polite.say(ENVELOPE).run(false);
    polite.say(BODY).run(false);
    assert_eq!(polite.codes()[4..], [354, 250]);
}

#[test]
fn http_and_tls_are_hung_up_on() {
    for hello in [&b"POST / HTTP/1.1\r\nHost: mx\r\n\r\nEHLO x\r\n"[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut world = world(vec![Some(node())]);
        world.run(false);
        world.say(hello).run(false);
        assert_eq!(world.codes(), [220]);
        assert!(world.session.is_over());
        assert_eq!(world.noticed, [Notice::NotSmtp]);
    }
    // Later a verb is only a verb.
    let mut world = world(vec![Some(node())]);
    world.say(b"EHLO x\r\nGET /\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 500]);
}

#[test]
fn a_masked_banner_is_noticed_and_relayed() {
    let destination = Server::new(EHLO).with(Stage::Banner, Trouble::Say("220 ********2**0*****"));
    let mut world = World::new(destination, vec![Some(node())], settings(), vec![]);
    world.say(ENVELOPE).run(false);
    world.say(BODY).run(false);
    assert_eq!(world.noticed, [Notice::MaskedBanner]);
    assert_eq!(world.codes()[5], 250);
}

#[test]
fn a_destination_that_is_not_reached_can_look_like_nobody() {
    let mut world = with(|settings| settings.on_connect_failure = OnConnectFailure::Reset);
    world.destination = None;
    world.run(false);
    assert_eq!(world.heard(), "");
    assert!(world.session.is_over());
}

#[test]
fn the_destination_hears_noop_while_it_waits_and_at_most_five() {
    let mut world = with(|settings| settings.idle_timeout = Duration::from_secs(3600));
    world.say(ENVELOPE).run(false);
    world.wait(Duration::from_secs(1300)).say(BODY).run(false);
    assert_eq!(world.codes()[5], 250);
    let noops = world.destination.as_ref().unwrap().commands.iter().filter(|c| *c == "NOOP").count();
    assert_eq!(noops, 5);
    assert_eq!(world.logs[0].outcome, Outcome::Delivered);
}

#[test]
fn a_slow_customer_is_told_so() {
    let mut world = with(|settings| settings.min_data_rate = 100);
    world.say(ENVELOPE).run(false);
    for _ in 0..10 {
        world.say(b"a\r\n").run(false);
        world.wait(Duration::from_secs(10));
    }
    assert_eq!(world.codes().last(), Some(&421));
    assert_eq!(world.logs[0].failure, Some(Failure::CustomerSlow));

    let mut trickling = with(|_| {});
    trickling.run(false);
    for _ in 0..100 {
        trickling.say(b"N").run(false);
        trickling.wait(Duration::from_secs(10));
    }
    assert_eq!(trickling.codes(), [220, 421], "a command that trickles in runs out of time");
}

#[test]
fn a_session_has_so_many_messages() {
    let mut world = with(|settings| settings.max_messages = 1);
    world.say(ENVELOPE).say(BODY).say(ENVELOPE).run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 250, 250, 250, 421]);
    assert_eq!(world.delivered().len(), 1);
}

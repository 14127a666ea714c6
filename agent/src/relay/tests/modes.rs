//! Enforce, shadow and bypass, and switching between them.

use super::server::{Server, Stage, Trouble};
use super::world::{EHLO, ENFORCE, World, settings};
use super::{BODY, CONTENT, ENVELOPE, node};
use crate::config::Mode;
use crate::relay::Input;
use crate::relay::record::{Outcome, Verdict};
use crate::treatment::Treatment;

fn in_mode(mode: Mode, nodes: Vec<Option<Server>>) -> World {
    World::treated(Treatment { mode, ..ENFORCE }, Server::new(EHLO), nodes, settings(), vec![])
}

#[test]
fn in_shadow_mode_everything_passes_and_the_verdict_is_logged() {
    let refusing = || node().with(Stage::EndOfData, Trouble::Say("550 5.7.1 spam"));
    let dying = || node().with(Stage::EndOfData, Trouble::Close);
    for (nodes, verdict) in [
        (vec![Some(node())], Verdict::Accept),
        (vec![Some(refusing())], Verdict::Reject),
        (vec![Some(node().with(Stage::Rcpt, Trouble::Say("451 4.7.1 rate")))], Verdict::Defer),
        (vec![None], Verdict::Defer),
        (vec![Some(dying()), Some(dying())], Verdict::Defer),
        (vec![Some(node().with(Stage::EndOfData, Trouble::Hang))], Verdict::Defer),
    ] {
        let mut world = in_mode(Mode::Shadow, nodes);
        world.say(ENVELOPE).say(BODY).run(true);
        assert_eq!(world.codes()[5], 250, "{verdict:?}");
        assert_eq!(world.delivered(), [CONTENT.to_vec()]);
        let record = &world.logs[0];
        assert_eq!(
            (record.verdict, record.outcome, record.mode),
            (verdict, Outcome::Delivered, Mode::Shadow)
        );
    }
}

#[test]
fn in_bypass_mode_no_node_is_asked_and_the_limits_hold() {
    let mut world = in_mode(Mode::Bypass, vec![Some(node())]);
    world.say(ENVELOPE).say(BODY).say(&ENVELOPE["EHLO mail.example\r\n".len()..]).say(b"a\rb\r\n.\r\n");
    world.run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 250, 250, 354, 550]);
    assert_eq!(world.delivered(), [CONTENT.to_vec()]);
    assert_eq!(world.nodes[0].as_ref().unwrap().commands.len(), 0);
    let outcomes: Vec<_> = world.logs.iter().map(|record| (record.verdict, record.outcome)).collect();
    assert_eq!(outcomes, [(Verdict::Accept, Outcome::Delivered), (Verdict::Reject, Outcome::Withheld)]);
}

#[test]
fn a_switch_holds_from_the_next_message_on() {
    let refusing = node().with(Stage::EndOfData, Trouble::Say("550 5.7.1 spam"));
    let mut world = in_mode(Mode::Enforce, vec![Some(refusing)]);
    world.say(ENVELOPE).run(false);
    let now = world.now;
    world.session.handle(Input::Treat(Treatment { mode: Mode::Shadow, ..ENFORCE }), now);
    world.say(BODY).run(false);
    assert_eq!(world.codes()[5], 550, "begun in the other mode");
    world.say(&ENVELOPE["EHLO mail.example\r\n".len()..]).say(BODY).run(false);
    assert_eq!(world.codes()[9], 250);
}

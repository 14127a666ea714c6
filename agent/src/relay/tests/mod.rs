//! The engine between simulated peers.

mod auth;
mod chunks;
mod corpus;
mod extensions;
mod limits;
pub mod mirror;
mod modes;
mod recipients;
mod regressions;
mod server;
mod simulation;
mod straight;
mod tls;
mod warm;
mod world;
mod xforward;

use proptest::prelude::*;

use self::server::{Server, Stage, Trouble};
use self::world::{Cuts, EHLO, ENFORCE, NODE_EHLO, World, settings};
use super::record::{Outcome, Verdict};
use crate::config::WhenUnavailable;
use crate::treatment::Treatment;

const ENVELOPE: &[u8] =
    b"EHLO mail.example\r\nMAIL FROM:<a@b.example> SIZE=10\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";
const BODY: &[u8] = b"Subject: x\r\n\r\n..dot\r\n.\r\n";
pub const CONTENT: &[u8] = b"Subject: x\r\n\r\n.dot\r\n";

fn node() -> Server {
    Server::new(NODE_EHLO)
}

fn world(nodes: Vec<Option<Server>>) -> World {
    World::new(Server::new(EHLO), nodes, settings(), vec![])
}

/// One message and QUIT, with these nodes.
fn one_message(nodes: Vec<Option<Server>>) -> World {
    let mut world = world(nodes);
    world.say(ENVELOPE).say(BODY).say(b"QUIT\r\n").run(true);
    world
}

fn text(commands: &[String]) -> Vec<&str> {
    commands.iter().map(String::as_str).collect()
}

#[test]
fn a_message_is_judged_and_then_delivered_with_the_same_octets() {
    let world = one_message(vec![Some(node())]);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221]);
    assert!(world.heard().contains("250 2.0.0 taken"), "{}", world.heard());
    assert!(!world.heard().contains("STARTTLS"));
    assert_eq!((world.delivered(), world.judged(0)), (&[CONTENT.to_vec()][..], &[CONTENT.to_vec()][..]));
    assert_eq!(
        text(&world.destination.as_ref().unwrap().commands),
        [
            "EHLO mail.example",
            "STARTTLS",
            "EHLO mail.example",
            "MAIL FROM:<a@b.example> SIZE=10",
            "RCPT TO:<c@d.example>",
            "DATA",
            "QUIT"
        ]
    );
    assert_eq!(
        text(&world.nodes[0].as_ref().unwrap().commands),
        [
            "EHLO agent.example",
            "XCLIENT NAME=[UNAVAILABLE] ADDR=10.1.0.2 PORT=40001 PROTO=ESMTP HELO=mail.example \
             DESTADDR=10.2.0.2 DESTPORT=25",
            "EHLO mail.example",
            "XFORWARD IDENT=000000000000-1",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<c@d.example>",
            "DATA",
            "QUIT",
        ]
    );
    let [record] = &world.logs[..] else { panic!("{:?}", world.logs) };
    assert_eq!((record.verdict, record.outcome), (Verdict::Accept, Outcome::Delivered));
    assert_eq!((record.size, record.id.as_str()), (CONTENT.len() as u64, "000000000000-1"));
    assert!(world.customer_closed);
}

#[test]
fn a_refused_message_never_reaches_the_destination_and_the_session_goes_on() {
    let refusing = node().with(Stage::EndOfData, Trouble::Say("550 5.7.1 spam (id)"));
    let mut world = world(vec![Some(refusing)]);
    world.say(ENVELOPE).say(BODY).say(&ENVELOPE["EHLO mail.example\r\n".len()..]).say(BODY).run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 550, 250, 250, 354, 550]);
    assert!(world.heard().contains("550 5.7.1 spam (id)"));
    assert_eq!(world.delivered().len(), 0);
    let commands = text(&world.destination.as_ref().unwrap().commands).join("|");
    assert!(!commands.contains("DATA") && commands.contains("RCPT TO:<c@d.example>|RSET|MAIL"), "{commands}");
    assert_eq!(world.logs.len(), 2);
    assert!(world.logs.iter().all(|record| record.verdict == Verdict::Reject));
}

#[test]
fn a_refusal_of_the_envelope_is_a_verdict_on_the_message() {
    for (stage, said, code) in [
        (Stage::Xclient, "554 5.7.1 customer blocked", 554),
        (Stage::Xclient, "450 4.7.1 later", 450),
        (Stage::Mail, "550 5.7.1 sender", 550),
        (Stage::Rcpt, "451 4.7.1 rate", 451),
        (Stage::Data, "554 5.7.1 no", 554),
    ] {
        let world = one_message(vec![Some(node().with(stage, Trouble::Say(said)))]);
        assert_eq!(world.codes(), [220, 250, 250, 250, 354, code, 221], "{stage:?} {said}");
        assert_eq!(world.delivered().len(), 0);
        assert_eq!(world.judged(0).len(), 0);
    }
}

#[test]
fn a_4xx_among_5xx_defers_the_whole_message() {
    let mut refusing = node().with(Stage::Rcpt, Trouble::Say("451 4.7.1 later"));
    refusing.refuses = "d.example";
    let mut world = world(vec![Some(refusing)]);
    world
        .say(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\nDATA\r\n")
        .say(BODY);
    world.run(false);
    assert_eq!(world.codes().last(), Some(&451));
}

#[test]
fn a_node_that_fails_is_replaced_and_its_failure_is_never_a_verdict() {
    for stage in [
        Stage::Banner,
        Stage::Ehlo,
        Stage::Xclient,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::Body,
        Stage::EndOfData,
    ] {
        for trouble in [
            Trouble::Close,
            Trouble::Hang,
            Trouble::Say("421 4.3.2 down"),
            Trouble::Say("hello"),
            Trouble::Say("350 ?"),
        ] {
            let is_go_ahead = stage == Stage::Data && trouble == Trouble::Say("350 ?");
            let cannot = stage == Stage::Body && trouble != Trouble::Close;
            let hangs_till_the_end = matches!(stage, Stage::EndOfData) && trouble == Trouble::Hang;
            if is_go_ahead || cannot || hangs_till_the_end {
                continue;
            }
            let world = one_message(vec![Some(node().with(stage, trouble)), Some(node())]);
            assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221], "{stage:?} {trouble:?}");
            assert_eq!(world.delivered(), [CONTENT.to_vec()], "{stage:?} {trouble:?}");
            assert_eq!(world.judged(1), [CONTENT.to_vec()], "{stage:?} {trouble:?}");
            assert_eq!(world.logs[0].node_failures.len(), 1);
        }
    }
}

#[test]
fn xclient_must_be_announced_and_answered_with_220() {
    let mut without = node();
    without.ehlo = "250-PIPELINING\r\n250 XCLIENT NAME";
    let refusing = |said| node().with(Stage::Xclient, Trouble::Say(said));
    let wants_tls = "530 5.7.0 STARTTLS first";
    for bad in
        [without].into_iter().chain(["250 ok", "501 syntax", "503 no", wants_tls, "354 ?"].map(refusing))
    {
        let trouble = bad.trouble;
        let world = one_message(vec![Some(bad), Some(node())]);
        assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221], "{trouble:?}");
        assert!(!text(&world.nodes[0].as_ref().unwrap().commands).join("|").contains("MAIL"));
    }
}

#[test]
fn a_message_that_two_nodes_died_of_is_suspect_and_never_accepted() {
    let dying = || Some(node().with(Stage::EndOfData, Trouble::Close));
    let mut world = when_unavailable(WhenUnavailable::Accept, vec![dying(), dying(), Some(node())]);
    world.say(ENVELOPE).say(BODY).run(true);
    assert_eq!(world.codes()[5], 451);
    assert!(world.logs[0].suspect);
    assert_eq!((world.delivered().len(), world.judged(2).len()), (0, 0));
}

fn when_unavailable(when_unavailable: WhenUnavailable, nodes: Vec<Option<Server>>) -> World {
    let treatment = Treatment { when_unavailable, ..ENFORCE };
    World::treated(treatment, Server::new(EHLO), nodes, settings(), vec![])
}

#[test]
fn without_any_node_the_configured_choice_is_taken() {
    for (choice, code, delivered) in [(WhenUnavailable::Defer, 451, 0), (WhenUnavailable::Accept, 250, 1)] {
        let mut world = when_unavailable(choice, vec![None, None]);
        world.say(ENVELOPE).say(BODY).run(false);
        assert_eq!(world.codes()[5], code);
        assert_eq!(world.delivered().len(), delivered);
        assert_eq!(world.logs[0].node, None);
    }
}

#[test]
fn a_node_that_was_reached_is_not_absent() {
    for stage in [Stage::Banner, Stage::Ehlo, Stage::Xclient, Stage::Mail] {
        let nodes = vec![Some(node().with(stage, Trouble::Close)), None];
        let mut world = when_unavailable(WhenUnavailable::Accept, nodes);
        world.say(ENVELOPE).say(BODY).run(true);
        assert_eq!(world.codes()[5], 451, "{stage:?}");
        assert_eq!(world.delivered().len(), 0);
    }
}

#[test]
fn a_verdict_comes_within_the_budget_or_the_message_is_deferred() {
    let hanging = Some(node().with(Stage::EndOfData, Trouble::Hang));
    let mut world = world(vec![hanging, Some(node())]);
    let began = world.now;
    world.say(ENVELOPE).say(BODY).run(false);
    assert_eq!(world.codes().len(), 5);
    let deadline = world.session.deadline().unwrap();
    assert_eq!(deadline - began, settings().verdict_budget);
    world.run(true);
    assert_eq!(world.codes()[5], 451);
    assert!(world.heard().contains("no verdict in time"), "{}", world.heard());
    assert_eq!(world.delivered().len(), 0);
}

#[test]
fn each_recipient_has_its_own_answer_and_data_needs_one_accepted() {
    let mut destination = Server::new(EHLO);
    destination.refuses = "d.example";
    let mut world = World::new(destination, vec![Some(node())], settings(), vec![]);
    world.say(ENVELOPE).say(b"RCPT TO:<e@f.example>\r\nDATA\r\n").say(BODY).run(false);
    assert!(world.heard().contains("550-5.1.1 no such\r\n550 5.1.1 recipient\r\n"));
    assert_eq!(world.codes(), [220, 250, 250, 550, 554, 250, 354, 250]);
    assert_eq!(world.logs[0].recipients, 1);
}

#[test]
fn what_a_customer_must_not_say_is_never_passed_on() {
    let patient = super::settings::Settings { max_errors: 10, ..settings() };
    let mut world = World::new(Server::new(EHLO), vec![Some(node())], patient, vec![]);
    world.say(
        b"EHLO x\r\nSTARTTLS\r\nXCLIENT ADDR=1.2.3.4\r\nXFORWARD IDENT=x\r\nBDAT 12 LAST\r\nQUIT\r\nRSET\r\n",
    );
    world.say(b"MAIL FROM:<a@b> AUTH=<>\r\nNOOP\n\x16\x03\x01\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 502, 502, 502, 502, 555, 250, 500]);
    assert_eq!(text(&world.destination.as_ref().unwrap().commands), ["EHLO x", "STARTTLS", "EHLO x", "NOOP"]);
}

#[test]
fn troubles_of_the_destination_are_told() {
    let mut refused = world(vec![Some(node())]);
    refused.destination = None;
    refused.run(true);
    assert!(refused.heard().starts_with("421 4.4.1 destination not reached: connection refused"));
    assert!(refused.customer_closed);

    for (stage, trouble, codes) in [
        (Stage::Banner, Trouble::Say("554 5.7.1 go away"), &[554, 250][..]),
        (Stage::Banner, Trouble::Say("421 4.3.2 busy"), &[421]),
        (Stage::Banner, Trouble::Close, &[421]),
        (Stage::Banner, Trouble::Hang, &[421]),
        (Stage::Ehlo, Trouble::Say("354 what"), &[220, 421]),
        (Stage::Mail, Trouble::Close, &[220, 250, 421]),
        (Stage::Rcpt, Trouble::Say("421 4.7.0 enough"), &[220, 250, 250, 421]),
        (Stage::Data, Trouble::Say("452 4.3.1 full"), &[220, 250, 250, 250, 354, 452, 221]),
        (Stage::Data, Trouble::Close, &[220, 250, 250, 250, 354, 421]),
        (Stage::Data, Trouble::Say("250 what"), &[220, 250, 250, 250, 354, 421]),
        (Stage::Body, Trouble::Close, &[220, 250, 250, 250, 354, 421]),
        (Stage::EndOfData, Trouble::Say("550 5.7.1 content"), &[220, 250, 250, 250, 354, 550, 221]),
        (Stage::EndOfData, Trouble::Close, &[220, 250, 250, 250, 354, 421]),
        (Stage::EndOfData, Trouble::Hang, &[220, 250, 250, 250, 354, 421]),
    ] {
        let mut world =
            World::new(Server::new(EHLO).with(stage, trouble), vec![Some(node())], settings(), vec![]);
        world.say(ENVELOPE).say(BODY).say(b"QUIT\r\n").run(true);
        assert!(world.codes().starts_with(codes), "{stage:?} {trouble:?}: {}", world.heard());
        assert!(world.customer_closed, "{stage:?} {trouble:?}");
    }
}

#[test]
fn a_customer_that_leaves_before_the_dot_has_sent_nothing() {
    let mut hanging = world(vec![Some(node().with(Stage::EndOfData, Trouble::Hang))]);
    hanging.say(ENVELOPE).say(BODY).run(false);
    hanging.customer_leaves = true;
    hanging.run(false);
    assert!(hanging.session.is_over());
    assert_eq!(hanging.logs[0].outcome, Outcome::Abandoned);
    assert_eq!(hanging.delivered().len(), 0);

    let mut cut = world(vec![Some(node())]);
    cut.say(ENVELOPE).say(b"Subject").run(false);
    cut.customer_leaves = true;
    cut.run(false);
    assert!(cut.session.is_over());
    assert_eq!((cut.delivered().len(), cut.judged(0).len()), (0, 0));
}

#[test]
fn after_the_dot_the_outcome_is_awaited_though_nobody_hears_it() {
    let destination = Server::new(EHLO).with(Stage::EndOfData, Trouble::Hang);
    let mut world = World::new(destination, vec![Some(node())], settings(), vec![]);
    world.say(ENVELOPE).say(BODY).run(false);
    assert!(world.session.is_committed());
    world.customer_leaves = true;
    world.run(false);
    assert!(!world.session.is_over());
    world.session.handle(super::Input::Bytes(super::Leg::Destination, b"250 taken\r\n"), world.now);
    world.run(false);
    assert!(world.session.is_over());
    assert_eq!(world.logs[0].outcome, Outcome::Unreported);
}

#[test]
fn a_customer_that_says_quit_and_closes_its_side_gets_its_answers() {
    let mut world = world(vec![Some(node())]);
    world.say(ENVELOPE).say(BODY).say(b"QUIT\r\n");
    world.customer_leaves = true;
    world.run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221]);
}

#[test]
fn limits_refuse_the_message_and_not_the_session() {
    let long_line = [&[b'a'; 2001][..], b"\r\n.\r\n"].concat();
    let large = [b"aaaaaaaa\r\n".repeat(10_001), b".\r\n".to_vec()].concat();
    for (body, code) in
        [(&b"a\rb\r\n.\r\n"[..], 550), (&long_line, 550), (&large, 552), (&b"bare\nlf\r\n.\r\n"[..], 250)]
    {
        let mut world = world(vec![Some(node())]);
        world.say(ENVELOPE).say(body).say(b"NOOP\r\n").run(false);
        assert_eq!(world.codes(), [220, 250, 250, 250, 354, code, 250]);
        assert_eq!(world.delivered().len(), usize::from(code == 250));
        assert_eq!(world.judged(0).len(), usize::from(code == 250));
    }
    let mut recipients = world(vec![Some(node())]);
    recipients.say(b"EHLO x\r\nMAIL FROM:<a@b> SIZE=100001\r\nMAIL FROM:<a@b>\r\n");
    recipients.say(&b"RCPT TO:<c@d>\r\n".repeat(4)).run(false);
    assert_eq!(recipients.codes(), [220, 250, 552, 250, 250, 250, 250, 452]);
    let mut errors = world(vec![Some(node())]);
    errors.say(&b"FOO\r\n".repeat(10)).run(false);
    assert_eq!(errors.codes(), [220, 500, 500, 500, 500, 500, 500, 421]);
    let mut idle = world(vec![Some(node())]);
    idle.run(true);
    assert_eq!(idle.codes(), [220, 421]);
}

#[test]
fn a_stop_finishes_the_message_and_begins_nothing() {
    let destination = Server::new(EHLO).with(Stage::EndOfData, Trouble::Hang);
    let mut world = World::new(destination, vec![Some(node())], settings(), vec![]);
    world.say(ENVELOPE).say(BODY).say(b"MAIL FROM:<next@b>\r\n").run(false);
    world.session.handle(super::Input::Stop, world.now);
    world.run(false);
    assert!(!world.session.is_over());
    world.session.handle(super::Input::Bytes(super::Leg::Destination, b"250 taken\r\n"), world.now);
    world.run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 421]);
}

#[test]
fn no_group_is_sent_to_a_destination_that_takes_none() {
    let mut destination = Server::new("250 HELP");
    destination.trouble = Some((Stage::Mail, Trouble::Hang));
    let mut world = World::new(destination, vec![Some(node())], settings(), vec![]);
    world.say(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n").run(false);
    assert_eq!(text(&world.destination.as_ref().unwrap().commands), ["EHLO x", "MAIL FROM:<a@b>"]);
}

/// Everything that an outsider can see of a session.
#[derive(Debug, PartialEq)]
struct Seen {
    heard: String,
    delivered: Vec<Vec<u8>>,
    judged: Vec<Vec<Vec<u8>>>,
    logged: Vec<String>,
}

fn seen(world: &World) -> Seen {
    let logged = |r: &super::record::Record| {
        // What the filter thought of a message that its customer gave up depends on when he did.
        let verdict = Some(r.verdict).filter(|_| r.outcome != Outcome::Abandoned);
        format!("{} {verdict:?} {:?} {}", r.id, r.outcome, r.size)
    };
    Seen {
        heard: world.heard(),
        delivered: world.delivered().to_vec(),
        judged: (0..world.nodes.len()).map(|node| world.judged(node).to_vec()).collect(),
        logged: world.logs.iter().map(logged).collect(),
    }
}

fn script() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(&b"EHLO x\r\n"[..]),
        Just(&b"MAIL FROM:<a@b>\r\n"[..]),
        Just(&b"RCPT TO:<c@d.example>\r\n"[..]),
        Just(&b"RCPT TO:<c@nowhere.invalid>\r\n"[..]),
        Just(&b"DATA\r\n"[..]),
        Just(&b"text\n.\r\n..\r\n.\r\n"[..]),
        Just(&b".\r\n"[..]),
        Just(&b"a\rb\r\n.\r\n"[..]),
        Just(&b"RSET\r\nNOOP\r\n"[..]),
        Just(&b"BDAT 6\r\nQUIT\r\n"[..]),
        Just(&b"STARTTLS\r\n"[..]),
        Just(ENVELOPE),
        Just(BODY),
        Just(&b"QUIT\r\n"[..]),
    ];
    proptest::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
}

fn verdict() -> impl Strategy<Value = Option<(Stage, Trouble)>> {
    prop_oneof![
        Just(None),
        Just(Some((Stage::EndOfData, Trouble::Say("550 5.7.1 spam")))),
        Just(Some((Stage::EndOfData, Trouble::Close))),
        Just(Some((Stage::Rcpt, Trouble::Say("451 4.7.1 later")))),
        Just(Some((Stage::Body, Trouble::Close))),
    ]
}

fn played(script: &[u8], troubles: &[Option<(Stage, Trouble)>; 3], cuts: Cuts) -> World {
    let with = |mut server: Server, trouble| {
        server.trouble = trouble;
        server
    };
    let nodes = vec![Some(with(node(), troubles[1])), Some(with(node(), troubles[2]))];
    let mut world = World::new(with(Server::new(EHLO), troubles[0]), nodes, settings(), cuts);
    world.say(script).run(true);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Laws 1, 2, 3 and 8, and that no split of any stream changes anything.
    #[test]
    fn the_laws_hold_and_every_split_gives_the_same_session(
        script in script(),
        troubles in [verdict(), verdict(), verdict()],
        cuts in proptest::collection::vec(1usize..40, 1..6),
    ) {
        let whole = played(&script, &troubles, vec![]);
        prop_assert_eq!(seen(&whole), seen(&played(&script, &troubles, cuts)), "cut differently");
        prop_assert_eq!(seen(&whole), seen(&played(&script, &troubles, vec![1])), "octet by octet");

        let outcomes = |outcome| whole.logs.iter().filter(|record| record.outcome == outcome).count();
        let taken = whole.heard().matches("250 2.0.0 taken").count();
        prop_assert_eq!(taken, outcomes(Outcome::Delivered), "250 is the destination's");
        let bodies = whole.heard().matches("354 ").count();
        prop_assert_eq!(bodies, whole.logs.len(), "one line for each message");
        for message in whole.delivered() {
            let judged = (0..2).any(|node| whole.judged(node).contains(message));
            prop_assert!(judged, "delivered what nobody judged: {}", message.escape_ascii());
        }
    }
}

//! BDAT (RFC 3030): framed by length at the customer, at nodes that take it, and at the destination.

use std::time::Duration;

use proptest::prelude::*;

use super::server::{Server, Stage, Trouble};
use super::world::{Cuts, World, settings};
use super::{node, seen, text, verdict};
use crate::config::BareLf;
use crate::failure::Failure;
use crate::relay::record::{Outcome, Verdict};
use crate::relay::settings::Settings;
use crate::relay::{Input, Leg};

const EHLO: &str = "250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250 CHUNKING";
const NODE_EHLO: &str = "250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-BINARYMIME\r\n\
     250-XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT\r\n250 XFORWARD IDENT";
const ENVELOPE: &[u8] = b"EHLO mail.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n";

fn chunking() -> Server {
    Server::new(NODE_EHLO)
}

fn world(nodes: Vec<Option<Server>>) -> World {
    World::new(Server::new(EHLO), nodes, settings(), vec![])
}

fn chunk(content: &[u8], last: bool) -> Vec<u8> {
    let last = if last { " LAST" } else { "" };
    [format!("BDAT {}{last}\r\n", content.len()).as_bytes(), content].concat()
}

fn in_chunks(parts: &[&[u8]]) -> Vec<u8> {
    let last = parts.len() - 1;
    parts.iter().enumerate().flat_map(|(number, part)| chunk(part, number == last)).collect()
}

#[test]
fn chunks_are_judged_as_chunks_and_delivered_as_one() {
    let mut world = world(vec![Some(chunking())]);
    let parts: [&[u8]; 3] = [b"Subject: x\r\n\r\n.\r", b"\n.\r\n..two\nQUIT\r\n", b"no end"];
    world.say(ENVELOPE).say(&in_chunks(&parts)).say(b"QUIT\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 250, 250, 250, 221]);
    assert!(world.heard().contains("250 2.0.0 16 octets received"), "{}", world.heard());
    let content = parts.concat();
    assert_eq!((world.delivered(), world.judged(0)), (&[content.clone()][..], &[content.clone()][..]));
    let commands = &world.destination.as_ref().unwrap().commands;
    assert_eq!(text(commands)[3..], [&*format!("BDAT {} LAST", content.len()), "QUIT"]);
    let commands = text(&world.nodes[0].as_ref().unwrap().commands).join("|");
    assert!(commands.contains("LAST|QUIT") && !commands.contains("DATA|"), "{commands}");
    let [record] = &world.logs[..] else { panic!("{:?}", world.logs) };
    assert_eq!((record.verdict, record.outcome), (Verdict::Accept, Outcome::Delivered));
    assert_eq!((record.size, record.bare_lf), (content.len() as u64, 1));
}

#[test]
fn the_empty_message_and_the_empty_last_chunk() {
    for parts in [&[&b""[..]][..], &[b"a\r\n", b""], &[b"", b"", b"a\r\n"]] {
        let mut world = world(vec![Some(chunking())]);
        world.say(ENVELOPE).say(&in_chunks(parts)).run(false);
        assert_eq!(world.codes().len(), 4 + parts.len());
        assert_eq!((world.delivered(), world.judged(0)), (&[parts.concat()][..], &[parts.concat()][..]));
    }
}

#[test]
fn a_node_without_chunking_gets_data_where_data_carries_the_same_octets() {
    let mut lines = world(vec![Some(node())]);
    lines.say(ENVELOPE).say(&in_chunks(&[b".dot\r", b"\n.\r\n"])).run(false);
    assert_eq!(lines.codes().last(), Some(&250));
    assert_eq!((lines.delivered(), lines.judged(0)), (&[b".dot\r\n.\r\n".to_vec()][..], lines.delivered()));

    for content in [&b"no end"[..], b"bare\nlf\r\n"] {
        let mut refused = world(vec![Some(node()), Some(node())]);
        refused.say(ENVELOPE).say(&in_chunks(&[content])).say(b"NOOP\r\n").run(false);
        assert_eq!(refused.codes(), [220, 250, 250, 250, 554, 250]);
        assert!(refused.heard().contains("mail filter does not take CHUNKING"), "{}", refused.heard());
        assert_eq!((refused.delivered().len(), refused.judged(0).len(), refused.judged(1).len()), (0, 0, 0));
        assert!(!refused.logs[0].suspect, "nodes that did nothing wrong");

        let mut second = world(vec![Some(node()), Some(chunking())]);
        second.say(ENVELOPE).say(&in_chunks(&[content])).run(false);
        assert_eq!(second.codes().last(), Some(&250));
        assert_eq!(second.delivered(), [content]);
    }
}

#[test]
fn a_chunk_that_a_node_refuses_is_its_verdict_on_the_message() {
    let refusing = chunking().with(Stage::Chunk, Trouble::Say("552 5.3.4 enough"));
    let mut world = world(vec![Some(refusing)]);
    let more = b"QUIT\r\n.\r\nMAIL FROM:<x@y>\r\n";
    world.say(ENVELOPE).say(&chunk(b"one\r\n", false)).run(false);
    world.say(&in_chunks(&[more, more])).say(b"NOOP\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 250, 250, 552, 250]);
    assert_eq!(world.delivered().len(), 0);
    assert_eq!(world.logs[0].verdict, Verdict::Reject);
    let commands = text(&world.destination.as_ref().unwrap().commands).join("|");
    assert!(commands.ends_with("RCPT TO:<c@d.example>|RSET|NOOP"), "{commands}");
}

#[test]
fn chunks_without_a_transaction_are_read_over() {
    let mut world = world(vec![Some(chunking())]);
    world.say(b"EHLO x\r\nBDAT 6 LAST\r\nQUIT\r\n");
    world.say(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@nowhere.invalid>\r\nBDAT 6\r\nQUIT\r\nNOOP\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 503, 250, 550, 554, 250]);
    let mut without = World::new(Server::new("250 HELP"), vec![Some(chunking())], settings(), vec![]);
    without.say(ENVELOPE).say(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n").run(false);
    assert_eq!(without.codes(), [220, 250, 250, 250, 502, 250]);
}

#[test]
fn between_chunks_there_are_only_commands_that_fit() {
    let mut world = world(vec![Some(chunking())]);
    world.say(ENVELOPE).say(&chunk(b"one\r\n", false));
    world.say(b"NOOP\r\nRCPT TO:<e@f>\r\nDATA\r\nVRFY x\r\nSTARTTLS\r\n").say(&chunk(b"two\r\n", true));
    world.run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 250, 250, 503, 503, 503, 502, 250]);
    assert_eq!(world.delivered(), [b"one\r\ntwo\r\n"]);

    for command in ["RSET", "EHLO y", "HELO y"] {
        let mut world = super::chunks::world(vec![Some(chunking())]);
        world.say(ENVELOPE).say(&chunk(b"one\r\n", false)).say(format!("{command}\r\n").as_bytes());
        world.say(&chunk(b"QUIT\r\n", true)).say(ENVELOPE).say(&chunk(b"two\r\n", true)).run(false);
        let refused = if command == "HELO y" { 502 } else { 503 };
        assert_eq!(world.codes(), [220, 250, 250, 250, 250, 250, refused, 250, 250, 250, 250], "{command}");
        assert_eq!(world.delivered(), [b"two\r\n"]);
        let outcomes: Vec<_> = world.logs.iter().map(|record| record.outcome).collect();
        assert_eq!(outcomes, [Outcome::Abandoned, Outcome::Delivered]);
    }

    let mut quit = super::chunks::world(vec![Some(chunking())]);
    quit.say(ENVELOPE).say(&chunk(b"one\r\n", false)).say(b"QUIT\r\n").run(false);
    assert_eq!(quit.codes(), [220, 250, 250, 250, 250, 221]);
    assert_eq!((quit.delivered().len(), quit.logs[0].outcome), (0, Outcome::Abandoned));

    let mut unreadable = super::chunks::world(vec![Some(chunking())]);
    unreadable.say(ENVELOPE).say(&chunk(b"one\r\n", false)).say(b"BDAT x LAST\r\nQUIT\r\n").run(false);
    assert_eq!(unreadable.codes(), [220, 250, 250, 250, 250, 501, 421]);
    assert_eq!(unreadable.delivered().len(), 0);
}

#[test]
fn what_is_not_declared_binary_must_be_text() {
    for (content, failure) in [
        (&b"a\rb\r\n"[..], Some(Failure::BareCr)),
        (b"a\0b\r\n", Some(Failure::Nul)),
        (&[b'x'; 2001], Some(Failure::LineTooLong(2000))),
        (&[b'\n'; 100_001], Some(Failure::MessageTooLarge(100_000))),
        (b"a\nb", None),
    ] {
        let mut world = world(vec![Some(chunking())]);
        world.say(ENVELOPE).say(&chunk(content, true)).say(b"NOOP\r\n").run(false);
        assert_eq!((world.logs[0].failure, world.codes().len()), (failure, 6));
        assert_eq!(world.delivered().len(), usize::from(failure.is_none()));
    }
    let strict = Settings { bare_lf: BareLf::Reject, ..settings() };
    let mut world = World::new(Server::new(EHLO), vec![Some(chunking())], strict, vec![]);
    world.say(ENVELOPE).say(&chunk(b"a\nb\r\n", true)).run(false);
    assert_eq!(world.logs[0].failure, Some(Failure::BareLf));
}

#[test]
fn binary_goes_in_chunks_to_nodes_that_take_it_and_is_offered_only_with_them() {
    let binary = b"EHLO x\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\n";
    let content = b"\0\r\r\n\n.\r\n\xff";
    let mut taken = world(vec![Some(chunking())]);
    taken.say(binary).say(b"DATA\r\n").say(&chunk(content, true)).run(false);
    assert_eq!(taken.codes(), [220, 250, 250, 250, 503, 250]);
    assert_eq!((taken.delivered(), taken.judged(0)), (&[content.to_vec()][..], taken.delivered()));
    let commands = text(&taken.nodes[0].as_ref().unwrap().commands).join("|");
    assert!(commands.contains("MAIL FROM:<a@b> BODY=BINARYMIME"), "{commands}");

    let mut one_without = world(vec![Some(chunking()), Some(node())]);
    one_without.say(binary).run(false);
    assert_eq!(one_without.codes(), [220, 250, 555, 250]);
}

#[test]
fn a_chunk_that_is_announced_too_large_is_refused_and_read_over() {
    let mut world = world(vec![Some(chunking())]);
    world.say(ENVELOPE).say(&chunk(b"small\r\n", false)).run(false);
    world.say(&chunk(&[b'a'; 99_994], false)).say(&chunk(b"QUIT\r\n", true)).say(b"NOOP\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 250, 552, 552, 250]);
}

#[test]
fn a_destination_that_is_lost_between_chunks_is_told_at_once() {
    let mut world = world(vec![Some(chunking())]);
    world.say(ENVELOPE).say(&chunk(b"one\r\n", false)).run(false);
    world.session.handle(Input::Closed(Leg::Destination), world.now);
    world.run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 250, 421]);
    assert!(world.session.is_over());
}

#[test]
fn a_spool_that_fails_once_refuses_the_message() {
    let mut world = world(vec![Some(chunking())]);
    world.store_fails = true;
    world.say(ENVELOPE).say(&in_chunks(&[b"one\r\n", b"two\r\n", b"three\r\n"])).say(b"NOOP\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 250, 250, 452, 250]);
    assert_eq!((world.logs[0].failure, world.delivered().len()), (Some(Failure::SpoolFull), 0));
}

#[test]
fn chunks_behind_a_refused_one_get_its_answer_and_are_no_errors() {
    let mut world = world(vec![Some(chunking())]);
    world.say(ENVELOPE).say(&chunk(&[b'a'; 100_001], false));
    for _ in 0..8 {
        world.say(&chunk(b"QUIT\r\n", false));
    }
    world.say(&chunk(b"QUIT\r\n", true)).say(b"RSET\r\n").say(&chunk(b"x", true)).run(false);
    assert_eq!(world.codes()[4..], [&[552; 10][..], &[250, 503]].concat());
}

#[test]
fn a_message_never_goes_without_its_beginning() {
    let mut world = world(vec![Some(chunking())]);
    world
        .say(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@nowhere.invalid>\r\n")
        .say(&chunk(b"first half\r\n", false));
    world.say(b"RCPT TO:<c@d.example>\r\n").say(&chunk(b"second half\r\n", true)).run(false);
    assert_eq!(world.codes()[..5], [220, 250, 250, 550, 554]);
    assert_eq!((world.delivered().len(), world.logs.len()), (0, 0));
    let commands = text(&world.destination.as_ref().unwrap().commands).join("|");
    assert!(commands.contains("RCPT TO:<c@nowhere.invalid>|RSET|RCPT"), "{commands}");
}

#[test]
fn a_line_that_cannot_be_read_and_would_be_a_chunk_ends_the_session() {
    let smuggled = b"MAIL FROM:<x@y>\r\nRCPT TO:<c@d>\r\nDATA\r\nsmuggled\r\n.\r\n";
    for line in [&b"BDAT 60 LAST\x01\r\n"[..], &[b"bdat 60 ", &[b' '; 5000][..], b"\r\n"].concat()] {
        for before in [&b"EHLO x\r\n"[..], &[ENVELOPE, &chunk(b"one\r\n", false)].concat()] {
            let mut world = world(vec![Some(chunking())]);
            world.say(before).say(line).say(smuggled).run(false);
            assert_eq!(world.codes()[world.codes().len() - 2..], [500, 421], "{}", world.heard());
            assert_eq!(world.delivered().len(), 0);
        }
    }
}

#[test]
fn a_node_without_chunking_never_gets_what_could_be_another_end() {
    let mut world = world(vec![Some(node()), Some(node())]);
    world.say(ENVELOPE).say(&chunk(b"a\r", false)).run(false);
    world.say(&chunk(b".\r\nRSET\r\nXCLIENT ADDR=192.0.2.9\r\n", true)).run(false);
    assert_eq!(world.codes().last(), Some(&550));
    for node in world.nodes.iter().flatten() {
        assert!(!node.received.windows(2).any(|two| two[0] == b'\r' && two[1] != b'\n'));
        assert!(!node.received.windows(9).any(|some| some == b"192.0.2.9"));
    }
    let dying = || Some(node().with(Stage::Body, Trouble::Close));
    let mut twice = super::chunks::world(vec![dying(), dying()]);
    twice.say(ENVELOPE).say(&chunk(b"a\nb", false)).run(false);
    twice.say(&chunk(b"c", true)).run(false);
    assert_eq!((twice.codes().last(), twice.logs[0].suspect), (Some(&554), false));
}

#[test]
fn a_node_that_owes_a_chunks_answer_is_not_waited_for_beyond_its_time() {
    let slow = Server::new("250-CHUNKING\r\n250 XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT");
    let mut world = world(vec![Some(slow.with(Stage::Chunk, Trouble::Hang)), Some(chunking())]);
    world.say(ENVELOPE).say(&chunk(b"one\r\n", false)).run(false);
    world.wait(Duration::from_secs(200)).say(&chunk(b"two\r\n", true)).run(false);
    assert_eq!((world.codes().last(), world.logs[0].node_failures.len()), (Some(&250), 1));
    assert_eq!(world.judged(1), [b"one\r\ntwo\r\n"]);
}

#[test]
fn a_stray_reply_is_no_answer_to_a_noop_that_has_not_left() {
    let mut world = world(vec![Some(chunking())]);
    world.say(ENVELOPE).say(&chunk(b"one\r\n", false)).run(false);
    world.stalled = Some(Leg::Destination);
    world.wait(Duration::from_secs(121)).run(false);
    world.session.handle(Input::Bytes(Leg::Destination, b"250 stray\r\n"), world.now);
    world.run(false);
    assert_eq!((world.codes().last(), world.logs[0].outcome), (Some(&421), Outcome::Withheld));
}

fn script() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        Just(&b"text\n.\r\n..\r\n.\r\n"[..]),
        Just(&b""[..]),
        Just(&b"QUIT\r\nMAIL FROM:<x@y>\r\n"[..]),
        Just(&b"a\rb"[..]),
        Just(&b"\r\n.\r\nRSET\r\n"[..]),
    ];
    let piece = prop_oneof![
        Just(ENVELOPE.to_vec()),
        Just(ENVELOPE.to_vec()),
        Just(b"MAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d.example>\r\n".to_vec()),
        Just(b"RSET\r\n".to_vec()),
        Just(b"NOOP\r\n".to_vec()),
        Just(b"DATA\r\n.\r\n".to_vec()),
        Just(b"QUIT\r\n".to_vec()),
        (content.clone(), any::<bool>()).prop_map(|(content, last)| chunk(content, last)),
        (content, any::<bool>()).prop_map(|(content, last)| chunk(content, last)),
    ];
    proptest::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
}

fn played(
    script: &[u8],
    troubles: &[Option<(Stage, Trouble)>; 3],
    second: &'static str,
    cuts: Cuts,
) -> World {
    let with = |mut server: Server, trouble| {
        server.trouble = trouble;
        server
    };
    // Whether a node that lacks CHUNKING fails before that matters depends on when the end of the body comes.
    let trouble = troubles[2].filter(|_| second == NODE_EHLO);
    let nodes = vec![Some(with(chunking(), troubles[1])), Some(with(Server::new(second), trouble))];
    let mut world = World::new(with(Server::new(EHLO), troubles[0]), nodes, settings(), cuts);
    world.say(script).run(true);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// As the property of the same name, with chunks: laws 1, 2, 3 and 8.
    #[test]
    fn the_laws_hold_and_every_split_gives_the_same_session(
        script in script(),
        troubles in [verdict(), verdict(), verdict()],
        second in prop_oneof![Just(NODE_EHLO), Just(super::NODE_EHLO)],
        cuts in proptest::collection::vec(1usize..40, 1..6),
    ) {
        let whole = played(&script, &troubles, second, vec![]);
        prop_assert_eq!(seen(&whole), seen(&played(&script, &troubles, second, cuts)), "cut differently");
        prop_assert_eq!(seen(&whole), seen(&played(&script, &troubles, second, vec![1])), "octet by octet");
        let delivered = whole.logs.iter().filter(|record| record.outcome == Outcome::Delivered).count();
        prop_assert_eq!(whole.heard().matches("250 2.0.0 taken").count(), delivered, "250 is the destination's");
        for message in whole.delivered() {
            let judged = (0..2).any(|node| whole.judged(node).contains(message));
            prop_assert!(judged, "delivered what nobody judged: {}", message.escape_ascii());
        }
    }
}

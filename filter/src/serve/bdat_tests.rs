//! BDAT in a session (RFC 3030).

use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use weir_smtp::bdat::Content;
use weir_smtp::data::{Findings, Stuffer};

use super::session::{Input, Output, Session};
use super::session_tests::{Seen, XCLIENT, codes, outputs, run, said, settings};
use crate::policy::Verdict;

/// XCLIENT, EHLO, MAIL and RCPT; the answers to them.
const ENVELOPE: &str = "EHLO a\r\nXFORWARD IDENT=m1\r\nMAIL FROM:<s@x> BODY=BINARYMIME\r\nRCPT TO:<r@y>\r\n";
const TAKEN: [&str; 6] = ["220", "220", "250", "250", "250", "250"];

/// What is answered after the envelope's answers.
fn after(text: &str) -> (Vec<String>, Seen) {
    let seen = said(&format!("{XCLIENT}{ENVELOPE}{text}"));
    let all = codes(&seen);
    let (envelope, rest) = all.split_at(TAKEN.len());
    assert_eq!(envelope, TAKEN, "{}", seen.replies);
    (rest.iter().map(ToString::to_string).collect(), seen)
}

#[test]
fn chunks_in_flight_are_answered_in_order_and_kept_as_they_are() {
    let (codes, seen) =
        after("BDAT 9\r\nBDAT 1\r\nxBDAT 0\r\nBDAT 7\r\n\r\n.\r\n\r\0BDAT 2 LAST\r\n\n.NOOP\r\nQUIT\r\n");
    assert_eq!(codes, ["250", "250", "250", "250", "250", "221"]);
    assert!(seen.replies.contains("250 2.0.0 9 octets\r\n250 2.0.0 0 octets\r\n"), "{}", seen.replies);
    let (transaction, body) = &seen.messages[0];
    assert_eq!(body, b"BDAT 1\r\nx\r\n.\r\n\r\0\n.");
    let expected = Findings { size: 18, bare_lf: 1, bare_cr: 1, nul: 1, longest_line: 6 };
    assert_eq!((transaction.findings, seen.messages.len()), (expected, 1));
}

#[test]
fn the_last_chunk_may_be_empty_and_a_message_too() {
    let (codes, seen) = after("BDAT 3\r\nabcBDAT 0 last\r\nMAIL FROM:<>\r\nRCPT TO:<r@y>\r\nBDAT 0 LAST\r\n");
    assert_eq!(codes, ["250", "250", "250", "250", "250"]);
    let bodies: Vec<_> = seen.messages.iter().map(|(_, body)| body.as_slice()).collect();
    assert_eq!(bodies, [&b"abc"[..], b""]);
}

#[test]
fn between_chunks_only_what_ends_the_transaction_or_leaves_it_alone_is_in_order() {
    let (codes, seen) = after(
        "BDAT 1\r\naNOOP\r\nMAIL FROM:<>\r\nRCPT TO:<q@y>\r\nDATA\r\nXFORWARD IDENT=x\r\nBDAT 1 LAST\r\nb",
    );
    assert_eq!(codes, ["250", "250", "503", "503", "503", "503", "250"]);
    assert_eq!(seen.messages[0].1, b"ab");
    assert_eq!(seen.messages[0].0.envelope.recipients.len(), 1);
    for reset in ["RSET", "EHLO b"] {
        let (codes, seen) = after(&format!(
            "BDAT 1\r\na{reset}\r\nBDAT 5 LAST\r\nQUIT\nMAIL FROM:<>\r\nRCPT TO:<r@y>\r\nDATA\r\nb\r\n.\r\n"
        ));
        assert_eq!(codes, ["250", "250", "503", "250", "250", "354", "250"], "{}", seen.replies);
        assert_eq!((seen.messages.len(), seen.messages[0].1.as_slice()), (1, &b"b\r\n"[..]));
    }
    let (codes, seen) = after("BDAT 1\r\naQUIT\r\n");
    assert_eq!((codes, seen.messages.len()), (vec!["250".to_string(), "221".into()], 0));
}

#[test]
fn a_chunk_out_of_order_is_read_over_and_its_message_is_never_judged() {
    let early = said("BDAT 6\r\nQUIT\r\nEHLO a\r\nBDAT 6 LAST\r\nQUIT\r\n");
    assert_eq!((codes(&early), early.closed), (vec!["220", "503", "250", "503"], false));
    // Without its first chunk it would be another message.
    let seen = said(&format!(
        "{XCLIENT}EHLO a\r\nMAIL FROM:<>\r\nBDAT 6\r\nQUIT\r\nRCPT TO:<r@y>\r\nDATA\r\nBDAT 6 LAST\r\nQUIT\r\n\
         RSET\r\nMAIL FROM:<>\r\nRCPT TO:<r@y>\r\nBDAT 1 LAST\r\nx"
    ));
    let expected = ["220", "220", "250", "250", "503", "503", "503", "503", "250", "250", "250", "250"];
    assert_eq!(codes(&seen), expected, "{}", seen.replies);
    assert_eq!((seen.messages.len(), seen.messages[0].1.as_slice()), (1, &b"x"[..]));
    let (codes, seen) = after("BDAT 1 LAST\r\nxBDAT 6 LAST\r\nRSET\r\n");
    assert_eq!((codes, seen.messages.len()), (vec!["250".to_string(), "503".into()], 1));
}

#[test]
fn what_data_cannot_carry_is_not_taken_with_data() {
    let (codes, seen) = after("DATA\r\nBDAT 1 LAST\r\n\r");
    assert_eq!(codes, ["503", "250"]);
    assert!(seen.replies.contains("503 5.5.1 BODY=BINARYMIME needs BDAT\r\n"), "{}", seen.replies);
}

#[test]
fn a_chunk_of_unknown_size_closes() {
    for line in ["BDAT", "BDAT x", "BDAT -1", "BDAT 6 LASTLY", "BDAT 99999999999999999999 LAST"] {
        let (codes, seen) = after(&format!("{line}\r\nQUIT\r\n"));
        assert_eq!((codes, seen.closed), (vec!["501".to_string()], true), "{line}");
    }
    let (codes, seen) = after("BDAT 6\0\r\nQUIT\r\n");
    assert_eq!((codes, seen.closed), (vec!["500".to_string()], true));
}

#[test]
fn octets_beyond_the_limit_are_counted_and_not_given_out() {
    let long = "x".repeat(100);
    let (codes, seen) = after(&format!("BDAT 100\r\n{long}BDAT 100 LAST\r\n{long}"));
    assert_eq!(codes, ["250", "250"]);
    // The driver refuses it by its size.
    assert_eq!((seen.messages[0].0.findings.size, seen.messages[0].1.len()), (200, 64));
}

#[test]
fn a_body_that_is_dropped_is_told() {
    let mut session = Session::new(Arc::new(settings()), Box::new(|| "x".into()));
    session.handle(Input::Bytes(format!("{XCLIENT}{ENVELOPE}BDAT 2\r\na").as_bytes()));
    let mut seen = outputs(&mut session);
    assert!(session.transaction().is_some() && !session.is_idle());
    session.handle(Input::Bytes(b"bRSET\r\nRSET\r\nBDAT 2\r\na"));
    assert!(session.transaction().is_none() && !session.is_idle());
    session.handle(Input::Bytes(b"b"));
    assert!(session.is_idle());
    seen.extend(std::iter::from_fn(|| session.poll()));
    let count = |wanted: &Output| seen.iter().filter(|output| *output == wanted).count();
    assert_eq!((count(&Output::BodyBegins), count(&Output::BodyDropped)), (1, 1));
}

/// Bodies in which everything that could be taken for an end or a command is likely.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(&b"\r\n.\r\n"[..]),
        Just(&b"\n"[..]),
        Just(&b"\r"[..]),
        Just(&b"\0"[..]),
        Just(&b"."[..]),
        Just(&b"text"[..]),
        Just(&b"line\r\n"[..]),
        Just(&b"\r\nBDAT 3 LAST\r\n"[..]),
        Just(&b"\xff\x80"[..]),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// What DATA can carry.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let line =
        prop_oneof![Just("\r\n"), Just(".\r\n"), Just("..\r\n"), Just("BDAT 3 LAST\r\n"), Just("\0\r\n")];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat().into_bytes())
}

type Cuts = Vec<prop::sample::Index>;

fn cuts() -> impl Strategy<Value = Cuts> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..12)
}

fn cut<'a>(octets: &'a [u8], cuts: &Cuts) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(octets.len() + 1)).collect();
    cuts.extend([0, octets.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|ends| &octets[ends[0]..ends[1]]).collect()
}

/// A session with one message in these chunks, its LAST on the last of them or on an empty one.
fn wire(chunks: &[&[u8]], id: &str, last_is_empty: bool) -> Vec<u8> {
    let envelope = ENVELOPE.replace("m1", id);
    let mut wire = [XCLIENT, &envelope].concat().into_bytes();
    for (at, chunk) in chunks.iter().enumerate() {
        let last = if at + 1 == chunks.len() && !last_is_empty { " LAST" } else { "" };
        wire.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
    }
    wire.extend_from_slice(if last_is_empty { b"BDAT 0 LAST\r\nQUIT\r\n" } else { b"QUIT\r\n" });
    wire
}

proptest! {
    #[test]
    fn however_a_body_is_cut_and_its_wire_split_the_message_is_the_same(
        body in bodies(), chunks in cuts(), splits in cuts(), refused: bool, last_is_empty: bool,
    ) {
        let id = if refused { "m9" } else { "m1" };
        let chunks = cut(&body, &chunks);
        let wire = wire(&chunks, id, last_is_empty);
        let seen = run(cut(&wire, &splits));
        prop_assert_eq!(&run([wire.as_slice()]), &seen);
        prop_assert_eq!(&run(wire.chunks(1)), &seen);

        let mut content = Content::default();
        content.scan(&body);
        let (transaction, octets) = &seen.messages[0];
        prop_assert_eq!(transaction.findings, content.findings());
        prop_assert_eq!(octets, &body[..body.len().min(64)]);
        let codes = codes(&seen);
        let verdict = if refused { "451" } else { "250" };
        prop_assert!(codes.starts_with(&TAKEN) && codes.ends_with(&[verdict, "221"]));
        prop_assert_eq!(codes.len(), TAKEN.len() + chunks.len() + usize::from(last_is_empty) + 1);
    }

    #[test]
    fn lines_are_the_same_message_with_data_and_in_chunks(body in lines(), chunks in cuts()) {
        let (mut stuffer, mut stuffed) = (Stuffer::default(), BytesMut::new());
        stuffer.stuff(&body, &mut stuffed);
        stuffed.extend_from_slice(stuffer.end());
        let envelope = ENVELOPE.replace("BINARYMIME", "8BITMIME");
        let data = run([XCLIENT.as_bytes(), envelope.as_bytes(), b"DATA\r\n", &stuffed]);
        let bdat = run([XCLIENT.as_bytes(), &wire(&cut(&body, &chunks), "m1", false)[XCLIENT.len()..]]);
        prop_assert_eq!(&data.messages[0].1, &bdat.messages[0].1);
        prop_assert_eq!(data.messages[0].0.findings, bdat.messages[0].0.findings);
    }
}

#[test]
fn a_verdict_holds_back_what_follows_the_last_chunk() {
    let mut session = Session::new(Arc::new(settings()), Box::new(|| "x".into()));
    let input = format!("{XCLIENT}{ENVELOPE}BDAT 1 LAST\r\naBDAT 6\r\nQUIT\r\n");
    session.handle(Input::Bytes(input.as_bytes()));
    let last = outputs(&mut session).pop();
    assert!(matches!(last, Some(Output::Judge(_))), "{last:?}");
    session.handle(Input::Judged(&Verdict::Accept));
    let replies: Vec<_> = std::iter::from_fn(|| session.poll()).collect();
    assert_eq!(replies.len(), 2, "{replies:?}");
    assert!(session.is_idle());
}

use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use weir_smtp::xclient::Protocol;

use super::session::{Input, Output, Session, Settings, StartTls};
use crate::message::{Customer, Transaction};
use crate::policy::script::Context;
use crate::policy::{Refusal, Verdict};

pub(super) const XCLIENT: &str =
    "XCLIENT ADDR=10.1.0.2 PORT=4000 PROTO=ESMTP HELO=host.example DESTADDR=10.9.0.2 DESTPORT=25\r\n";
pub(super) const MESSAGE: &str = "EHLO a\r\nXFORWARD IDENT=m1\r\nMAIL FROM:<s@x>\r\nRCPT TO:<r@y>\r\nDATA\r\nSubject: 1\r\n\r\n..dot\r\n.\r\n";

pub(super) fn settings() -> Settings {
    Settings {
        name: "node".into(),
        max_message_size: 64,
        max_recipients: 2,
        max_command_line: 128,
        starttls: StartTls::Off,
    }
}

/// What a session did: its replies, and the messages it gave out with their bodies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) replies: String,
    pub(super) messages: Vec<(Transaction, Vec<u8>)>,
    /// What it asked about before, and how many recipients there were then.
    pub(super) asked: Vec<(&'static str, usize)>,
    /// STARTTLS was taken.
    pub(super) handshakes: u32,
    pub(super) closed: bool,
}

pub(super) fn session(settings: Settings) -> Session {
    let mut count = 0;
    let make_id = move || {
        count += 1;
        format!("made{count}")
    };
    Session::new(Arc::new(settings), Box::new(make_id))
}

/// Runs a session on chunks; every message whose id ends in `9`, and every address that begins with it, is refused.
pub(super) fn run<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut session = session(settings());
    let mut seen = Seen::default();
    let mut body = BytesMut::new();
    settle(&mut session, &mut seen, &mut body);
    for chunk in chunks {
        session.handle(Input::Bytes(chunk));
        settle(&mut session, &mut seen, &mut body);
    }
    seen
}

pub(super) fn settle(session: &mut Session, seen: &mut Seen, body: &mut BytesMut) {
    while let Some(output) = session.poll() {
        match output {
            Output::Write(octets) => seen.replies.push_str(std::str::from_utf8(&octets).unwrap()),
            Output::BodyBegins | Output::BodyDropped => body.clear(),
            Output::Body(octets) => body.extend_from_slice(&octets),
            Output::Judge(transaction) => {
                let verdict = if transaction.id.ends_with('9') {
                    Verdict::Refuse(Refusal::defer("rule", "no"))
                } else {
                    Verdict::Accept
                };
                seen.messages.push((*transaction, body.split().to_vec()));
                session.handle(Input::Judged(&verdict));
            }
            Output::Ask(context) => {
                let asked = session.asked().unwrap();
                seen.asked.push((context.name(), asked.envelope.recipients.len()));
                let path = match context {
                    Context::Connect => &asked.envelope.sender.path,
                    Context::Rcpt | Context::Data => &asked.envelope.recipients.last().unwrap().path,
                };
                let refused = path.as_bytes().starts_with(b"9");
                let refusal = || Verdict::Refuse(Refusal::defer("rule", "no"));
                session.handle(Input::Judged(&if refused { refusal() } else { Verdict::Accept }));
            }
            Output::StartTls => seen.handshakes += 1,
            Output::Close => seen.closed = true,
        }
    }
}

/// All that it wants done by now; senders and recipients are accepted.
pub(super) fn outputs(session: &mut Session) -> Vec<Output> {
    let mut outputs = Vec::new();
    while let Some(output) = session.poll() {
        if matches!(output, Output::Ask(_)) {
            session.handle(Input::Judged(&Verdict::Accept));
        }
        outputs.push(output);
    }
    outputs
}

pub(super) fn said(text: &str) -> Seen {
    run([text.as_bytes()])
}

pub(super) fn codes(seen: &Seen) -> Vec<&str> {
    seen.replies.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect()
}

#[test]
fn a_message_is_the_customers_and_carries_the_proxys_id() {
    let seen = said(&format!("EHLO proxy\r\n{XCLIENT}{MESSAGE}QUIT\r\n"));
    assert_eq!(codes(&seen), ["220", "250", "220", "250", "250", "250", "250", "354", "250", "221"]);
    assert!(seen.replies.contains("250 2.0.0 accepted (m1)\r\n"), "{}", seen.replies);
    let (transaction, body) = &seen.messages[0];
    assert_eq!(transaction.customer.address.to_string(), "10.1.0.2");
    assert_eq!(transaction.customer.helo.as_deref(), Some("host.example"));
    assert_eq!(transaction.customer.destination.unwrap().to_string(), "10.9.0.2:25");
    assert_eq!(body, b"Subject: 1\r\n\r\n.dot\r\n");
    assert_eq!(transaction.findings.size, body.len() as u64);
    assert!(seen.closed);
}

#[test]
fn a_sender_or_recipient_that_is_refused_is_not_taken_and_is_no_error() {
    let refused = "MAIL FROM:<9@x>\r\n".repeat(30);
    let seen = said(&format!(
        "{XCLIENT}EHLO a\r\n{refused}RCPT TO:<r@y>\r\nXFORWARD IDENT=m1\r\nMAIL FROM:<s@x>\r\nRCPT TO:<9@y>\r\nRCPT TO:<r@y>\r\n\
         RCPT TO:<9@z>\r\nDATA\r\n.\r\n"
    ));
    let mut expected = vec!["220", "220", "250"];
    expected.extend(["451"; 30]);
    expected.extend(["503", "250", "250", "451", "250", "451", "354", "250"]);
    assert_eq!(codes(&seen), expected);
    assert!(seen.replies.contains("451 4.7.1 no (m1)\r\n"), "{}", seen.replies);
    assert_eq!(seen.messages[0].0.envelope.recipients.len(), 1);
    assert_eq!(seen.asked[30..], [("connect", 0), ("rcpt", 1), ("rcpt", 1), ("rcpt", 2)]);
}

#[test]
fn an_envelope_that_is_quit_is_no_message_that_was_cut_short() {
    let mut session = session(settings());
    let input = format!("{XCLIENT}EHLO a\r\nMAIL FROM:<s@x>\r\nRCPT TO:<r@y>\r\nQUIT\r\n");
    session.handle(Input::Bytes(input.as_bytes()));
    outputs(&mut session);
    assert!(session.transaction().is_none());
}

#[test]
fn ehlo_announces_what_is_understood_and_no_starttls() {
    let seen = said("EHLO proxy\r\n");
    assert_eq!(
        seen.replies,
        "220 node ESMTP weir-filter\r\n250-node\r\n250-PIPELINING\r\n250-SIZE 64\r\n250-8BITMIME\r\n250-BINARYMIME\r\n\
         250-CHUNKING\r\n250-SMTPUTF8\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250-XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT\r\n\
         250-XCLIENT-REPEATED\r\n250 XFORWARD IDENT\r\n"
    );
}

#[test]
fn mail_without_xclient_is_refused_and_nothing_of_it_is_judged() {
    let seen = said("EHLO p\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    assert_eq!(codes(&seen), ["220", "250", "503", "503", "503"]);
    assert!(seen.replies.contains("XCLIENT with ADDR first"), "{}", seen.replies);
    assert!(seen.messages.is_empty());
    for useless in
        ["XCLIENT HELO=x\r\n", "XCLIENT ADDR=[UNAVAILABLE]\r\n", "XCLIENT ADDR=x\r\n", "XCLIENT\r\n"]
    {
        assert_eq!(
            codes(&said(&format!("{useless}EHLO p\r\nMAIL FROM:<a@b>\r\n"))),
            ["220", "501", "250", "503"]
        );
    }
}

#[test]
fn xclient_resets_and_is_taken_outside_of_transactions_only() {
    // EHLO is needed again, and an id said before is gone.
    let early = said(&format!("EHLO p\r\nXFORWARD IDENT=old\r\n{XCLIENT}MAIL FROM:<a@b>\r\n"));
    assert_eq!(codes(&early), ["220", "250", "250", "220", "503"]);
    let inside = said(&format!("{XCLIENT}EHLO a\r\nMAIL FROM:<>\r\n{XCLIENT}XFORWARD IDENT=x\r\n"));
    assert_eq!(codes(&inside), ["220", "220", "250", "250", "503", "503"]);
    // The customer's own EHLO stands where XCLIENT had no HELO.
    let helo =
        said("XCLIENT ADDR=IPV6:fd01::2\r\nEHLO mine\r\nMAIL FROM:<>\r\nRCPT TO:<r@y>\r\nDATA\r\n.\r\n");
    assert_eq!(helo.messages[0].0.customer.helo.as_deref(), Some("mine"));
    assert_eq!(helo.messages[0].0.customer.address.to_string(), "fd01::2");
}

/// Another XCLIENT is another customer's, also one that is not understood: no mail after it is that of the one before.
#[test]
fn a_customer_ends_with_the_next_xclient() {
    let next = "XCLIENT ADDR=10.1.0.3 PROTO=SMTP\r\nHELO b\r\nMAIL FROM:<>\r\nRCPT TO:<r@y>\r\nDATA\r\n.\r\n";
    let seen = said(&format!("{XCLIENT}{MESSAGE}XFORWARD IDENT=old\r\n{next}"));
    assert_eq!(codes(&seen)[8..], ["250", "220", "250", "250", "250", "354", "250"], "{}", seen.replies);
    let [(first, _), (second, _)] = &seen.messages[..] else { panic!("{:?}", seen.messages) };
    assert_eq!(first.customer.address.to_string(), "10.1.0.2");
    let next = Customer {
        address: [10, 1, 0, 3].into(),
        port: None,
        helo: Some("b".into()),
        protocol: Some(Protocol::Smtp),
        destination: None,
    };
    assert_eq!((&second.customer, second.id.as_str()), (&next, "made1"));
    let wrong = said(&format!("{XCLIENT}EHLO a\r\nXCLIENT ADDR=x\r\nEHLO a\r\nMAIL FROM:<>\r\n"));
    assert_eq!(codes(&wrong), ["220", "220", "250", "501", "250", "503"]);
}

#[test]
fn an_id_lives_for_one_transaction() {
    let second = "MAIL FROM:<>\r\nRCPT TO:<r@y>\r\nDATA\r\n.\r\n";
    let seen = said(&format!("{XCLIENT}{MESSAGE}{second}EHLO a\r\nXFORWARD IDENT=m9\r\n{second}"));
    let ids: Vec<_> = seen.messages.iter().map(|(transaction, _)| transaction.id.as_str()).collect();
    assert_eq!(ids, ["m1", "made1", "m9"]);
    assert!(seen.replies.ends_with("451 4.7.1 no (m9)\r\n"), "{}", seen.replies);
    let reset = said(&format!("{XCLIENT}EHLO a\r\nXFORWARD IDENT=m1\r\nRSET\r\n{second}"));
    assert_eq!(reset.messages[0].0.id, "made1");
}

#[test]
fn limits_hold() {
    let long = "x".repeat(200);
    let seen = said(&format!(
        "{XCLIENT}EHLO a\r\nMAIL FROM:<a@b> SIZE=65\r\nMAIL FROM:<a@b> FOO=1\r\n\
         MAIL FROM:<a@b> SIZE=64 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=x\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\n\
         RCPT TO:<>\r\nRCPT TO:<e@f>\r\nRCPT TO:<g@h>\r\nDATA\r\n{long}\r\n.\r\nNOOP\r\n"
    ));
    let expected =
        ["220", "220", "250", "552", "555", "250", "250", "501", "250", "452", "354", "250", "250"];
    assert_eq!(codes(&seen), expected);
    // The driver refuses it by its size; no more than the limit was given out.
    let (transaction, body) = &seen.messages[0];
    assert_eq!((transaction.findings.size, body.len()), (202, 64));
    for unreadable in [format!("NOOP {long}"), "NOOP \0".into()] {
        let seen = said(&format!("{unreadable}\r\nNOOP\r\n"));
        assert_eq!((codes(&seen), seen.closed), (vec!["220", "500"], true));
    }
}

#[test]
fn what_is_not_offered_is_refused() {
    let seen = said("STARTTLS\r\nAUTH PLAIN x\r\nVRFY a\r\nFOO\r\nDATA\r\n");
    assert_eq!(codes(&seen), ["220", "502", "502", "502", "500", "503"]);
    let wrong = said(&"FOO\r\n".repeat(100));
    assert!(wrong.closed && wrong.replies.ends_with("421 4.7.0 too many errors, closing\r\n"));
    assert_eq!(codes(&wrong).len(), 22);
}

#[test]
fn a_stop_waits_for_the_transaction() {
    let mut session = Session::new(Arc::new(settings()), Box::new(|| "x".into()));
    assert!(session.is_idle());
    session.handle(Input::Bytes(format!("{XCLIENT}EHLO a\r\nMAIL FROM:<a@b>\r\n").as_bytes()));
    assert!(!session.is_idle() && session.transaction().is_some());
    session.handle(Input::Bytes(b"RCPT TO:<c@d>\r\nDATA\r\nx\r\n"));
    outputs(&mut session);
    assert!(!session.is_idle());
    session.handle(Input::Bytes(b".\r\n"));
    session.handle(Input::Judged(&Verdict::Accept));
    assert!(session.is_idle());
    session.handle(Input::Shutdown);
    let outputs: Vec<_> = std::iter::from_fn(|| session.poll()).collect();
    assert_eq!(outputs.last(), Some(&Output::Close));
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(XCLIENT.to_string()),
        Just(MESSAGE.to_string()),
        Just("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nx\r\n..\r\n.\r\n".to_string()),
        Just("DATA\r\n\n.\n\r.\r\r\n.\r\n".to_string()),
        Just("XFORWARD IDENT=a+20b9\r\n".to_string()),
        Just("EHLO b\r\n".to_string()),
        Just("RSET\r\n".to_string()),
        Just("NOOP\n".to_string()),
        Just(
            "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\n\r\nDBDAT 0\r\nBDAT 5 LAST\r\n\r\n.\r\n"
                .to_string()
        ),
        Just("BDAT 6\r\nRSET\r\n".to_string()),
        Just("BDAT 0 LAST\r\n".to_string()),
        Just("MAIL FROM:<9@b>\r\nRCPT TO:<c@d>\r\n".to_string()),
        Just("MAIL FROM:<a@b>\r\nRCPT TO:<9@d>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n".to_string()),
        "[A-Z ]{0,150}\r\n",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("{XCLIENT}EHLO a\r\n{}", pieces.concat()))
}

/// After which no transaction is under way.
fn whole_pieces() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        MESSAGE,
        "MAIL FROM:<s@x>\r\nRCPT TO:<r@y>\r\nBDAT 3 LAST\r\n.\r\n",
        "MAIL FROM:<9@x>\r\n",
        "MAIL FROM:<s@x>\r\nRCPT TO:<9@y>\r\nRSET\r\n",
        "EHLO a\r\n",
        "XFORWARD IDENT=m9\r\n",
        "NOOP\r\n",
    ])
}

proptest! {
    #[test]
    fn every_split_of_an_input_gives_the_same_outputs(
        input in pieces(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|ends| &input.as_bytes()[ends[0]..ends[1]]);
        let whole = said(&input);
        prop_assert_eq!(&run(chunks), &whole);
        prop_assert_eq!(run(input.as_bytes().chunks(1)), whole);
    }

    /// Nothing goes over from one customer to the next.
    #[test]
    fn customers_on_one_connection_are_as_on_connections_of_their_own(
        parts in prop::collection::vec((1u8..4, prop::collection::vec(whole_pieces(), 0..5)), 1..5),
    ) {
        let parts: Vec<String> = parts
            .into_iter()
            .map(|(customer, pieces)| format!("XCLIENT ADDR=10.1.0.{customer} HELO=h\r\n{}", pieces.concat()))
            .collect();
        let (together, apart) = (said(&parts.concat()), parts.iter().map(|part| said(part)).collect::<Vec<_>>());
        let codes_apart = apart.iter().flat_map(|seen| codes(seen).into_iter().skip(1));
        prop_assert_eq!(codes(&together).into_iter().skip(1).collect::<Vec<_>>(), codes_apart.collect::<Vec<_>>());
        let of = |seen: &Seen| {
            let without_id = |(transaction, body): &(Transaction, Vec<u8>)| {
                (transaction.customer.clone(), transaction.envelope.clone(), body.clone())
            };
            seen.messages.iter().map(without_id).collect::<Vec<_>>()
        };
        prop_assert_eq!(of(&together), apart.iter().flat_map(of).collect::<Vec<_>>());
        prop_assert_eq!(&together.asked, &apart.iter().flat_map(|seen| seen.asked.clone()).collect::<Vec<_>>());
    }

    #[test]
    fn no_input_panics(input in prop::collection::vec(any::<u8>(), 0..500)) {
        let _ = run([input.as_slice()]);
    }
}

#[test]
fn a_transaction_that_is_cut_short_is_not_forgotten() {
    let mut session = Session::new(Arc::new(settings()), Box::new(|| "x".into()));
    let input = format!("{XCLIENT}EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhalf");
    session.handle(Input::Bytes(input.as_bytes()));
    outputs(&mut session);
    session.handle(Input::TimedOut);
    assert!(session.transaction().is_some());
}

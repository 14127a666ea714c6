//! STARTTLS: what is said in clear, and what counts in TLS.

use bytes::BytesMut;
use proptest::prelude::*;

use super::Node;
use super::session::{Input, Settings, StartTls};
use super::session_tests::{MESSAGE, Seen, XCLIENT, codes, said, session, settings, settle};

const STARTTLS: &str = "STARTTLS\r\n";

fn with(starttls: StartTls) -> Settings {
    Settings { starttls, ..settings() }
}

/// `clear` in chunks, and once STARTTLS is taken `inside` in chunks.
fn run<'a>(
    starttls: StartTls,
    clear: impl IntoIterator<Item = &'a [u8]>,
    inside: impl IntoIterator<Item = &'a [u8]>,
) -> Seen {
    let (mut session, mut seen, mut body) = (session(with(starttls)), Seen::default(), BytesMut::new());
    settle(&mut session, &mut seen, &mut body);
    for chunk in clear {
        session.handle(Input::Bytes(chunk));
        settle(&mut session, &mut seen, &mut body);
    }
    if seen.handshakes > 0 {
        session.handle(Input::Secured);
    }
    for chunk in inside {
        session.handle(Input::Bytes(chunk));
        settle(&mut session, &mut seen, &mut body);
    }
    seen
}

fn talk(starttls: StartTls, clear: &str, inside: &str) -> Seen {
    run(starttls, [clear.as_bytes()], [inside.as_bytes()])
}

#[test]
fn ehlo_announces_it_in_clear_and_xclient_where_it_is_taken() {
    for (starttls, in_clear) in [(StartTls::Offered, true), (StartTls::Required, false)] {
        let clear = talk(starttls, "EHLO p\r\n", "").replies;
        assert!(clear.contains("250-STARTTLS\r\n") || clear.ends_with("250 STARTTLS\r\n"), "{clear}");
        assert_eq!((clear.contains("XCLIENT"), clear.contains("XFORWARD")), (in_clear, in_clear), "{clear}");
        let both = talk(starttls, STARTTLS, "EHLO p\r\n").replies;
        let inside = both.strip_prefix("220 node ESMTP weir-filter\r\n220 2.0.0 ready for TLS\r\n").unwrap();
        assert_eq!(
            inside,
            said("EHLO p\r\n").replies.strip_prefix("220 node ESMTP weir-filter\r\n").unwrap()
        );
    }
}

#[test]
fn in_tls_the_session_is_new() {
    let inside = format!("MAIL FROM:<a@b>\r\n{XCLIENT}MAIL FROM:<a@b>\r\n{MESSAGE}STARTTLS\r\n");
    let seen =
        talk(StartTls::Offered, &format!("{XCLIENT}EHLO a\r\nXFORWARD IDENT=old\r\n{STARTTLS}"), &inside);
    let expected = [
        "220", "220", "250", "250", "220", // in clear
        "503", "220", "503", "250", "250", "250", "250", "354", "250", "503",
    ];
    assert_eq!(codes(&seen), expected, "{}", seen.replies);
    assert_eq!((seen.messages.len(), seen.messages[0].0.id.as_str()), (1, "m1"));
}

#[test]
fn where_it_is_required_nothing_is_said_of_customers_in_clear() {
    let clear = format!("EHLO p\r\n{XCLIENT}XFORWARD IDENT=x\r\nMAIL FROM:<a@b>\r\nNOOP\r\n{STARTTLS}");
    let seen = talk(StartTls::Required, &clear, &format!("{XCLIENT}{MESSAGE}"));
    assert_eq!(codes(&seen)[..7], ["220", "250", "530", "530", "530", "250", "220"]);
    assert!(seen.replies.contains("530 5.7.0 STARTTLS first\r\n"));
    assert_eq!(seen.messages.len(), 1);
    // Where it is only offered, proxies that cannot do it are served as ever.
    assert_eq!(talk(StartTls::Offered, &format!("{XCLIENT}{MESSAGE}"), "").messages.len(), 1);
}

#[test]
fn it_is_refused_where_it_makes_no_sense() {
    let inside_mail = talk(StartTls::Offered, &format!("{XCLIENT}EHLO a\r\nMAIL FROM:<>\r\n{STARTTLS}"), "");
    assert_eq!((codes(&inside_mail).last(), inside_mail.handshakes), (Some(&"503"), 0));
    let off = talk(StartTls::Off, STARTTLS, "");
    assert_eq!((codes(&off), off.handshakes), (vec!["220", "502"], 0));
}

#[test]
fn silence_and_a_stop_in_the_handshake_end_it() {
    let mut session = session(with(StartTls::Required));
    session.handle(Input::Bytes(STARTTLS.as_bytes()));
    assert!(!session.is_idle(), "a farewell in clear would break the handshake");
    // Nothing but the driver's word turns TLS on.
    let (mut seen, mut body) = (Seen::default(), BytesMut::new());
    session.handle(Input::Bytes(XCLIENT.as_bytes()));
    settle(&mut session, &mut seen, &mut body);
    assert!(seen.closed && codes(&seen) == ["220", "220", "503"], "{}", seen.replies);
}

#[test]
fn files_that_will_not_do_are_named_with_their_key() {
    let no_pem = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (certificate, reason) in [
        ("/nonexistent/node.pem", "smtp.tls.certificate: /nonexistent/node.pem: No such file".to_owned()),
        (no_pem, format!("smtp.tls.certificate: {no_pem} has no certificate in PEM")),
    ] {
        let text = format!(
            "[smtp]\nlisten = [\"127.0.0.1:0\"]\nproxies = [\"127.0.0.1/32\"]\n[smtp.tls]\n\
             certificate = {certificate:?}\nkey = \"/nonexistent/node.key\"\n"
        );
        let error = Node::new(&weir_daemon::config::parse("test", &text).unwrap()).unwrap_err();
        assert!(format!("{error:#}").starts_with(&reason), "{error:#}");
    }
}

fn cut(text: &str, at: &[prop::sample::Index]) -> Vec<usize> {
    let mut cuts: Vec<_> = at.iter().map(|at| at.index(text.len() + 1)).chain([0, text.len()]).collect();
    cuts.sort_unstable();
    cuts
}

proptest! {
    /// However the clear part and what comes in TLS are split.
    #[test]
    fn every_split_gives_the_same_outputs(
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        required in any::<bool>(),
    ) {
        let starttls = if required { StartTls::Required } else { StartTls::Offered };
        let clear = format!("EHLO p\r\n{XCLIENT}MAIL FROM:<a@b>\r\nRSET\r\nXFORWARD IDENT=x\r\n{STARTTLS}");
        let inside = format!("EHLO p\r\n{XCLIENT}{MESSAGE}{MESSAGE}STARTTLS\r\nQUIT\r\n");
        let (first, second) = (cut(&clear, &at), cut(&inside, &at));
        let split = run(
            starttls,
            first.windows(2).map(|ends| &clear.as_bytes()[ends[0]..ends[1]]),
            second.windows(2).map(|ends| &inside.as_bytes()[ends[0]..ends[1]]),
        );
        prop_assert_eq!(&split, &talk(starttls, &clear, &inside));
        prop_assert_eq!((split.messages.len(), split.handshakes, split.closed), (2, 1, true));
    }

    /// Whatever is behind STARTTLS in clear is never obeyed (CVE-2011-0411), however it comes.
    #[test]
    fn what_is_put_behind_it_ends_the_session(
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        required in any::<bool>(),
    ) {
        let starttls = if required { StartTls::Required } else { StartTls::Offered };
        let injected = format!("EHLO p\r\n{STARTTLS}{XCLIENT}{MESSAGE}");
        let mut session = session(with(starttls));
        let (mut seen, mut body) = (Seen::default(), BytesMut::new());
        for ends in cut(&injected, &at).windows(2) {
            session.handle(Input::Bytes(&injected.as_bytes()[ends[0]..ends[1]]));
            settle(&mut session, &mut seen, &mut body);
        }
        prop_assert!(seen.closed && seen.messages.is_empty());
        prop_assert!(seen.replies.ends_with("503 5.5.1 commands behind STARTTLS, closing\r\n"));
    }
}

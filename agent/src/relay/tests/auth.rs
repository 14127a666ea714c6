//! AUTH, and customers that want TLS.

use super::server::{Server, Stage, Trouble};
use super::world::{EHLO, World, settings};
use super::{BODY, ENVELOPE, node, text};
use crate::relay::Notice;
use crate::relay::settings::Settings;

const WITH_AUTH: &str = "250-PIPELINING\r\n250 AUTH PLAIN LOGIN";
const WITH_BOTH: &str = "250-STARTTLS\r\n250 AUTH PLAIN LOGIN";

fn with(ehlo: &'static str, settings: Settings) -> World {
    World::new(Server::new(ehlo), vec![Some(node())], settings, vec![])
}

#[test]
fn an_exchange_is_passed_on_line_by_line() {
    let mut world = with(WITH_AUTH, settings());
    world.say(b"EHLO x\r\nAUTH LOGIN\r\n").run(false);
    // These look like commands and are none.
    world.say(b"QUIT\r\n").run(false);
    world.say(b"XCLIENT\r\nMAIL FROM:<a@b>\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 334, 334, 235, 250]);
    assert_eq!(
        text(&world.destination.as_ref().unwrap().commands),
        ["EHLO x", "AUTH LOGIN", "QUIT", "XCLIENT", "MAIL FROM:<a@b>"]
    );
}

#[test]
fn an_unusable_line_cancels_the_exchange() {
    let mut world = with(WITH_AUTH, settings());
    world.say(b"EHLO x\r\nAUTH LOGIN\r\na\0b\r\nNOOP\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 334, 501, 250]);
    assert_eq!(text(&world.destination.as_ref().unwrap().commands), ["EHLO x", "AUTH LOGIN", "*", "NOOP"]);
}

#[test]
fn auth_is_not_offered_where_tls_was_removed() {
    let mut world = with(WITH_BOTH, settings());
    world.say(b"EHLO x\r\nAUTH PLAIN AGEAYg==\r\nMAIL FROM:<a@b> AUTH=<>\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 538, 555]);
    assert!(!world.heard().contains("AUTH PLAIN LOGIN"));

    let mut wanted = with(WITH_BOTH, Settings { auth_in_clear: true, ..settings() });
    wanted.say(b"EHLO x\r\nAUTH LOGIN\r\n*\r\n").run(false);
    assert_eq!(wanted.codes(), [220, 250, 334, 501]);
    let mut none = with("250 HELP", settings());
    none.say(b"EHLO x\r\nAUTH LOGIN\r\n").run(false);
    assert_eq!(none.codes(), [220, 250, 502]);
}

#[test]
fn customers_that_want_tls_are_noticed_once() {
    for script in [&b"EHLO x\r\nSTARTTLS\r\nSTARTTLS\r\nQUIT\r\n"[..], b"EHLO x\r\nQUIT\r\n", b"EHLO x\r\n"] {
        let mut world = with(EHLO, settings());
        world.say(script);
        world.customer_leaves = true;
        world.run(false);
        assert_eq!(world.noticed, [Notice::WantedTls], "{}", script.escape_ascii());
    }
    let mut sends = with(EHLO, settings());
    sends.say(ENVELOPE).run(false);
    sends.say(BODY).say(b"QUIT\r\n").run(false);
    let mut none = with(WITH_AUTH, settings());
    none.say(b"EHLO x\r\nSTARTTLS\r\nQUIT\r\n").run(false);
    assert_eq!((sends.noticed.len(), none.noticed.len()), (0, 0));
}

#[test]
fn a_refused_auth_ends_no_session() {
    let destination = Server::new(WITH_AUTH).with(Stage::Auth, Trouble::Say("535 5.7.8 no"));
    let mut world = World::new(destination, vec![Some(node())], settings(), vec![]);
    world.say(b"EHLO x\r\nAUTH LOGIN\r\nNOOP\r\n").run(false);
    assert_eq!(world.codes(), [220, 250, 535, 250]);
}

//! Nodes that announce XFORWARD and no XCLIENT.

use super::server::{Server, Stage, Trouble};
use super::{CONTENT, node, one_message, text};

/// What amavisd-new announces.
const EHLO: &str = "250-PIPELINING\r\n250-8BITMIME\r\n250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE";

fn forwarding() -> Server {
    Server::new(EHLO)
}

#[test]
fn the_customer_is_said_before_the_envelope() {
    let world = one_message(vec![Some(forwarding())]);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221]);
    assert_eq!((world.delivered(), world.judged(0)), (&[CONTENT.to_vec()][..], &[CONTENT.to_vec()][..]));
    assert_eq!(
        text(&world.nodes[0].as_ref().unwrap().commands),
        [
            "EHLO agent.example",
            "XFORWARD NAME=[UNAVAILABLE] ADDR=10.1.0.2 PORT=40001 HELO=mail.example IDENT=000000000000-1 PROTO=ESMTP \
             SOURCE=REMOTE",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<c@d.example>",
            "DATA",
            "QUIT",
        ]
    );
}

/// Neither what it says nor its silence is a verdict, and it gets nothing of the message.
#[test]
fn a_node_that_does_not_take_the_customer_failed() {
    for said in ["550 5.7.1 not you", "450 4.7.1 later", "501 syntax", "421 down", "220 what", "354 ?"] {
        let refusing = forwarding().with(Stage::Xforward, Trouble::Say(said));
        let world = one_message(vec![Some(refusing), Some(node())]);
        assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250, 221], "{said}");
        assert_eq!((world.delivered().len(), world.judged(1).len()), (1, 1));
        assert!(!text(&world.nodes[0].as_ref().unwrap().commands).join("|").contains("MAIL"), "{said}");
        assert!(!world.logs[0].suspect);
    }
    let mut without = forwarding();
    without.ehlo = "250-PIPELINING\r\n250 XFORWARD NAME IDENT";
    let world = one_message(vec![Some(without)]);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 451, 221]);
    assert_eq!(text(&world.nodes[0].as_ref().unwrap().commands), ["EHLO agent.example"]);
}

#[test]
fn a_node_that_has_both_is_told_by_xclient() {
    let mut both = node();
    both.ehlo = "250-XCLIENT ADDR HELO\r\n250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE";
    let world = one_message(vec![Some(both)]);
    assert_eq!(
        text(&world.nodes[0].as_ref().unwrap().commands)[1..4],
        ["XCLIENT ADDR=10.1.0.2 HELO=mail.example", "EHLO mail.example", "XFORWARD IDENT=000000000000-1"]
    );
}

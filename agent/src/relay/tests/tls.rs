//! TLS with the destination and with nodes.

use super::server::{Server, Stage, Trouble};
use super::world::{EHLO, World, settings};
use super::{BODY, CONTENT, ENVELOPE, node, text};
use crate::config::DestinationTls;
use crate::relay::settings::Settings;
use crate::relay::{Input, Leg};

const IN_CLEAR: [&str; 4] =
    ["EHLO mail.example", "MAIL FROM:<a@b.example> SIZE=10", "RCPT TO:<c@d.example>", "DATA"];

fn with(destination: Server, settings: Settings) -> World {
    World::new(destination, vec![Some(node())], settings, vec![])
}

#[test]
fn starttls_is_said_where_it_is_offered_and_ehlo_again_inside() {
    let mut world = with(Server::new(EHLO), settings());
    world.say(ENVELOPE).say(BODY).run(false);
    assert_eq!(world.connections_secured, 1);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250]);
    assert_eq!(world.logs[0].tls, "TLS");
    // A second EHLO of the customer begins no second TLS.
    world.say(ENVELOPE).say(BODY).run(false);
    assert_eq!((world.connections_secured, world.delivered().len()), (1, 2));
}

#[test]
fn what_was_offered_in_clear_is_not_trusted() {
    let mut world = with(Server::new(EHLO), settings());
    world.run(false);
    world.say(b"EHLO x\r\n");
    while world.connections_secured == 0 {
        world.one_step();
    }
    world.destination.as_mut().unwrap().ehlo = "250 8BITMIME";
    world.run(false);
    assert!(world.heard().ends_with("250-mx.example\r\n250 8BITMIME\r\n"), "{}", world.heard());
}

#[test]
fn without_tls_mail_goes_in_clear() {
    let off = Settings { destination_tls: DestinationTls::Off, ..settings() };
    let no_offer = Server::new("250-PIPELINING\r\n250-SIZE 10000\r\n250 8BITMIME");
    for (destination, settings, log) in [(Server::new(EHLO), off, "none"), (no_offer, settings(), "none")] {
        let mut world = with(destination, settings);
        world.say(ENVELOPE).say(BODY).run(false);
        assert_eq!(text(&world.destination.as_ref().unwrap().commands), IN_CLEAR);
        assert_eq!(world.logs[0].tls, log);
    }
    let refusing = Server::new(EHLO).with(Stage::StartTls, Trouble::Say("454 4.7.0 not now"));
    let mut world = with(refusing, settings());
    world.say(ENVELOPE).say(BODY).run(false);
    assert_eq!((world.delivered(), world.logs[0].tls.as_str()), (&[CONTENT.to_vec()][..], "failed"));
}

#[test]
fn a_broken_handshake_is_followed_by_a_connection_in_clear() {
    let mut world = with(Server::new(EHLO), settings());
    world.handshakes_fail = true;
    world.say(ENVELOPE).say(BODY).run(false);
    assert_eq!(world.codes(), [220, 250, 250, 250, 354, 250]);
    assert_eq!((world.connections_secured, world.logs[0].tls.as_str()), (1, "failed"));
}

#[test]
fn octets_behind_the_answer_to_starttls_end_the_session() {
    let destination = Server::new(EHLO).with(Stage::StartTls, Trouble::Hang);
    let mut world = with(destination, settings());
    world.say(b"EHLO x\r\n").run(false);
    let injected = b"220 go ahead\r\n250-mx.example\r\n250 SIZE\r\n";
    world.session.handle(Input::Bytes(Leg::Destination, injected), world.now);
    world.run(false);
    assert_eq!(world.codes(), [220, 421]);
    assert!(world.session.is_over());
}

#[test]
fn a_node_is_told_nothing_before_tls() {
    let node = || Server::new("250-STARTTLS\r\n250-PIPELINING\r\n250 XCLIENT NAME ADDR PORT PROTO HELO");
    let in_tls = |nodes: Vec<Server>| {
        let mut world =
            World::new(Server::new(EHLO), nodes.into_iter().map(Some).collect(), settings(), vec![]);
        world.nodes_in_tls = true;
        world
    };
    let mut secured = in_tls(vec![node()]);
    secured.say(ENVELOPE).say(BODY).run(false);
    assert_eq!(secured.codes()[5], 250);
    let commands = &secured.nodes[0].as_ref().unwrap().commands;
    assert_eq!(commands[..3], ["EHLO agent.example", "STARTTLS", "EHLO agent.example"]);
    assert!(commands[3].starts_with("XCLIENT "));

    for trouble in ["454 4.7.0 not now", "250 ok", "220 go\r\n250 injected", "421 down"] {
        let mut refused = in_tls(vec![node().with(Stage::StartTls, Trouble::Say(trouble)), node()]);
        refused.say(ENVELOPE).say(BODY).run(false);
        assert_eq!(refused.codes()[5], 250, "{trouble}: the next node");
        assert!(refused.nodes[0].as_ref().unwrap().commands.iter().all(|line| !line.starts_with("XCLIENT")));
    }
    let mut without = in_tls(vec![super::node()]);
    without.say(ENVELOPE).say(BODY).run(false);
    assert_eq!(without.codes()[5], 451);
    assert!(without.logs[0].node_failures[0].1.contains("STARTTLS"));
    assert_eq!(without.nodes[0].as_ref().unwrap().commands, ["EHLO agent.example"]);
}

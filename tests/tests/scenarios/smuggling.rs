//! One message in, at most one message out: everything that some server ever took for the end of a message,
//! towards a destination that takes all of it.
//!
//! Every sequence is split at every place, and comes with commands one by one and as one group.

use std::fmt;

use anyhow::{Context, Result, ensure};
use weir_tests::components::{AgentConfig, Backend, WeirAgent};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::smtp::{Client, Script, Server, Session};
use weir_tests::sockets::Sockets;
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(
    no_sequence_ends_a_message_but_the_true_one,
    chunks_are_never_commands,
    command_lines_cannot_be_argued_about,
);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// One message, with the sequence as text.
    Delivered,
    /// None.
    Refused,
    /// The sequence is the true end: what follows is a second message.
    Ends,
}

use Fate::{Delivered, Ends, Refused};

/// A sequence in a message, and what becomes of the message.
type Sequence = (&'static [u8], Fate);

/// After some text.
const INSIDE: [Sequence; 17] = [
    (b"\n.\n", Delivered),
    (b"\n.\r", Refused),
    (b"\r.\n", Refused),
    (b"\r.\r", Refused),
    (b"\n.\r\n", Delivered),
    (b"\r.\r\n", Refused),
    (b"\r\n.\n", Delivered),
    (b"\r\n.\r", Refused),
    (b"\r\n\0.\r\n", Refused),
    (b"\r\n.\r\r\n", Refused),
    (b"\r\r\n.\r\r\n", Refused),
    (b"\r\n.\0\r\n", Refused),
    (b"\r\n.\r\0\n", Refused),
    (b"\n\r.\r\n", Refused),
    (b"\n\n.\n\n", Delivered),
    (b"\r\n.\n\r\n", Delivered),
    (b"\r\n.\r\n", Ends),
];

/// At the very start of the message.
const FIRST: [Sequence; 5] =
    [(b".\n", Delivered), (b".\r", Refused), (b"\0.\r\n", Refused), (b"\n.\n", Delivered), (b".\r\n", Ends)];

/// Stuffed dots, which trick nobody as long as they stay stuffed.
const STUFFED: [Sequence; 3] = [(b"\r\n..\r\n", Delivered), (b"\n..\n", Delivered), (b"\r\n..\n", Delivered)];

/// How the session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    OneByOne,
    /// Everything from MAIL to QUIT without waiting for an answer.
    Pipelined,
}

/// How the octets around the sequence are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// In two, here.
    At(usize),
    EveryOctet,
}

struct Case {
    name: String,
    family: Family,
    manner: Manner,
    split: Split,
    fate: Fate,
    /// What the customer sends after DATA or `BDAT`.
    body: Vec<u8>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, family, manner, split, fate, .. } = self;
        write!(f, "{name} over {family:?}, {manner:?}, {split:?}, to be {fate:?}")
    }
}

/// Every sequence, manner and split.
fn cases() -> Vec<Case> {
    let inside = INSIDE.iter().chain(&STUFFED).map(|sequence| (sequence, &b"Subject: outer\r\n\r\ntext"[..]));
    let first = FIRST.iter().map(|sequence| (sequence, &b""[..]));
    let mut cases = Vec::new();
    for ((sequence, fate), text) in inside.chain(first) {
        let around = text.len().saturating_sub(1)..=text.len() + sequence.len() + 1;
        for split in around.map(Split::At).chain([Split::EveryOctet]) {
            for manner in [Manner::OneByOne, Manner::Pipelined] {
                let number = cases.len();
                let name = format!("case{number}.{}", sequence.escape_ascii());
                let family = Family::BOTH[number % 2];
                let body = [text, sequence, smuggled(number).as_bytes()].concat();
                cases.push(Case { name, family, manner, split, fate: *fate, body });
            }
        }
    }
    cases
}

fn sender(case: usize) -> String {
    format!("outer-{case}-@customer.test")
}

fn smuggled(case: usize) -> String {
    format!(
        "MAIL FROM:<smuggled-{case}-@customer.test>\r\nRCPT TO:<victim@destination.test>\r\nDATA\r\n\
         Subject: inner\r\n\r\ninner\r\n.\r\n"
    )
}

struct Peers {
    destinations: [Server; 2],
    filter: Server,
    gateway: Sockets,
    _agent: WeirAgent,
}

impl Peers {
    /// The laxest destination, and a filter node that records what it judges.
    fn start(lab: &Lab, backend: Backend, destination: &Script) -> Result<Self> {
        Self::start_with(lab, backend, destination, Script::filter_node())
    }

    fn start_with(lab: &Lab, backend: Backend, destination: &Script, filter: Script) -> Result<Self> {
        let mut config = AgentConfig::new(backend);
        config.nodes.truncate(1);
        let filter = Server::start_at(&lab.filter, config.nodes[0], filter)?;
        let [v4, v6] = Family::BOTH
            .map(|family| Server::start(&lab.internet, family.destination(), destination.clone()));
        Ok(Self {
            destinations: [v4?, v6?],
            filter,
            gateway: Sockets::of(&lab.gateway)?,
            _agent: WeirAgent::start(&lab.gateway, &config)?,
        })
    }

    /// Waits until weir has read all that the customer has sent.
    fn wait_until_read(&self, client: &Client) -> Result<()> {
        let (customer, destination) = client.addresses()?;
        wait_until("weir to have read what was sent", PATIENCE, || {
            let read = self.gateway.read_from(destination, customer)?;
            Ok(read == Some(client.sent()))
        })
    }

    fn destination(&self, family: Family) -> &Server {
        &self.destinations[if family == Family::V4 { 0 } else { 1 }]
    }
}

fn no_sequence_ends_a_message_but_the_true_one(backend: Backend) -> Result<()> {
    Lab::run("smuggling", NarrowLink::Nowhere, |lab| {
        the_destination_can_be_tricked(lab)?;
        let peers = Peers::start(lab, backend, &Script::lax())?;
        for (number, case) in cases().iter().enumerate() {
            one_message(lab, &peers, number, case).with_context(|| case.to_string())?;
        }
        Ok(())
    })
}

/// Without weir each sequence smuggles: otherwise none of this would show anything.
fn the_destination_can_be_tricked(lab: &Lab) -> Result<()> {
    let destination = Server::start(&lab.internet, Family::V4.destination(), Script::lax())?;
    for (number, (sequence, _)) in INSIDE.iter().chain(&FIRST).enumerate() {
        // Open until the end: a reset would keep the destination from reading on.
        let mut client = Client::connect(&lab.customer, destination.address())?;
        begin(&mut client, &sender(number))?;
        let text: &[u8] = if number < INSIDE.len() { b"text" } else { b"" };
        client.send(&[text, sequence, smuggled(number).as_bytes()].concat())?;
        let smuggled = format!("smuggled-{number}-");
        destination
            .wait_session("a smuggled message", |session| {
                session.messages.len() == 2 && session.commands.iter().any(|line| line.contains(&smuggled))
            })
            .with_context(|| format!("{}", sequence.escape_ascii()))?;
    }
    Ok(())
}

fn begin(client: &mut Client, sender: &str) -> Result<()> {
    client.greet("mail.customer.test")?;
    client.command(&format!("MAIL FROM:<{sender}>"))?.expect(250)?;
    client.command("RCPT TO:<user@destination.test>")?.expect(250)?;
    client.command("DATA")?.expect(354)?;
    Ok(())
}

fn one_message(lab: &Lab, peers: &Peers, number: usize, case: &Case) -> Result<()> {
    let destination = peers.destination(case.family);
    let mut client = Client::connect(&lab.customer, destination.address())?;
    let sender = sender(number);
    let final_code = if case.fate == Refused { 550 } else { 250 };
    match case.manner {
        Manner::OneByOne => {
            begin(&mut client, &sender)?;
            send_split(peers, &mut client, b"", &case.body, case.split, b"")?;
            client.expect(final_code)?;
            if case.fate == Ends {
                [250, 250, 354, 250].iter().try_for_each(|code| client.expect(*code).map(|_| ()))?;
            }
            client.command("QUIT")?.expect(221)?;
        }
        Manner::Pipelined => {
            client.greet("mail.customer.test")?;
            let before = format!("MAIL FROM:<{sender}>\r\nRCPT TO:<user@destination.test>\r\nDATA\r\n");
            send_split(peers, &mut client, before.as_bytes(), &case.body, case.split, b"QUIT\r\n")?;
            let smuggled: &[u16] = if case.fate == Ends { &[250, 250, 354, 250] } else { &[] };
            let expected = [&[250, 250, 354, final_code][..], smuggled, &[221]].concat();
            expected.iter().try_for_each(|code| client.expect(*code).map(|_| ()))?;
        }
    }
    ensure!(client.is_closed()?, "more than the expected answers:\n{}", client.transcript());
    check_both_ends(peers, number, case)
}

/// Sends `before`, the body and `after` in two parts or octet by octet. The second part follows when weir has read
/// the first.
fn send_split(
    peers: &Peers,
    client: &mut Client,
    before: &[u8],
    body: &[u8],
    split: Split,
    after: &[u8],
) -> Result<()> {
    match split {
        Split::At(place) => {
            client.send(&[before, &body[..place]].concat())?;
            peers.wait_until_read(client)?;
            client.send(&[&body[place..], after].concat())
        }
        Split::EveryOctet => {
            client.send(before)?;
            body.iter().try_for_each(|octet| client.send(&[*octet]))?;
            client.send(after)
        }
    }
}

fn check_both_ends(peers: &Peers, number: usize, case: &Case) -> Result<()> {
    let destination = peers.destination(case.family);
    let outer = format!("<{}>", sender(number));
    let said = |session: &Session, what: &str| session.commands.iter().any(|line| line.contains(what));
    let session =
        destination.wait_session("the session's end", |session| session.closed && said(session, &outer))?;
    let judged = peers.filter.sessions_that(|session| said(session, &outer));
    let judged: Vec<_> = judged.iter().flat_map(|session| &session.messages).collect();
    let inner = format!("smuggled-{number}-");
    if case.fate == Ends {
        ensure!(session.messages.len() == 2 && said(&session, &inner), "{session:?}");
        return Ok(());
    }
    ensure!(!said(&session, &inner), "smuggled to the destination: {session:?}");
    ensure!(!peers.filter.any(|session| said(session, &inner)), "smuggled to the filter node");
    match case.fate {
        Refused => ensure!(session.messages.is_empty(), "delivered: {session:?}"),
        _ => {
            let expected = as_delivered(&case.body);
            ensure!(
                session.messages == [expected.clone()],
                "not as expected at the destination: {session:?}\nexpected: {}",
                expected.escape_ascii()
            );
            ensure!(judged == [&session.messages[0]], "the filter node judged other bytes: {judged:?}");
        }
    }
    Ok(())
}

/// What a body that ends with the true end looks like to filter node and destination, without its last line: dots
/// unstuffed, LF made CRLF, dots stuffed. A lone dot before LF was no stuffed one: it is text.
fn as_delivered(body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut after_crlf = true;
    let lines: Vec<_> = body.split_inclusive(|octet| *octet == b'\n').collect();
    for line in &lines[..lines.len() - 1] {
        let ends_with_crlf = line.ends_with(b"\r\n");
        let text = &line[..line.len() - if ends_with_crlf { 2 } else { 1 }];
        let stuffed = after_crlf && (ends_with_crlf || text != b".");
        let text = if stuffed { text.strip_prefix(b".").unwrap_or(text) } else { text };
        if text.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(text);
        wire.extend_from_slice(b"\r\n");
        after_crlf = ends_with_crlf;
    }
    wire
}

/// To a destination with CHUNKING and to one without, by filter nodes with CHUNKING and without: the octets of a chunk
/// are counted, whether BDAT is taken or refused, and none of them is ever a command or an end.
fn chunks_are_never_commands(backend: Backend) -> Result<()> {
    let without = "250-filter.provider.test\r\n250-PIPELINING\r\n250 XCLIENT NAME ADDR PORT PROTO HELO";
    for (extensions, filter) in [
        ("PIPELINING", Script::filter_node()),
        ("PIPELINING\r\n250-CHUNKING\r\n250-BINARYMIME", Script::filter_node()),
        ("PIPELINING\r\n250-CHUNKING", Script::filter_node().answering("EHLO", without)),
    ] {
        let node_takes = !filter.answers["EHLO"].contains(without);
        let destination_takes = extensions.contains("CHUNKING");
        Lab::run("chunks", NarrowLink::Nowhere, |lab| {
            let ehlo = format!("250-mx.destination.test\r\n250-8BITMIME\r\n250-{extensions}\r\n250 SIZE");
            let destination = Script::lax().answering("EHLO", ehlo);
            let peers = Peers::start_with(lab, backend, &destination, filter)?;
            for (number, case) in cases().iter().enumerate() {
                let code = answer_to_chunks(&case.body, destination_takes, node_takes);
                in_chunks(lab, &peers, number, case, code).with_context(|| case.to_string())?;
            }
            no_chunk_without_a_size(lab, &peers)
        })?;
    }
    Ok(())
}

/// What becomes of a message that was not declared binary and comes in chunks.
fn answer_to_chunks(body: &[u8], destination_takes: bool, node_takes: bool) -> u16 {
    let bare_lf = body.iter().enumerate().any(|(at, octet)| *octet == b'\n' && !body[..at].ends_with(b"\r"));
    let bare_cr =
        body.iter().enumerate().any(|(at, octet)| *octet == b'\r' && body.get(at + 1) != Some(&b'\n'));
    match () {
        () if !destination_takes => 502,
        () if bare_cr || body.contains(&0) => 550,
        // DATA cannot carry it as it is.
        () if bare_lf && !node_takes => 554,
        () => 250,
    }
}

/// One by one as one chunk whose octets are split, pipelined as two chunks with the sequence cut.
fn in_chunks(lab: &Lab, peers: &Peers, number: usize, case: &Case, code: u16) -> Result<()> {
    let destination = peers.destination(case.family);
    let mut client = Client::connect(&lab.customer, destination.address())?;
    let taken = client.greet("mail.customer.test")?.announces("CHUNKING");
    let envelope = format!("MAIL FROM:<{}>\r\nRCPT TO:<user@destination.test>\r\n", sender(number));
    match (case.manner, case.split) {
        (Manner::Pipelined, Split::At(place)) => {
            let (first, second) = case.body.split_at(place);
            let header = |part: &[u8], last| format!("BDAT {}{last}\r\n", part.len()).into_bytes();
            let (one, two) = (header(first, ""), header(second, " LAST"));
            client.send(&[envelope.as_bytes(), &one, first, &two, second, b"QUIT\r\n"].concat())?;
            [250, 250, if taken { 250 } else { 502 }]
                .iter()
                .try_for_each(|code| client.expect(*code).map(drop))?;
        }
        _ => {
            client.send(envelope.as_bytes())?;
            [250, 250].iter().try_for_each(|code| client.expect(*code).map(drop))?;
            let header = format!("BDAT {} LAST\r\n", case.body.len());
            send_split(peers, &mut client, header.as_bytes(), &case.body, case.split, b"QUIT\r\n")?;
        }
    }
    client.expect(code)?;
    client.expect(221)?;
    ensure!(client.is_closed()?, "more than the expected answers:\n{}", client.transcript());
    check_chunks(peers, number, case, code == 250)
}

fn check_chunks(peers: &Peers, number: usize, case: &Case, accepted: bool) -> Result<()> {
    let outer = format!("<{}>", sender(number));
    let inner = format!("smuggled-{number}-");
    let said = |session: &Session, what: &str| session.commands.iter().any(|line| line.contains(what));
    let session = peers
        .destination(case.family)
        .wait_session("the session's end", |session| session.closed && said(session, &outer))?;
    ensure!(!said(&session, &inner), "a chunk was read as commands: {session:?}");
    ensure!(!peers.filter.any(|session| said(session, &inner)), "smuggled to the filter node");
    if !accepted {
        ensure!(session.messages.is_empty(), "delivered: {session:?}");
        return Ok(());
    }
    ensure!(session.messages == [case.body.clone()], "not as it was sent: {session:?}");
    let judged = peers.filter.sessions_that(|session| said(session, &outer));
    let judged: Vec<_> = judged.iter().flat_map(|session| &session.messages).collect();
    let as_judged =
        if judged.len() == 1 { content(judged[0], &judged_by(peers, &outer)) } else { Vec::new() };
    ensure!(as_judged == case.body, "the filter node judged other bytes: {judged:?}");
    Ok(())
}

/// The commands of the node's session about a message.
fn judged_by(peers: &Peers, outer: &str) -> Vec<String> {
    let about = |session: &Session| session.commands.iter().any(|line| line.contains(outer));
    peers.filter.sessions_that(about).into_iter().flat_map(|session| session.commands).collect()
}

/// What a node was given: after DATA, with the stuffing taken off.
fn content(message: &[u8], commands: &[String]) -> Vec<u8> {
    if !commands.iter().any(|command| command == "DATA") {
        return message.to_vec();
    }
    let lines = message.split_inclusive(|octet| *octet == b'\n');
    lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}

/// A BDAT whose size cannot be read: where the chunk ends is not known, so nothing after it is a command.
fn no_chunk_without_a_size(lab: &Lab, peers: &Peers) -> Result<()> {
    let unreadable =
        ["BDAT", "BDAT ", "BDAT -1", "BDAT x", "BDAT 1x", "BDAT 99999999999999999999 LAST", "BDAT LAST"];
    for (number, bdat) in unreadable.into_iter().enumerate() {
        let family = Family::BOTH[number % 2];
        let destination = peers.destination(family);
        let mut client = Client::connect(&lab.customer, destination.address())?;
        client.greet(&format!("unreadable{number}.customer.test"))?;
        client.send(format!("{bdat}\r\nVRFY smuggled-unreadable\r\nQUIT\r\n").as_bytes())?;
        client.reply()?;
        let session = destination.wait_session("the session's end", |session| {
            session.closed && session.commands[0].contains(&format!("unreadable{number}."))
        })?;
        let passed = session.commands.iter().find(|line| line.contains("smuggled"));
        ensure!(passed.is_none(), "after `{bdat}` the chunk was read as commands: {:?}", session.commands);
    }
    Ok(())
}

/// A command line is what weir understood, for every reader: CR, LF and NUL come to the destination only as CRLF.
fn command_lines_cannot_be_argued_about(backend: Backend) -> Result<()> {
    let lines: [&[u8]; 8] = [
        b"NOOP\rVRFY smuggled\r\n",
        b"NOOP\r\rVRFY smuggled\r\n",
        b"NOOP\0VRFY smuggled\r\n",
        b"RCPT TO:<a@destination.test>\rVRFY smuggled\r\n",
        b"MAIL FROM:<a@customer.test> SIZE=1\rVRFY smuggled\r\n",
        b"HELP \x0bVRFY smuggled\r\n",
        b"XUNKNOWN\rVRFY smuggled\r\n",
        b"AUTH PLAIN\rVRFY smuggled\r\n",
    ];
    Lab::run("command-lines", NarrowLink::Nowhere, |lab| {
        let peers = Peers::start(lab, backend, &Script::lax())?;
        for (number, line) in lines.iter().enumerate() {
            for place in 0..line.len() {
                let family = Family::BOTH[place % 2];
                let name = format!("line{number}-{place}.customer.test");
                let destination = peers.destination(family);
                let mut client = Client::connect(&lab.customer, destination.address())?;
                client.greet(&name)?;
                // One that ends with LF alone is a line, too.
                send_split(&peers, &mut client, b"NOOP\n", line, Split::At(place), b"QUIT\r\n")?;
                client.expect(250)?;
                while client.reply()?.code != 221 {}
                let session = destination.wait_session("the session's end", |session| {
                    session.closed && session.commands[0].contains(&name)
                })?;
                let passed =
                    session.commands.iter().find(|command| command.starts_with("VRFY") && number != 3);
                ensure!(passed.is_none(), "{}: {:?}", line.escape_ascii(), session.commands);
                ensure!(only_crlf(&session.received), "{}", session.received.escape_ascii());
            }
        }
        Ok(())
    })
}

fn only_crlf(octets: &[u8]) -> bool {
    let without_line_ends = String::from_utf8_lossy(octets).replace("\r\n", "");
    !without_line_ends.contains(['\r', '\n', '\0', '\x0b'])
}

//! One function for each parser: it panics when the parser does not keep what it promises. The fuzzer
//! calls them with what it makes up, and `make test` with the corpus.

use std::net::SocketAddr;

use bytes::BytesMut;
use weir_smtp::bdat::Content;
use weir_smtp::command::Command;
use weir_smtp::data::{DataDecoder, Findings, Stuffer};
use weir_smtp::envelope::Mailbox;
use weir_smtp::extension::{Extensions, Offer, Terms, understood};
use weir_smtp::line::LineDecoder;
use weir_smtp::reply::{Reply, ReplyDecoder, ReplyLimits};
use weir_smtp::xclient::{Identity, MAX_COMMAND, Protocol, Xclient};
use weir_smtp::xforward::{self, Xforward};
use weir_smtp::xtext;

/// A parser's name, which is its corpus's too, and its function.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("line", line),
    ("command", command),
    ("reply", reply),
    ("extension", extension),
    ("data", data),
    ("identity", identity),
];

/// The first octet says how the others are cut: pieces of so many octets, whole with zero.
fn cut(input: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    match input.split_first() {
        None => (Vec::new(), input),
        Some((0, rest)) => (vec![rest], rest),
        Some((size, rest)) => (rest.chunks(usize::from(*size)).collect(), rest),
    }
}

pub fn line(input: &[u8]) {
    const LIMIT: usize = 64;
    let all = |pieces: &[&[u8]]| {
        let mut decoder = LineDecoder::new(LIMIT);
        let mut lines = Vec::new();
        for piece in pieces {
            let mut octets = *piece;
            while let Some(line) = decoder.next(&mut octets) {
                lines.push(line);
            }
            assert!(octets.is_empty() && decoder.held().len() <= LIMIT, "what is held is bounded");
        }
        lines
    };
    let (pieces, whole) = cut(input);
    let lines = all(&pieces);
    assert_eq!(lines, all(&[whole]), "a cut changes nothing");
    assert_eq!(lines.len(), whole.iter().filter(|octet| **octet == b'\n').count(), "one line for each LF");
    for line in lines.into_iter().flatten() {
        let clean = line.text.iter().all(|octet| *octet == b'\t' || !octet.is_ascii_control());
        assert!(clean && line.text.len() < LIMIT, "no receiver sees another end in it");
    }
}

pub fn command(input: &[u8]) {
    let Ok(command) = Command::parse(input) else { return };
    if let Command::Mail(mailbox) | Command::Rcpt(mailbox) = &command {
        let said =
            rebuilt(if matches!(command, Command::Mail(_)) { "MAIL FROM" } else { "RCPT TO" }, mailbox);
        assert_eq!(Command::parse(&said).as_ref(), Ok(&command), "what is said of it again means the same");
    }
}

fn rebuilt(verb: &str, mailbox: &Mailbox) -> Vec<u8> {
    let mut said = format!("{verb}:<").into_bytes();
    said.extend_from_slice(mailbox.path.as_bytes());
    said.push(b'>');
    for parameter in &mailbox.parameters {
        said.push(b' ');
        said.extend_from_slice(parameter.as_bytes());
    }
    said
}

fn replies(pieces: &[&[u8]]) -> Vec<Reply> {
    let limits = ReplyLimits { line: 128, lines: 8 };
    let mut decoder = ReplyDecoder::new(limits);
    let mut replies = Vec::new();
    for piece in pieces {
        let mut octets = *piece;
        while let Some(reply) = decoder.next(&mut octets) {
            match reply {
                Ok(reply) => replies.push(reply),
                Err(_) => return replies,
            }
        }
        assert!(octets.is_empty());
    }
    replies
}

pub fn reply(input: &[u8]) {
    let (pieces, whole) = cut(input);
    let read = replies(&pieces);
    assert_eq!(read, replies(&[whole]), "a cut changes nothing");
    for reply in read {
        assert!((200..600).contains(&reply.code()) && reply.lines().count() <= 8);
        let said = reply.to_bytes();
        if said.len() < 128 {
            assert_eq!(replies(&[&said]), [reply], "what is said of it again means the same");
        }
    }
}

/// A reply to EHLO, and after an empty line a command whose parameters it allows or not.
pub fn extension(input: &[u8]) {
    const WITHHELD: [&str; 5] = ["STARTTLS", "XCLIENT", "XFORWARD", "ETRN", "BURL"];
    let even = input.len().is_multiple_of(2);
    let terms = || Terms { max_size: 1000, max_recipients: 100, max_messages: 10, auth: even, binary: !even };
    let lines: Vec<&[u8]> = input.split(|octet| *octet == b'\n').collect();
    let (keywords, said) = match lines.iter().position(|line| line.is_empty()) {
        Some(at) => (&lines[..at], lines.get(at + 1)),
        None => (&lines[..], None),
    };
    let owned = keywords.iter().map(|line| line.to_vec()).collect();
    let Some(reply) = Reply::from_lines(250, owned) else { return };
    let (offer, shown) = Offer::from_reply(&reply, terms());
    let left = Extensions::from_reply(&shown);
    for keyword in WITHHELD {
        assert!(!left.has(keyword) && !offer.has(keyword), "{keyword} is offered");
    }
    assert!(!left.has("AUTH") || terms().auth, "AUTH is offered in clear");
    assert!(!left.has("SIZE") || left.size().is_some_and(|size| size <= 1000), "SIZE is the smaller one");
    let (again, shown_again) = Offer::from_reply(&shown, terms());
    assert_eq!(shown, shown_again, "what is offered can be offered");
    let Some(Ok(Command::Mail(mailbox) | Command::Rcpt(mailbox))) = said.map(|line| Command::parse(line))
    else {
        return;
    };
    assert_eq!(offer.unknown_in_mail(&mailbox), again.unknown_in_mail(&mailbox));
    assert_eq!(offer.unknown_in_rcpt(&mailbox), again.unknown_in_rcpt(&mailbox));
    let kept = understood(&mailbox, &Extensions::from_reply(&reply));
    assert!(kept.iter().all(|parameter| mailbox.parameters.contains(parameter)));
}

fn decoded(pieces: &[&[u8]]) -> (Vec<u8>, bool, usize, Findings) {
    let mut decoder = DataDecoder::default();
    let mut body = BytesMut::new();
    let (mut ended, mut left) = (false, 0);
    for piece in pieces {
        let mut octets = *piece;
        ended = decoder.decode(&mut octets, &mut body);
        assert!(ended || octets.is_empty());
        left += octets.len();
    }
    (body.to_vec(), ended, left, decoder.findings())
}

/// Laws 2 and 3 in small.
pub fn data(input: &[u8]) {
    let (pieces, whole) = cut(input);
    let (body, ended, left, findings) = decoded(&pieces);
    assert_eq!((body.clone(), ended, left, findings), decoded(&[whole]), "a cut changes nothing");
    let end = if whole.starts_with(b".\r\n") {
        Some(3)
    } else {
        whole.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 5)
    };
    assert_eq!(ended.then(|| whole.len() - left), end, "only CRLF.CRLF ends a message");
    assert_eq!(findings.size, body.len() as u64);
    let mut stuffer = Stuffer::default();
    let mut wire = BytesMut::new();
    for piece in body.chunks(usize::from(input.first().copied().unwrap_or(1)).max(1)) {
        stuffer.stuff(piece, &mut wire);
    }
    wire.extend_from_slice(stuffer.end());
    let ends =
        wire.windows(5).filter(|five| five == b"\r\n.\r\n").count() + usize::from(wire.starts_with(b".\r\n"));
    assert_eq!(ends, 1, "one message in, one message out");
    for (at, octet) in wire.iter().enumerate() {
        match octet {
            b'\n' => assert!(at > 0 && wire[at - 1] == b'\r', "a bare LF"),
            b'\r' => assert_eq!(wire.get(at + 1), Some(&b'\n'), "a bare CR"),
            _ => {}
        }
    }
    if ended {
        let again = decoded(&[&wire]);
        assert_eq!((again.0, again.1, again.2), (body, true, 0), "the receiver gets what was judged");
        assert_eq!((again.3.bare_cr, again.3.bare_lf), (0, 0));
    }
    chunks(&pieces, whole);
}

/// The same octets in chunks: what is found does not depend on where they are cut, and DATA can carry them exactly
/// where they are said to be lines.
fn chunks(pieces: &[&[u8]], whole: &[u8]) {
    let scanned = |pieces: &[&[u8]]| {
        let mut content = Content::default();
        pieces.iter().for_each(|piece| content.scan(piece));
        (content.findings(), content.is_lines())
    };
    let (findings, is_lines) = scanned(pieces);
    assert_eq!((findings, is_lines), scanned(&[whole]), "a cut changes nothing");
    assert_eq!(findings.size, whole.len() as u64);
    let (mut stuffer, mut wire) = (Stuffer::default(), BytesMut::new());
    stuffer.stuff(whole, &mut wire);
    wire.extend_from_slice(stuffer.end());
    let (carried, ended, left, _) = decoded(&[&wire]);
    assert_eq!(is_lines, ended && left == 0 && carried == whole);
}

/// XCLIENT, XFORWARD and xtext: what the agent says and what a node reads.
pub fn identity(input: &[u8]) {
    let (said, forwarded) = (Xclient::parse(input), Xforward::parse(input));
    drop((said, forwarded));
    assert_eq!(xtext::decode(xtext::encode(input).as_bytes()).as_deref(), Some(input));
    if let Some(octets) = xtext::decode(input) {
        assert_eq!(xtext::decode(xtext::encode(&octets).as_bytes()), Some(octets));
    }
    let identity = Identity {
        customer: SocketAddr::from(([10, 1, 0, 2], 40001)),
        destination: SocketAddr::from(([0xfd02, 0, 0, 0, 0, 0, 0, 2], 25)),
        protocol: Protocol::Esmtp,
        helo: input.to_vec(),
    };
    if let Ok(command) = identity.command(weir_smtp::xclient::ATTRIBUTES.as_bytes()) {
        assert!(command.len() + 2 <= MAX_COMMAND && !command.bytes().any(|octet| octet.is_ascii_control()));
        let read = Xclient::parse(&command.as_bytes()["XCLIENT ".len()..]);
        let read = read.expect("a node reads what the agent says");
        assert_eq!((read.address, read.port), (Some(identity.customer.ip()), Some(40001)), "nobody else");
        assert!(read.helo.is_none_or(|helo| helo == input));
    }
    let name = String::from_utf8_lossy(input);
    let command = xforward::command(&name, b"IDENT").unwrap_or_default();
    assert!(!command.bytes().any(|octet| octet.is_ascii_control()));
    let introduction = xforward::introduction(&identity, "m-1", b"NAME ADDR PORT PROTO HELO IDENT SOURCE");
    for command in introduction.expect("ADDR is announced") {
        assert!(command.len() + 2 <= MAX_COMMAND && !command.bytes().any(|octet| octet.is_ascii_control()));
        Xforward::parse(&command.as_bytes()["XFORWARD ".len()..]).expect("a node reads what the agent says");
    }
}

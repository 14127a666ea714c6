//! One conversation with one filter node about one message: from its banner to its verdict.
//!
//! Banner, EHLO, STARTTLS and EHLO again where the node is to be spoken to in TLS, XCLIENT (which resets the node), EHLO
//! again with the customer's own name, the envelope named by XFORWARD IDENT, the body, and the answer to end of data. A
//! node that announces no XCLIENT is told of the customer by XFORWARD, before the envelope. Nothing that comes before what
//! it would answer has left is ever taken as a verdict. On a connection that was kept ready all this begins with XCLIENT.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_smtp::envelope::Mailbox;
use weir_smtp::extension::Extensions;
use weir_smtp::reply::{ReplyDecoder, ReplyLimits, Severity};
use weir_smtp::xclient::{Identity, REPEATED};
use weir_smtp::{Envelope, Reply, xforward};

use super::body::{Answered, BodySender, Stored};
use super::envelope::{EnvelopeProgress, EnvelopeReplies};
use super::record::MessageId;
use super::settings::Settings;
use super::wire::{Leg, Output, Wire};
use crate::failure::Cause;
use crate::nodes::needs::Needs;
use crate::nodes::{Candidate, NodeId};

/// Why a node gave no verdict. Another node may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeFailure {
    #[error("{0}")]
    Connect(Cause),
    #[error("closed the connection {0}")]
    Closed(&'static str),
    #[error("did not answer in time {0}")]
    Silent(&'static str),
    #[error("sent what is no reply {0}: {1}")]
    Malformed(&'static str, String),
    #[error("answered {1} {0}")]
    Answer(&'static str, String),
    #[error(
        "does not announce XCLIENT ADDR or XFORWARD ADDR: is this agent in its list of proxies, or does it want filter.tls?"
    )]
    NoXclient,
    #[error("does not announce STARTTLS, which filter.tls asks for")]
    NoTls,
    #[error("no TLS with it: {0}")]
    Handshake(Cause),
    #[error("refused XCLIENT: {0}")]
    XclientRefused(String),
    #[error("refused XFORWARD: {0}")]
    XforwardRefused(String),
    #[error("does not announce {0}, which this message needs")]
    Lacks(&'static str),
}

/// What a conversation has come to.
#[derive(Debug)]
pub enum Progress {
    Going,
    /// The node's answer on one recipient; the conversation can go on.
    Answer(Reply),
    /// The node's answer on the whole message: 2xx, 4xx or 5xx.
    Verdict(Reply),
    /// The node gave up a connection that was kept ready: the message needs a new one.
    Stale,
    Failed(NodeFailure),
}

/// What is said to a node of one message.
#[derive(Debug)]
pub struct Matter {
    pub id: MessageId,
    pub identity: Identity,
    pub envelope: Envelope,
    /// The customer sends it in chunks.
    pub in_chunks: bool,
    /// No message yet: the node is asked what it thinks of each recipient as it is named.
    pub is_question: bool,
    /// The agent's own host name.
    pub hostname: Arc<str>,
}

impl Matter {
    pub fn needs(&self) -> Needs {
        Needs::of(&self.envelope)
    }
}

#[derive(Debug)]
enum State {
    Connecting,
    Greeting,
    Ehlo,
    StartTls,
    Handshake,
    Xclient,
    SecondEhlo,
    /// The commands of an introduction that are still to be said.
    Introduction(std::vec::IntoIter<String>),
    /// Replies to XFORWARD, MAIL, each RCPT and DATA, in the order of the commands.
    Envelope(EnvelopeReplies),
    Body(BodySender),
    Over,
}

#[derive(Debug)]
pub struct Conversation {
    candidate: Candidate,
    decoder: ReplyDecoder,
    state: State,
    secured: bool,
    /// The connection was kept ready, and the node has not answered anything on it since.
    unproven: bool,
    extensions: Extensions,
    /// What was announced before XCLIENT by a node that takes it again.
    again: Option<Extensions>,
    /// Such a node is told all at once: the envelope is said, and XCLIENT or EHLO before it not answered yet.
    ahead: Option<EnvelopeReplies>,
    /// The node was told of the message: if it fails now, the message may be the reason.
    pub in_hands: bool,
}

impl Conversation {
    pub fn new(candidate: Candidate) -> Self {
        Self {
            candidate,
            decoder: ReplyDecoder::new(ReplyLimits::default()),
            state: State::Connecting,
            secured: false,
            unproven: false,
            extensions: Extensions::default(),
            again: None,
            ahead: None,
            in_hands: false,
        }
    }

    pub fn candidate(&self) -> Candidate {
        self.candidate
    }

    pub fn node(&self) -> NodeId {
        self.candidate.node
    }

    /// If it is lost or silent now, the node may just have been tired of waiting, or gone unnoticed.
    pub fn is_unproven(&self) -> bool {
        self.unproven
    }

    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting)
    }

    /// Waiting for the node to answer, rather than for the customer's body or for the verdict.
    pub fn awaits_reply(&self) -> bool {
        match &self.state {
            State::Connecting | State::Over => false,
            State::Body(sender) => sender.awaits_chunk_reply(),
            State::Envelope(replies) => !replies.is_idle(),
            _ => true,
        }
    }

    /// How long the node may take for what it is to do now. `None`: the verdict's own time counts.
    pub fn patience(&self, settings: &Settings) -> Option<Duration> {
        if self.is_connecting() || self.unproven {
            return Some(settings.node_connect_timeout);
        }
        self.awaits_reply().then_some(settings.node_reply_timeout)
    }

    /// For messages: where in the conversation this is.
    pub fn step(&self) -> &'static str {
        match &self.state {
            State::Connecting => "while connecting",
            State::Greeting => "before its banner",
            State::Ehlo => "after EHLO",
            State::StartTls => "after STARTTLS",
            State::Handshake => "in the TLS handshake",
            State::Xclient => "after XCLIENT",
            State::SecondEhlo => "after the second EHLO",
            State::Introduction(_) => "after XFORWARD",
            State::Envelope(_) => "after the envelope",
            State::Body(sender) if sender.is_ended() => "after end of data",
            State::Body(_) => "in the body",
            State::Over => "after its verdict",
        }
    }

    pub fn connected(&mut self) {
        self.state = State::Greeting;
    }

    /// The connection is one that was kept ready.
    pub fn greeted(&mut self, announced: &Extensions, matter: &Matter, wire: &mut Wire) -> Progress {
        self.secured = self.candidate.tls;
        self.unproven = true;
        self.introduce(announced.clone(), matter, wire)
    }

    /// TLS is on: what was said in clear does not count.
    pub fn secured(&mut self, matter: &Matter, wire: &mut Wire) {
        if matches!(self.state, State::Handshake) {
            self.secured = true;
            self.say_ehlo(matter, wire);
        }
    }

    /// Why the connection was lost.
    pub fn lost(&self, cause: Option<Cause>) -> NodeFailure {
        match (&self.state, cause) {
            (State::Connecting, Some(cause)) => NodeFailure::Connect(cause),
            (State::Handshake, Some(cause)) => NodeFailure::Handshake(cause),
            _ => NodeFailure::Closed(self.step()),
        }
    }

    /// Octets from the node.
    pub fn bytes(&mut self, mut octets: &[u8], matter: &Matter, now: Instant, wire: &mut Wire) -> Progress {
        while let Some(reply) = self.decoder.next(&mut octets) {
            wire.restart(Leg::Filter, now);
            // Anything else may be what the node said when it gave the connection up.
            if self.unproven && !matches!(&reply, Ok(reply) if reply.code() / 100 == 2) {
                return Progress::Stale;
            }
            self.unproven = false;
            let progress = match reply {
                Ok(reply) => self.reply(reply, matter, wire),
                Err(error) => Progress::Failed(NodeFailure::Malformed(self.step(), error.to_string())),
            };
            match progress {
                Progress::Going => {}
                Progress::Answer(_) if octets.is_empty() => return progress,
                Progress::Answer(reply) => return self.answered(&reply),
                Progress::Stale => return progress,
                Progress::Verdict(_) | Progress::Failed(_) => {
                    let done = matches!(&self.state, State::Body(sender) if sender.is_done());
                    self.again.take_if(|_| !done || !octets.is_empty());
                    self.state = State::Over;
                    return progress;
                }
            }
            // Octets behind the answer to STARTTLS were not protected by it: somebody put them there.
            if matches!(self.state, State::Handshake) && !octets.is_empty() {
                self.state = State::Over;
                let what = "octets before the TLS handshake".into();
                return Progress::Failed(NodeFailure::Malformed("after STARTTLS", what));
            }
        }
        Progress::Going
    }

    /// Sends what the spool has. Call whenever the spool grew or the leg drained.
    pub fn pump(&mut self, stored: Stored, wire: &mut Wire) -> Progress {
        if let State::Body(sender) = &mut self.state {
            if !sender.suits(stored) {
                return Progress::Failed(NodeFailure::Lacks("CHUNKING"));
            }
            sender.pump(stored, wire);
        }
        Progress::Going
    }

    pub fn spooled(&mut self, octets: &[u8], wire: &mut Wire) {
        if let State::Body(sender) = &mut self.state {
            sender.spooled(octets, wire);
        }
    }

    fn reply(&mut self, reply: Reply, matter: &Matter, wire: &mut Wire) -> Progress {
        // A node that does not take the customer takes no mail of his, though it was told of it.
        self.in_hands &= !matches!(self.state, State::Xclient) || reply.code() == 220;
        if reply.code() == 421 {
            return self.answered(&reply);
        }
        match &mut self.state {
            State::Greeting if reply.code() == 220 => {
                self.say_ehlo(matter, wire);
                Progress::Going
            }
            State::Ehlo if reply.code() == 250 && self.candidate.tls && !self.secured => {
                if !Extensions::from_reply(&reply).has("STARTTLS") {
                    return Progress::Failed(NodeFailure::NoTls);
                }
                wire.write(Leg::Filter, &b"STARTTLS\r\n"[..]);
                self.state = State::StartTls;
                Progress::Going
            }
            State::StartTls if reply.code() == 220 => {
                wire.push(Output::StartTls(Leg::Filter));
                self.state = State::Handshake;
                Progress::Going
            }
            State::Ehlo if reply.code() == 250 => {
                self.introduce(Extensions::from_reply(&reply), matter, wire)
            }
            State::Xclient => self.xclient_answered(&reply, matter, wire),
            State::SecondEhlo if reply.code() == 250 => {
                if let Some(replies) = self.ahead.take() {
                    self.state = State::Envelope(replies);
                    return Progress::Going;
                }
                self.extensions = Extensions::from_reply(&reply);
                if let Some(lacking) = matter.needs().lacking(&self.extensions) {
                    return Progress::Failed(NodeFailure::Lacks(lacking));
                }
                let ident = ident(matter, &self.extensions);
                self.say_envelope(ident, matter, wire)
            }
            State::Introduction(left) if reply.code() == 250 => match left.next() {
                Some(command) => {
                    wire.write_line(Leg::Filter, command.as_bytes());
                    Progress::Going
                }
                None => self.say_envelope(None, matter, wire),
            },
            // A node that does not know the customer would take the mail as the agent's own.
            State::Introduction(_) => Progress::Failed(NodeFailure::XforwardRefused(reply.to_string())),
            State::Envelope(replies) => match replies.add(reply) {
                Ok(EnvelopeProgress::Going) => {
                    replies.send(wire);
                    Progress::Going
                }
                Ok(EnvelopeProgress::Answered(reply)) => Progress::Answer(reply),
                Ok(EnvelopeProgress::Refused(reply)) => Progress::Verdict(reply),
                Ok(EnvelopeProgress::GoAhead) => {
                    self.state = State::Body(replies.body_sender());
                    Progress::Going
                }
                Err(reply) => self.answered(&reply),
            },
            State::Body(sender) if reply.severity() != Severity::Intermediate => {
                match (sender.answered(wire), reply.severity()) {
                    (Answered::Chunk, Severity::Positive) => Progress::Going,
                    // A chunk refused is the message refused (RFC 3030 section 2).
                    (Answered::Chunk | Answered::End, _) => Progress::Verdict(reply),
                    (Answered::Nothing, _) => self.answered(&reply),
                }
            }
            _ => self.answered(&reply),
        }
    }

    /// An answer that is no verdict: the node failed.
    fn answered(&self, reply: &Reply) -> Progress {
        Progress::Failed(NodeFailure::Answer(self.step(), reply.to_string()))
    }

    fn say_ehlo(&mut self, matter: &Matter, wire: &mut Wire) {
        wire.write_line(Leg::Filter, format!("EHLO {}", matter.hostname).as_bytes());
        self.state = State::Ehlo;
    }

    /// Who the customer is, by what the node announces: XCLIENT, else XFORWARD.
    fn introduce(&mut self, extensions: Extensions, matter: &Matter, wire: &mut Wire) -> Progress {
        let xclient = extensions.parameters("XCLIENT").and_then(|names| matter.identity.command(names).ok());
        if let Some(command) = xclient {
            let ahead = extensions.has(REPEATED) && extensions.has("PIPELINING");
            if ahead && let Some(lacking) = matter.needs().lacking(&extensions) {
                // What was announced long ago counts for nothing.
                let lacks = Progress::Failed(NodeFailure::Lacks(lacking));
                return if self.unproven { Progress::Stale } else { lacks };
            }
            wire.write_line(Leg::Filter, command.as_bytes());
            self.state = State::Xclient;
            if ahead {
                self.introduce_ahead(extensions, matter, wire);
            }
            return Progress::Going;
        }
        let names = extensions.parameters("XFORWARD");
        let commands =
            names.and_then(|names| xforward::introduction(&matter.identity, matter.id.as_str(), names));
        let Some(mut commands) = commands.map(Vec::into_iter) else {
            return Progress::Failed(NodeFailure::NoXclient);
        };
        if let Some(lacking) = matter.needs().lacking(&extensions) {
            return Progress::Failed(NodeFailure::Lacks(lacking));
        }
        self.extensions = extensions;
        for command in commands.by_ref().take(1) {
            wire.write_line(Leg::Filter, command.as_bytes());
        }
        self.state = State::Introduction(commands);
        Progress::Going
    }

    /// What follows XCLIENT, at once: a node that takes XCLIENT again takes no mail unless it has taken the last one.
    fn introduce_ahead(&mut self, announced: Extensions, matter: &Matter, wire: &mut Wire) {
        say_customers_ehlo(matter, wire);
        let mut replies = EnvelopeReplies::new(ident(matter, &announced), matter, &announced);
        replies.send(wire);
        self.ahead = Some(replies);
        self.extensions = announced.clone();
        self.again = Some(announced);
        self.in_hands = true;
    }

    /// 220 or nothing: a node that refused XCLIENT would take the mail as the agent's own.
    fn xclient_answered(&mut self, reply: &Reply, matter: &Matter, wire: &mut Wire) -> Progress {
        match reply.code() {
            220 => {
                if self.ahead.is_none() {
                    say_customers_ehlo(matter, wire);
                }
                self.state = State::SecondEhlo;
                Progress::Going
            }
            // 530: the node wants TLS or a password first (RFC 3207, RFC 4954).
            500..=504 | 530 => Progress::Failed(NodeFailure::XclientRefused(reply.to_string())),
            550 if self.candidate.probe_refused => {
                Progress::Failed(NodeFailure::XclientRefused(reply.to_string()))
            }
            _ if reply.is_refusal() => Progress::Verdict(reply.clone()),
            _ => self.answered(reply),
        }
    }

    /// `ident`: the command that names the message, where it was not named before.
    fn say_envelope(&mut self, ident: Option<String>, matter: &Matter, wire: &mut Wire) -> Progress {
        let mut replies = EnvelopeReplies::new(ident, matter, &self.extensions);
        replies.send(wire);
        self.in_hands = true;
        self.state = State::Envelope(replies);
        Progress::Going
    }

    /// Asks about a further recipient, after the answer on the last.
    pub fn ask(&mut self, recipient: &Mailbox, wire: &mut Wire) {
        if let State::Envelope(replies) = &mut self.state {
            replies.address("RCPT TO", recipient, &self.extensions);
            replies.send(wire);
        }
    }

    /// Says goodbye where the protocol allows it, and closes.
    pub fn close(self, wire: &mut Wire) {
        let silent = matches!(self.state, State::Connecting | State::Handshake);
        let idle = matches!(&self.state, State::Envelope(replies) if replies.is_idle());
        if silent || (self.in_hands && !idle) {
            wire.push(Output::Abort(Leg::Filter));
        } else {
            wire.write(Leg::Filter, &b"QUIT\r\n"[..]);
            wire.push(Output::Close(Leg::Filter));
        }
        wire.forget(Leg::Filter);
    }

    /// After a verdict. At the end of data the node is between transactions: QUIT is in order, or another message.
    pub fn leave(self, wire: &mut Wire) {
        match self.again {
            Some(announced) => wire.push(Output::Keep(announced)),
            None => {
                wire.write(Leg::Filter, &b"QUIT\r\n"[..]);
                wire.push(Output::Close(Leg::Filter));
            }
        }
        wire.forget(Leg::Filter);
    }
}

/// The command that names the message, where the node takes it.
fn ident(matter: &Matter, extensions: &Extensions) -> Option<String> {
    let names = extensions.parameters("XFORWARD")?;
    xforward::command(matter.id.as_str(), names)
}

fn say_customers_ehlo(matter: &Matter, wire: &mut Wire) {
    wire.write_line(Leg::Filter, &[b"EHLO ", ehlo_name(&matter.identity).as_slice()].concat());
}

/// The customer's own name where it is one a strict server takes, else the customer's address.
fn ehlo_name(identity: &Identity) -> Vec<u8> {
    let plain = |octet: &u8| {
        octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_' | b'[' | b']' | b':')
    };
    let helo = &identity.helo;
    if (1..=255).contains(&helo.len()) && helo.iter().all(plain) {
        return helo.clone();
    }
    match identity.customer.ip().to_canonical() {
        std::net::IpAddr::V4(address) => format!("[{address}]"),
        std::net::IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
    .into_bytes()
}

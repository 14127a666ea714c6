//! One SMTP session, without I/O: octets in, outputs out. However its input is split, its outputs
//! are the same.
//!
//! XCLIENT is done as Postfix does it: it puts the session back to the state after connect. Mail
//! before it is refused, so that no message is ever taken as the proxy's own. Outside of transactions it may
//! come again, and begins the session of another customer. After STARTTLS the session
//! is new (RFC 3207 section 4.2): nothing said in clear counts in TLS.

mod introduction;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use weir_smtp::command::{Command, CommandError};
use weir_smtp::data::Findings;
use weir_smtp::envelope::Mailbox;
use weir_smtp::line::{LineDecoder, LineError};
use weir_smtp::{Envelope, Reply};

pub use introduction::StartTls;

use super::parameters;
use super::reception::{Chunk, Reception};
use crate::message::{Customer, Transaction};
use crate::policy::Verdict;
use crate::policy::script::Context;

/// A proxy that sends this many wrong commands in a row is not one.
const MAX_ERRORS: u32 = 20;

/// What a session is told about the node.
#[derive(Debug, Clone)]
pub struct Settings {
    pub name: String,
    pub max_message_size: u64,
    pub max_recipients: usize,
    pub max_command_line: usize,
    pub starttls: StartTls,
}

/// What happens to a session.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    Bytes(&'a [u8]),
    /// TLS is on.
    Secured,
    /// The verdict on what was last given out to be judged.
    Judged(&'a Verdict),
    /// The proxy was silent for too long.
    TimedOut,
    /// The node stops. Only between transactions; see [`Session::is_idle`].
    Shutdown,
}

/// What a session wants done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    Write(Vec<u8>),
    /// Whether the transaction may begin, or have this recipient: [`Session::asked`] says which. Nothing more is read
    /// until it is judged.
    Ask(Context),
    /// The transaction has come to DATA or its first BDAT: octets of its body follow.
    BodyBegins,
    /// Octets of the body: of lines, with dot-stuffing taken off, or of chunks, as they are. None follow those
    /// beyond the largest size.
    Body(Bytes),
    /// The transaction ends without its body's end: RSET or EHLO between chunks.
    BodyDropped,
    /// The message is complete. Nothing more is read until it is judged.
    Judge(Box<Transaction>),
    /// The next octets are TLS.
    StartTls,
    Close,
}

/// Makes the id of a message to which the proxy gave none.
pub type MakeId = Box<dyn FnMut() -> String + Send>;

pub struct Session {
    settings: Arc<Settings>,
    make_id: MakeId,
    lines: LineDecoder,
    mode: Mode,
    /// The transaction under way, until it is given out to be judged.
    mail: Option<Box<Reception>>,
    /// Who the customer is; none before XCLIENT.
    customer: Option<Customer>,
    greeted: bool,
    secured: bool,
    /// The next transaction's id, from XFORWARD.
    ident: Option<String>,
    errors: u32,
    /// Input that came while a message was judged.
    held: BytesMut,
    outputs: VecDeque<Output>,
}

/// What the next octets are.
enum Mode {
    Commands,
    /// After DATA.
    Lines,
    /// After BDAT. Read to its end in any case; kept if the transaction takes it.
    Chunk(Chunk),
    /// STARTTLS was taken. Octets that come before TLS is on were put there by somebody.
    Handshake,
    /// Held until there is a verdict.
    Judging(Judged),
    Closed,
}

/// What there is to be a verdict on.
enum Judged {
    Sender,
    Recipient(Mailbox),
    /// The message of this id.
    Message(String),
}

impl Session {
    /// A session right after connect: the greeting is its first output.
    pub fn new(settings: Arc<Settings>, make_id: MakeId) -> Self {
        let lines = LineDecoder::new(settings.max_command_line);
        let mut session = Self {
            settings,
            make_id,
            lines,
            mode: Mode::Commands,
            mail: None,
            customer: None,
            greeted: false,
            secured: false,
            ident: None,
            errors: 0,
            held: BytesMut::new(),
            outputs: VecDeque::new(),
        };
        session.write(&session.greeting());
        session
    }

    pub fn handle(&mut self, input: Input<'_>) {
        match input {
            Input::Bytes(octets) => self.bytes(octets),
            Input::Secured => self.secured(),
            Input::Judged(verdict) => self.judged(verdict),
            Input::TimedOut => self.close(&Reply::enhanced(421, "4.4.2", "timed out, closing")),
            Input::Shutdown => self.close(&Reply::enhanced(421, "4.3.2", "shutting down, closing")),
        }
    }

    /// The transaction that is asked about, with the recipient that is as its last.
    pub fn asked(&self) -> Option<Transaction> {
        let mut transaction = self.transaction()?.clone();
        if let Mode::Judging(Judged::Recipient(recipient)) = &self.mode {
            transaction.envelope.recipients.push(recipient.clone());
        }
        Some(transaction)
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Between transactions, with no command half read.
    pub fn is_idle(&self) -> bool {
        matches!(self.mode, Mode::Commands) && self.mail.is_none() && self.lines.held().is_empty()
    }

    /// The transaction that would be lost if the connection ended now.
    pub fn transaction(&self) -> Option<&Transaction> {
        self.mail.as_ref().map(|mail| mail.transaction())
    }

    fn judged(&mut self, verdict: &Verdict) {
        let judged = match std::mem::replace(&mut self.mode, Mode::Commands) {
            Mode::Judging(judged) => judged,
            other => {
                self.mode = other;
                return;
            }
        };
        let accepted = *verdict == Verdict::Accept;
        let id = self.transaction().map(|transaction| transaction.id.clone()).unwrap_or_default();
        let reply = match judged {
            Judged::Message(id) => verdict.reply(&id),
            Judged::Sender if accepted => Reply::enhanced(250, "2.1.0", "ok"),
            Judged::Sender => {
                self.mail = None;
                verdict.reply(&id)
            }
            Judged::Recipient(recipient) if accepted => {
                if let Some(transaction) = self.mail.as_mut().and_then(|mail| mail.open()) {
                    transaction.envelope.recipients.push(recipient);
                }
                Reply::enhanced(250, "2.1.5", "ok")
            }
            Judged::Recipient(_) => verdict.reply(&id),
        };
        // A refusal is no error of the proxy's.
        self.write(&reply);
        let held = std::mem::take(&mut self.held);
        self.bytes(&held);
    }

    fn ask(&mut self, context: Context, judged: Judged) {
        self.mode = Mode::Judging(judged);
        self.outputs.push_back(Output::Ask(context));
    }

    fn bytes(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            match &self.mode {
                Mode::Commands => match self.lines.next(&mut octets) {
                    Some(Ok(line)) => self.line(&line.text, octets.is_empty()),
                    Some(Err(error)) => self.bad_line(error),
                    None => {}
                },
                Mode::Lines => self.body_lines(&mut octets),
                Mode::Chunk(_) => self.chunk(&mut octets),
                Mode::Judging(_) => {
                    self.held.extend_from_slice(octets);
                    return;
                }
                Mode::Handshake => {
                    self.close(&Reply::enhanced(503, "5.5.1", "commands behind STARTTLS, closing"));
                }
                Mode::Closed => return,
            }
        }
    }

    fn body_lines(&mut self, octets: &mut &[u8]) {
        let Some(mail) = &mut self.mail else { return };
        let (body, ended) = mail.lines(octets);
        self.body(body);
        if ended {
            self.complete();
        }
    }

    fn chunk(&mut self, octets: &mut &[u8]) {
        let Mode::Chunk(chunk) = &mut self.mode else { return };
        let octets = chunk.take(octets);
        let ended = chunk.has_ended();
        if let Some(mail) = &mut self.mail {
            let body = mail.chunk(octets);
            self.body(body);
        }
        if ended {
            self.end_of_chunk();
        }
    }

    fn end_of_chunk(&mut self) {
        let Mode::Chunk(Chunk { size, last, .. }) = std::mem::replace(&mut self.mode, Mode::Commands) else {
            return;
        };
        if !self.mail.as_ref().is_some_and(|mail| mail.takes_chunks()) {
            let text = "MAIL and RCPT first, and after a refused chunk RSET";
            self.answer(&Reply::enhanced(503, "5.5.1", text));
        } else if last {
            self.complete();
        } else {
            self.answer(&Reply::enhanced(250, "2.0.0", format!("{size} octets")));
        }
    }

    fn body(&mut self, octets: Bytes) {
        if !octets.is_empty() {
            self.outputs.push_back(Output::Body(octets));
        }
    }

    fn complete(&mut self) {
        let Some(mail) = self.mail.take() else { return };
        let transaction = Box::new(mail.complete());
        self.mode = Mode::Judging(Judged::Message(transaction.id.clone()));
        self.outputs.push_back(Output::Judge(transaction));
    }

    /// `last`: nothing came with it.
    fn line(&mut self, line: &[u8], last: bool) {
        let reply = match Command::parse(line) {
            Ok(command) => self.command(command, last),
            Err(error @ CommandError::Syntax { verb, .. }) => {
                let reply = Reply::enhanced(501, "5.5.4", error.to_string());
                if verb == "BDAT" {
                    // A chunk follows, and nobody knows where it ends.
                    self.close(&reply);
                    return;
                }
                Some(reply)
            }
        };
        if let Some(reply) = reply {
            self.answer(&reply);
        }
    }

    /// It may have been a BDAT, whose chunk must not be read as commands.
    fn bad_line(&mut self, error: LineError) {
        self.close(&Reply::enhanced(500, "5.5.2", format!("{error}, closing")));
    }

    /// None where the answer is already given.
    fn command(&mut self, command: Command, last: bool) -> Option<Reply> {
        let reply = match command {
            Command::Ehlo(name) => self.hello(&name, true),
            Command::Helo(name) => self.hello(&name, false),
            Command::Mail(sender) => return self.mail(sender),
            Command::Rcpt(recipient) => return self.rcpt(recipient),
            Command::Data => return self.begin_lines(),
            Command::Bdat { size, last } => {
                self.begin_chunk(Chunk::new(size, last));
                return None;
            }
            Command::StartTls => return self.starttls(last),
            Command::Xclient(arguments) => self.xclient(&arguments),
            Command::Xforward(arguments) => self.xforward(&arguments),
            Command::Rset => {
                self.reset();
                Reply::enhanced(250, "2.0.0", "ok")
            }
            Command::Noop => Reply::enhanced(250, "2.0.0", "ok"),
            Command::Help => Reply::enhanced(214, "2.0.0", "this node judges mail and sends none"),
            Command::Quit => {
                // An envelope alone is no message: agents ask about recipients so.
                self.mail.take_if(|mail| !mail.has_begun());
                self.close(&Reply::enhanced(221, "2.0.0", "bye"));
                return None;
            }
            Command::Vrfy | Command::Expn | Command::Auth | Command::Etrn | Command::Turn => {
                Reply::enhanced(502, "5.5.1", "not offered")
            }
            Command::Unknown(_) => Reply::enhanced(500, "5.5.2", "command not known"),
        };
        Some(reply)
    }

    /// None where it is asked about first.
    fn mail(&mut self, sender: Mailbox) -> Option<Reply> {
        if self.wants_tls() {
            return Some(introduction::tls_first());
        }
        let Some(customer) = self.customer.clone() else {
            let text = "XCLIENT with ADDR first: this node must know whose mail it judges";
            return Some(Reply::enhanced(503, "5.5.1", text));
        };
        if !self.greeted {
            return Some(Reply::enhanced(503, "5.5.1", "EHLO or HELO first"));
        }
        if self.transaction().is_some() {
            return Some(Reply::enhanced(503, "5.5.1", "MAIL was given already"));
        }
        if let Some(parameter) = parameters::unknown_in_mail(&sender) {
            return Some(Reply::enhanced(555, "5.5.4", format!("parameter {parameter} is not known here")));
        }
        let limit = self.settings.max_message_size;
        if sender.size().is_some_and(|size| size > limit) {
            return Some(Reply::enhanced(552, "5.3.4", format!("message larger than {limit} octets")));
        }
        let id = self.ident.take().unwrap_or_else(&mut self.make_id);
        let envelope = Envelope::new(sender);
        let transaction = Transaction { id, customer, envelope, findings: Findings::default() };
        self.mail = Some(Box::new(Reception::new(transaction, limit)));
        self.ask(Context::Connect, Judged::Sender);
        None
    }

    fn rcpt(&mut self, recipient: Mailbox) -> Option<Reply> {
        let limit = self.settings.max_recipients;
        let Some(mail) = &mut self.mail else {
            return Some(Reply::enhanced(503, "5.5.1", "MAIL first"));
        };
        let Some(transaction) = mail.open() else {
            return Some(Reply::enhanced(503, "5.5.1", "RCPT after BDAT"));
        };
        if recipient.path.is_null() {
            return Some(Reply::enhanced(501, "5.1.3", "empty forward-path"));
        }
        if let Some(parameter) = parameters::unknown_in_rcpt(&recipient) {
            return Some(Reply::enhanced(555, "5.5.4", format!("parameter {parameter} is not known here")));
        }
        if transaction.envelope.recipients.len() >= limit {
            return Some(Reply::enhanced(452, "4.5.3", format!("more than {limit} recipients")));
        }
        self.ask(Context::Rcpt, Judged::Recipient(recipient));
        None
    }

    fn begin_lines(&mut self) -> Option<Reply> {
        let Some(mail) = &mut self.mail else {
            return Some(Reply::enhanced(503, "5.5.1", "MAIL and RCPT first"));
        };
        if mail.transaction().envelope.sender.is_binary() {
            return Some(Reply::enhanced(503, "5.5.1", "BODY=BINARYMIME needs BDAT"));
        }
        if !mail.begin_lines() {
            let text = if mail.has_begun() { "DATA after BDAT" } else { "RCPT first" };
            return Some(Reply::enhanced(503, "5.5.1", text));
        }
        self.mode = Mode::Lines;
        self.write(&Reply::new(354, "end with a dot on a line of its own"));
        self.outputs.push_back(Output::BodyBegins);
        None
    }

    fn begin_chunk(&mut self, chunk: Chunk) {
        if self.mail.as_mut().is_some_and(|mail| mail.begin_chunk()) {
            self.outputs.push_back(Output::BodyBegins);
        }
        self.mode = Mode::Chunk(chunk);
        // A chunk of no octets ends with its command.
        self.chunk(&mut &[][..]);
    }

    /// Forgets the transaction and its id, as RSET, EHLO and XCLIENT do.
    fn reset(&mut self) {
        if self.mail.take().is_some_and(|mail| mail.has_begun()) {
            self.outputs.push_back(Output::BodyDropped);
        }
        self.ident = None;
    }

    fn answer(&mut self, reply: &Reply) {
        self.errors = if reply.is_refusal() { self.errors + 1 } else { 0 };
        self.write(reply);
        if self.errors >= MAX_ERRORS {
            self.close(&Reply::enhanced(421, "4.7.0", "too many errors, closing"));
        }
    }

    fn write(&mut self, reply: &Reply) {
        self.outputs.push_back(Output::Write(reply.to_bytes()));
    }

    fn close(&mut self, reply: &Reply) {
        self.write(reply);
        self.outputs.push_back(Output::Close);
        self.mode = Mode::Closed;
    }
}

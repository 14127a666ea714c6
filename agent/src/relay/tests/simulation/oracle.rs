//! The session as the customer sees it, read anew and simply: which octets were commands and which were a
//! message, and which reply answers what. The engine is held against this.

use std::collections::VecDeque;

/// What the customer is owed a reply for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Greeting,
    Line(Vec<u8>),
    /// A chunk after which others come.
    Chunk,
    EndOfData,
}

/// What BDAT announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    size: u64,
    last: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Commands,
    /// DATA was said: what follows depends on the answer.
    AwaitData,
    Body,
    /// AUTH was said, or went on: whether the next line is a part of it depends on the answer.
    AwaitAuth,
    Auth,
    /// BDAT was said: what it is depends on the replies that are owed.
    AwaitChunk(Chunk, Vec<u8>),
    /// It begins a message, or it is refused.
    Deciding(Chunk),
    /// A chunk of the message is under way; its size is what is still to come.
    Chunk(Chunk),
    /// So many octets of a refused chunk are still to come.
    Skip(u64),
}

/// A reply, as a customer reads it.
#[derive(Debug, Clone)]
pub struct Heard {
    pub code: u16,
    pub text: Vec<u8>,
}

#[derive(Debug)]
pub struct Oracle {
    state: State,
    /// Octets said and not yet understood.
    unread: Vec<u8>,
    /// Octets heard that are no whole reply yet.
    unheard: Vec<u8>,
    pub owed: VecDeque<Item>,
    /// The last reply asked for a part of an AUTH exchange.
    pub secret_follows: bool,
    /// Lines that were part of an AUTH exchange.
    pub secrets: Vec<Vec<u8>>,
    /// Every command line, without its end.
    pub lines: Vec<Vec<u8>>,
    /// Messages begun: by a go-ahead, or by a first chunk.
    pub messages: usize,
    /// The message under way, or the last one: as it was sent, its end included once it came.
    pub raw: Vec<u8>,
    pub complete: bool,
    /// It comes in chunks, and its last reply is still to come.
    in_chunks: bool,
    chunks_go_on: bool,
    /// The destination offered CHUNKING, and the customer was told so.
    offers_chunks: bool,
    /// A go-ahead was given just now.
    go_ahead: bool,
    /// MAIL commands that were accepted.
    pub transactions: usize,
    /// Recipients of the transaction that were accepted; whether it was declared BODY=BINARYMIME.
    recipients: usize,
    binary: bool,
    /// The name of the last accepted EHLO or HELO.
    pub helo: Vec<u8>,
    pub last_code: u16,
}

impl Oracle {
    pub fn new() -> Self {
        Self {
            state: State::Commands,
            unread: Vec::new(),
            unheard: Vec::new(),
            owed: VecDeque::from([Item::Greeting]),
            secret_follows: false,
            secrets: Vec::new(),
            lines: Vec::new(),
            messages: 0,
            raw: Vec::new(),
            complete: false,
            in_chunks: false,
            chunks_go_on: false,
            offers_chunks: false,
            go_ahead: false,
            transactions: 0,
            recipients: 0,
            binary: false,
            helo: Vec::new(),
            last_code: 0,
        }
    }

    pub fn in_body(&self) -> bool {
        self.state == State::Body
    }

    /// Everything that was said so far is answered.
    pub fn is_answered(&self) -> bool {
        self.owed.is_empty() || self.state == State::Body
    }

    pub fn said(&mut self, octets: &[u8]) {
        self.unread.extend_from_slice(octets);
        self.read();
        self.settle();
    }

    /// Everything before a BDAT is answered: it goes on with its message, or something is decided on it.
    pub fn settle(&mut self) {
        while let State::AwaitChunk(chunk, line) = self.state.clone() {
            let greets = |item: &Item| matches!(item, Item::Line(line) if matches!(verb(line).as_slice(), b"EHLO" | b"HELO"));
            let offered = self.offers_chunks || self.owed.iter().any(greets);
            if offered && !self.owed.is_empty() {
                break;
            }
            self.state = if self.chunks_go_on {
                State::Chunk(chunk)
            } else {
                self.owed.push_back(Item::Line(line));
                if offered { State::Deciding(chunk) } else { State::Skip(chunk.size) }
            };
            self.read();
        }
    }

    /// The engine begins a message.
    pub fn begins(&mut self) -> Result<(), String> {
        if self.recipients == 0 {
            return Err("a message begins without a recipient".into());
        }
        self.recipients = 0;
        match self.state {
            _ if std::mem::take(&mut self.go_ahead) => Ok(()),
            State::Deciding(chunk) => {
                self.owed.pop_back();
                self.state = State::Chunk(chunk);
                self.begin(true);
                self.read();
                self.settle();
                Ok(())
            }
            _ => Err("a message begins out of turn".into()),
        }
    }

    fn begin(&mut self, in_chunks: bool) {
        self.messages += 1;
        self.raw.clear();
        self.complete = false;
        (self.in_chunks, self.chunks_go_on) = (in_chunks, in_chunks);
    }

    fn read(&mut self) {
        let mut at = 0;
        loop {
            let rest = &self.unread[at..];
            match self.state {
                State::Commands | State::Auth => {
                    let Some(end) = memchr(rest) else { break };
                    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]).to_vec();
                    at += end + 1;
                    self.line(line);
                }
                State::AwaitData | State::AwaitAuth | State::AwaitChunk(..) | State::Deciding(_) => break,
                State::Body => {
                    let begun = self.raw.len();
                    self.raw.extend_from_slice(rest);
                    let Some(end) = end_of_message(&self.raw, begun) else {
                        at = self.unread.len();
                        break;
                    };
                    at += end - begun;
                    self.raw.truncate(end);
                    self.complete = true;
                    self.state = State::Commands;
                    self.owed.push_back(Item::EndOfData);
                }
                State::Chunk(chunk) => {
                    let some = usize::try_from(chunk.size).unwrap_or(usize::MAX).min(rest.len());
                    self.raw.extend_from_slice(&rest[..some]);
                    at += some;
                    let size = chunk.size - some as u64;
                    if size > 0 {
                        self.state = State::Chunk(Chunk { size, ..chunk });
                        break;
                    }
                    self.state = State::Commands;
                    self.complete = chunk.last;
                    self.owed.push_back(if chunk.last { Item::EndOfData } else { Item::Chunk });
                }
                State::Skip(left) => {
                    let some = left.min(rest.len() as u64);
                    at += usize::try_from(some).unwrap_or(rest.len());
                    self.state = if some == left { State::Commands } else { State::Skip(left - some) };
                    if some < left {
                        break;
                    }
                }
            }
        }
        self.unread.drain(..at);
    }

    fn line(&mut self, line: Vec<u8>) {
        let verb = verb(&line);
        if self.state == State::Auth {
            self.state = State::AwaitAuth;
            // Cancelled by weir where the line cannot be passed on.
            self.secrets.extend([line.clone(), b"*".to_vec()]);
            return self.owed.push_back(Item::Line(line));
        }
        if verb == b"AUTH" {
            self.state = State::AwaitAuth;
        }
        if verb == b"DATA" && line.trim_ascii_end().len() == 4 {
            self.state = State::AwaitData;
        } else if let Some(chunk) = announced(&line).filter(|_| verb == b"BDAT") {
            self.lines.push(line.clone());
            self.state = State::AwaitChunk(chunk, line);
            return;
        }
        self.lines.push(line.clone());
        self.owed.push_back(Item::Line(line));
    }

    /// Octets from the engine.
    pub fn hears(&mut self, octets: &[u8]) {
        self.unheard.extend_from_slice(octets);
    }

    /// The next whole reply in them, and what it answers. To be followed by `settle`.
    pub fn next_heard(&mut self) -> Result<Option<(Option<Item>, Heard)>, String> {
        let Some(reply) = self.reply()? else { return Ok(None) };
        self.last_code = reply.code;
        let item = self.owed.pop_front();
        self.answered(item.as_ref(), &reply);
        Ok(Some((item, reply)))
    }

    fn reply(&mut self) -> Result<Option<Heard>, String> {
        let mut at = 0;
        let mut first: Option<u16> = None;
        while let Some(end) = memchr(&self.unheard[at..]) {
            let line = &self.unheard[at..at + end];
            let bad = || format!("the customer cannot parse {}", line.escape_ascii());
            let line = line.strip_suffix(b"\r").ok_or_else(bad)?;
            let code = line.get(..3).and_then(|code| std::str::from_utf8(code).ok()?.parse::<u16>().ok());
            let code = code.filter(|code| (200..600).contains(code)).ok_or_else(bad)?;
            if *first.get_or_insert(code) != code
                || line.iter().any(|octet| octet.is_ascii_control() && *octet != b'\t')
            {
                return Err(bad());
            }
            at += end + 1;
            match line.get(3) {
                Some(b'-') => {}
                None | Some(b' ') => {
                    let text = self.unheard.drain(..at).collect();
                    return Ok(Some(Heard { code, text }));
                }
                Some(_) => return Err(bad()),
            }
        }
        Ok(None)
    }

    /// The engine went on behind an AUTH that is not answered yet: it must refuse it.
    pub fn auth_was_refused(&mut self) -> bool {
        let awaited = self.state == State::AwaitAuth;
        if awaited {
            self.state = State::Commands;
            self.read();
            self.settle();
        }
        awaited
    }

    pub fn is_secret(&self, line: &[u8]) -> bool {
        self.secrets.iter().any(|secret| secret == line)
    }

    fn answered(&mut self, item: Option<&Item>, reply: &Heard) {
        let positive = reply.code / 100 == 2;
        let line = match item {
            Some(Item::Line(line)) => line,
            Some(Item::Chunk) => {
                self.chunks_go_on &= positive;
                return;
            }
            Some(Item::EndOfData) => {
                self.chunks_go_on = false;
                return;
            }
            _ => return,
        };
        if let State::Deciding(chunk) = self.state {
            self.state = State::Skip(chunk.size);
            self.read();
            return;
        }
        if self.state == State::AwaitAuth && self.owed.is_empty() {
            self.state = if reply.code == 334 { State::Auth } else { State::Commands };
            self.secret_follows = reply.code == 334;
            self.read();
            return;
        }
        self.secret_follows = false;
        self.chunks_go_on &= !ends_transaction(line);
        match verb(line).as_slice() {
            b"RSET" if positive => self.recipients = 0,
            b"MAIL" if positive => {
                self.transactions += 1;
                self.recipients = 0;
                let upper = line.to_ascii_uppercase();
                self.binary = upper.windows(15).any(|part| part == b"BODY=BINARYMIME");
            }
            b"RCPT" if positive => self.recipients += 1,
            b"EHLO" | b"HELO" if positive => {
                self.recipients = 0;
                self.offers_chunks = reply.text.windows(8).any(|part| part == b"CHUNKING");
                self.helo = line.get(4..).unwrap_or_default().trim_ascii().to_vec();
            }
            b"DATA" if self.state == State::AwaitData => {
                self.state = State::Commands;
                if reply.code == 354 {
                    self.state = State::Body;
                    self.begin(false);
                    self.go_ahead = true;
                }
                self.read();
            }
            _ => {}
        }
    }

    /// The message as a receiver must get it: dots unstuffed, every line end CRLF. `None`: not complete, or
    /// with something in it for which it must be refused.
    pub fn canonical(&self) -> Option<Vec<u8>> {
        if self.in_chunks {
            let bare_cr = |at: usize| self.raw[at] == b'\r' && self.raw.get(at + 1) != Some(&b'\n');
            let text = !self.raw.contains(&0) && !(0..self.raw.len()).any(bare_cr);
            return Some(self.raw.clone()).filter(|_| self.complete && (text || self.binary));
        }
        let body = self.raw.strip_suffix(b".\r\n").filter(|_| self.complete)?;
        let mut canonical = Vec::with_capacity(body.len() + 8);
        let mut rest = body;
        while !rest.is_empty() {
            let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
            let mut line = &rest[..end];
            rest = &rest[end + 2..];
            // A dot before a bare LF is text.
            if line.first() == Some(&b'.') && line.get(1) != Some(&b'\n') {
                line = &line[1..];
            }
            for octet in line {
                match octet {
                    b'\r' | 0 => return None,
                    b'\n' => canonical.extend_from_slice(b"\r\n"),
                    _ => canonical.push(*octet),
                }
            }
            canonical.extend_from_slice(b"\r\n");
        }
        Some(canonical)
    }
}

/// Whether a message in chunks does not go on after this.
fn ends_transaction(line: &[u8]) -> bool {
    let verb = verb(line);
    match verb.as_slice() {
        b"RSET" | b"QUIT" => line.trim_ascii().len() == verb.len(),
        b"EHLO" | b"HELO" => line.trim_ascii().len() > verb.len(),
        _ => false,
    }
}

/// What a BDAT line that can be understood announces.
fn announced(line: &[u8]) -> Option<Chunk> {
    let mut words =
        std::str::from_utf8(line).ok()?.split([' ', '\t']).filter(|word| !word.is_empty()).skip(1);
    let size = words.next().filter(|size| size.bytes().all(|octet| octet.is_ascii_digit()))?.parse().ok()?;
    let last = words.next();
    let fits = last.is_none_or(|last| last.eq_ignore_ascii_case("LAST")) && words.next().is_none();
    fits.then_some(Chunk { size, last: last.is_some() })
}

pub fn verb(line: &[u8]) -> Vec<u8> {
    let end = line.iter().position(|octet| matches!(octet, b' ' | b'\t')).unwrap_or(line.len());
    line[..end].to_ascii_uppercase()
}

fn memchr(octets: &[u8]) -> Option<usize> {
    octets.iter().position(|octet| *octet == b'\n')
}

/// Where CRLF.CRLF ends, if it does not end before `begun`.
fn end_of_message(raw: &[u8], begun: usize) -> Option<usize> {
    if raw.starts_with(b".\r\n") {
        return Some(3);
    }
    let from = begun.saturating_sub(4);
    raw[from..].windows(5).position(|five| five == b"\r\n.\r\n").map(|at| from + at + 5)
}

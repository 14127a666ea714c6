//! A simulated SMTP server, as destination or as filter node: lax, so that a mistake of the engine shows.

use bytes::BytesMut;
use weir_smtp::Reply;
use weir_smtp::command::Command;
use weir_smtp::data::DataDecoder;
use weir_smtp::extension::Extensions;
use weir_smtp::line::LineDecoder;

/// Where a server stops working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Banner,
    Ehlo,
    Xclient,
    Xforward,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Body,
    Chunk,
    EndOfData,
}

/// What it does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Close,
    Hang,
    Say(&'static str),
}

#[derive(Debug)]
pub struct Server {
    pub ehlo: &'static str,
    pub trouble: Option<(Stage, Trouble)>,
    /// What it does at the first command on a connection that was kept ready.
    pub tired: Option<Trouble>,
    /// RCPT of this domain is refused.
    pub refuses: &'static str,
    mode: Mode,
    decoder: LineDecoder,
    data: DataDecoder,
    body: Vec<u8>,
    recipients: usize,
    /// Every octet it got.
    pub received: Vec<u8>,
    /// Commands it got.
    pub commands: Vec<String>,
    /// Bodies that were completed.
    pub messages: Vec<Vec<u8>>,
    pub hangs: bool,
    pub closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Commands,
    Data,
    /// So many octets of a chunk to come, and whether it is the last.
    Chunk(u64, bool),
    /// So many lines of an AUTH exchange to come.
    Auth(u8),
}

impl Server {
    pub fn new(ehlo: &'static str) -> Self {
        Self {
            ehlo,
            trouble: None,
            tired: None,
            refuses: "nowhere.invalid",
            mode: Mode::Commands,
            decoder: LineDecoder::new(8192),
            data: DataDecoder::default(),
            body: Vec::new(),
            recipients: 0,
            received: Vec::new(),
            commands: Vec::new(),
            messages: Vec::new(),
            hangs: false,
            closed: false,
        }
    }

    pub fn announces(&self, keyword: &str) -> bool {
        self.ehlo.contains(keyword)
    }

    /// As told by its answer to EHLO.
    pub fn announced(&self) -> Extensions {
        let keywords = self.ehlo.lines().map(|line| &line[4..]).collect::<Vec<_>>().join("\n");
        Extensions::from_reply(&Reply::new(250, format!("mx.example\n{keywords}")))
    }

    pub fn with(mut self, stage: Stage, trouble: Trouble) -> Self {
        self.trouble = Some((stage, trouble));
        self
    }

    /// A new connection; what it got before is remembered.
    pub fn connect(&mut self) -> Vec<u8> {
        self.greeted();
        self.answer(Stage::Banner, "220 mx.example ESMTP")
    }

    /// A connection that was kept ready.
    pub fn greeted(&mut self) {
        self.mode = Mode::Commands;
        self.decoder = LineDecoder::new(8192);
        self.body.clear();
        (self.recipients, self.hangs, self.closed) = (0, false, false);
    }

    pub fn feed(&mut self, mut octets: &[u8]) -> Vec<u8> {
        self.received.extend_from_slice(octets);
        let mut replies = Vec::new();
        while !octets.is_empty() && !self.closed && !self.hangs {
            let reply = match self.mode {
                Mode::Commands | Mode::Auth(_) => {
                    let line = self.decoder.next(&mut octets);
                    match line {
                        Some(line) => self.command(&line.expect("a clean line").text),
                        None => break,
                    }
                }
                Mode::Data => self.data(&mut octets),
                Mode::Chunk(left, last) => self.chunk(left, last, &mut octets),
            };
            replies.extend_from_slice(&reply);
        }
        replies
    }

    fn data(&mut self, octets: &mut &[u8]) -> Vec<u8> {
        let mut body = BytesMut::new();
        let ended = self.data.decode(octets, &mut body);
        self.body.extend_from_slice(&body);
        if let Some((Stage::Body, Trouble::Close)) = self.trouble {
            self.closed = true;
            return Vec::new();
        }
        if let Some((Stage::Body, Trouble::Say(said))) = self.trouble {
            self.trouble = None;
            return format!("{said}\r\n").into_bytes();
        }
        if !ended {
            return Vec::new();
        }
        self.mode = Mode::Commands;
        self.messages.push(std::mem::take(&mut self.body));
        self.answer(Stage::EndOfData, "250 2.0.0 taken")
    }

    fn chunk(&mut self, left: u64, last: bool, octets: &mut &[u8]) -> Vec<u8> {
        let here = usize::try_from(left).unwrap().min(octets.len());
        let (taken, rest) = octets.split_at(here);
        *octets = rest;
        self.body.extend_from_slice(taken);
        self.mode = Mode::Chunk(left - here as u64, last);
        if let Some((Stage::Body, Trouble::Close)) = self.trouble {
            self.closed = true;
            return Vec::new();
        }
        if here as u64 == left { self.chunk_ended(last) } else { Vec::new() }
    }

    fn chunk_ended(&mut self, last: bool) -> Vec<u8> {
        self.mode = Mode::Commands;
        if !last {
            return self.answer(Stage::Chunk, "250 2.0.0 chunk taken");
        }
        self.messages.push(std::mem::take(&mut self.body));
        self.answer(Stage::EndOfData, "250 2.0.0 taken")
    }

    fn command(&mut self, line: &[u8]) -> Vec<u8> {
        self.commands.push(String::from_utf8_lossy(line).into_owned());
        if let Mode::Auth(left) = self.mode {
            self.mode = if line == b"*" || left == 1 { Mode::Commands } else { Mode::Auth(left - 1) };
            return match (line, left) {
                (b"*", _) => b"501 5.5.4 cancelled\r\n".to_vec(),
                (_, 1) => b"235 2.7.0 welcome\r\n".to_vec(),
                _ => b"334 UGFzc3dvcmQ6\r\n".to_vec(),
            };
        }
        let ehlo = format!("250-mx.example\r\n{}", self.ehlo);
        match Command::parse(line) {
            Ok(Command::Ehlo(_)) => self.answer(Stage::Ehlo, &ehlo),
            Ok(Command::Xclient(_)) => self.answer(Stage::Xclient, "220 go on"),
            Ok(Command::Auth) => {
                let reply = self.answer(Stage::Auth, "334 VXNlcm5hbWU6");
                if reply.starts_with(b"334") {
                    self.mode = Mode::Auth(2);
                }
                reply
            }
            Ok(Command::StartTls) => self.answer(Stage::StartTls, "220 go ahead"),
            Ok(Command::Mail(_)) => {
                self.recipients = 0;
                self.answer(Stage::Mail, "250 2.1.0 sender ok")
            }
            Ok(Command::Rcpt(to)) if to.path.domain().as_deref() == Some(self.refuses) => {
                b"550-5.1.1 no such\r\n550 5.1.1 recipient\r\n".to_vec()
            }
            Ok(Command::Rcpt(_)) => {
                self.recipients += 1;
                self.answer(Stage::Rcpt, "250 2.1.5 recipient ok")
            }
            Ok(Command::Data) if self.recipients > 0 => {
                let reply = self.answer(Stage::Data, "354 go ahead");
                if reply.starts_with(b"354") {
                    self.mode = Mode::Data;
                    self.data = DataDecoder::default();
                }
                reply
            }
            Ok(Command::Bdat { size: 0, last }) => self.chunk_ended(last),
            Ok(Command::Bdat { size, last }) => {
                self.mode = Mode::Chunk(size, last);
                Vec::new()
            }
            Ok(Command::Quit) => {
                self.closed = true;
                b"221 2.0.0 bye\r\n".to_vec()
            }
            Ok(Command::Rset) => {
                self.body.clear();
                self.recipients = 0;
                b"250 2.0.0 reset\r\n".to_vec()
            }
            Ok(Command::Xforward(_)) => self.answer(Stage::Xforward, "250 2.0.0 ok"),
            Ok(Command::Noop | Command::Helo(_)) => b"250 2.0.0 ok\r\n".to_vec(),
            _ => b"500 5.5.1 what?\r\n".to_vec(),
        }
    }

    fn answer(&mut self, stage: Stage, usual: &str) -> Vec<u8> {
        let tired = self.tired.filter(|_| stage == Stage::Xclient).map(|trouble| (stage, trouble));
        self.tired = self.tired.filter(|_| tired.is_none());
        let said = match tired.or(self.trouble) {
            Some((at, Trouble::Close)) if at == stage => {
                self.closed = true;
                return Vec::new();
            }
            Some((at, Trouble::Hang)) if at == stage => {
                self.hangs = true;
                return Vec::new();
            }
            Some((at, Trouble::Say(said))) if at == stage => said,
            _ => usual,
        };
        format!("{said}\r\n").into_bytes()
    }
}

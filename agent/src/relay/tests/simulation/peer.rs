//! A simulated SMTP server, as destination or as filter node, that does everything a server should not
//! when chance says so. It is lax and remembers everything, so that a mistake of the engine shows.

use super::choices::Choices;
use super::mouth::{Ending, Mouth, SECOND, Time};

/// What a peer understood of what it was sent.
#[derive(Debug)]
pub enum Understood {
    Command(Vec<u8>),
    /// A line that did not end with CRLF, or with something in it that no line may have.
    BadLine(Vec<u8>),
    /// A message came to its end.
    Message(Sent),
}

/// A message as it was sent.
#[derive(Debug)]
pub enum Sent {
    /// With its dots stuffed; the end left out.
    Stuffed(Vec<u8>),
    /// In chunks.
    Counted(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Commands,
    Data,
    /// So many octets of a chunk are still to come; whether it is the last.
    Chunk(u64, bool),
    /// Reads nothing and says nothing.
    Deaf,
}

#[derive(Debug)]
pub struct Peer {
    pub mouth: Mouth,
    /// D or F: the letter in the names of its replies.
    letter: char,
    /// In how many cases of 256 it misbehaves.
    temper: usize,
    keywords: Vec<&'static str>,
    mode: Mode,
    line: Vec<u8>,
    body: Vec<u8>,
    recipients: usize,
    /// The next line is part of an AUTH exchange.
    auth: bool,
    secured: bool,
    /// The command that each of its replies answers, by the reply's number.
    pub answered: Vec<Vec<u8>>,
    /// Every reply answered one command, in order.
    pub in_step: bool,
}

impl Peer {
    pub fn new(letter: char, temper: usize, keywords: Vec<&'static str>) -> Self {
        Self {
            mouth: Mouth::default(),
            letter,
            temper,
            keywords,
            mode: Mode::Commands,
            line: Vec::new(),
            body: Vec::new(),
            recipients: 0,
            auth: false,
            secured: false,
            answered: Vec::new(),
            in_step: true,
        }
    }

    /// It was told DATA and waits for the end of a message.
    pub fn is_in_data(&self) -> bool {
        matches!(self.mode, Mode::Data | Mode::Chunk(..))
    }

    /// A new connection.
    pub fn connect(&mut self) {
        (self.mouth, self.mode, self.recipients) = (Mouth::default(), Mode::Commands, 0);
        (self.auth, self.secured) = (false, false);
        self.line.clear();
        self.body.clear();
    }

    pub fn secured(&mut self) {
        self.secured = true;
        self.recipients = 0;
        self.line.clear();
    }

    pub fn announces(&self, keyword: &str) -> bool {
        self.keywords.iter().any(|announced| announced.starts_with(keyword))
    }

    /// The names behind a keyword that it announces; none if it does not.
    pub fn attributes(&self, keyword: &str) -> Vec<&'static str> {
        let words = self.keywords.iter().map(|announced| announced.split(' '));
        let mut words = words.filter(|words| words.clone().next() == Some(keyword)).flatten();
        words.next();
        words.collect()
    }

    /// The text of its answer to EHLO.
    pub fn greeting(&self) -> String {
        let offered = self.keywords.iter().filter(|keyword| !self.secured || **keyword != "STARTTLS");
        let keywords = offered.map(|keyword| format!("\n{keyword}"));
        format!("mx.example{}", keywords.collect::<String>())
    }

    pub fn greet(&mut self, now: Time, choices: &mut Choices) {
        self.answer(b"", "220 mx.example ESMTP", now, choices);
    }

    pub fn feed(&mut self, octets: &[u8], now: Time, choices: &mut Choices) -> Vec<Understood> {
        let mut understood = Vec::new();
        for octet in octets {
            match self.mode {
                Mode::Deaf => break,
                Mode::Commands if *octet == b'\n' => {
                    self.line.push(b'\n');
                    let line = std::mem::take(&mut self.line);
                    understood.push(self.line(&line, now, choices));
                }
                Mode::Commands => self.line.push(*octet),
                Mode::Data => {
                    self.body.push(*octet);
                    if *octet == b'\n' && (self.body == b".\r\n" || self.body.ends_with(b"\r\n.\r\n")) {
                        self.body.truncate(self.body.len() - 3);
                        self.mode = Mode::Commands;
                        understood.push(Understood::Message(Sent::Stuffed(std::mem::take(&mut self.body))));
                        self.answer(b"<end of data>", "250 2.0.0 taken", now, choices);
                    }
                }
                Mode::Chunk(left, last) => {
                    self.body.push(*octet);
                    self.mode = Mode::Chunk(left - 1, last);
                }
            }
            if let Mode::Chunk(0, last) = self.mode {
                self.mode = Mode::Commands;
                if last {
                    understood.push(Understood::Message(Sent::Counted(std::mem::take(&mut self.body))));
                    self.answer(b"<end of data>", "250 2.0.0 taken", now, choices);
                } else {
                    self.answer(b"<chunk>", "250 2.0.0 chunk taken", now, choices);
                }
            }
        }
        if self.is_in_data() && !octets.is_empty() && choices.odds(self.temper) {
            self.unasked(now, choices);
        }
        understood
    }

    /// Something that nothing asked for.
    pub fn unasked(&mut self, now: Time, choices: &mut Choices) {
        self.in_step = false;
        match choices.below(9) {
            0 => self.say("421 4.3.2 shutting down", now),
            1 => self.mouth.end(now, Ending::Close),
            2 => self.mouth.end(now, Ending::Reset),
            3 => self.say("250 2.0.0 fine", now),
            4 => self.say("552 5.3.4 enough", now),
            5 => self.say("354 go on", now),
            6 | 7 => self.say("250 2.0.0 taken already", now),
            _ => self.mouth.say(now, b"*** garbage \0\xff\r\n".to_vec()),
        }
    }

    fn line(&mut self, line: &[u8], now: Time, choices: &mut Choices) -> Understood {
        let clean = |text: &[u8]| text.iter().all(|octet| *octet == b'\t' || !octet.is_ascii_control());
        let Some(text) = line.strip_suffix(b"\r\n").filter(|text| clean(text)) else {
            return Understood::BadLine(line.to_vec());
        };
        self.command(text, now, choices);
        Understood::Command(text.to_vec())
    }

    fn command(&mut self, text: &[u8], now: Time, choices: &mut Choices) {
        if std::mem::take(&mut self.auth) {
            let usual = if text == b"*" { "501 5.7.0 cancelled" } else { "235 2.7.0 welcome" };
            return self.answer(text, usual, now, choices);
        }
        let verb = text.split(|octet| *octet == b' ').next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_slice() {
            b"EHLO" => {
                let reply = format!("250 {}", self.greeting());
                self.answer(text, &reply, now, choices);
            }
            b"STARTTLS" => self.answer(text, "220 2.0.0 go ahead", now, choices),
            b"AUTH" if text.len() < 12 => {
                self.auth = true;
                self.answer(text, "334 VXNlcm5hbWU6", now, choices);
            }
            b"AUTH" => self.answer(text, "235 2.7.0 welcome", now, choices),
            b"XCLIENT" => self.answer(text, "220 go on", now, choices),
            b"MAIL" => {
                self.recipients = 0;
                self.answer(text, "250 2.1.0 sender", now, choices);
            }
            b"RCPT" if text.windows(7).any(|part| part == b"nowhere") => {
                self.answer(text, "550 5.1.1 no such\nrecipient", now, choices);
            }
            b"RCPT" => {
                self.recipients += 1;
                self.answer(text, "250 2.1.5 recipient", now, choices);
            }
            b"DATA" if self.recipients > 0 => {
                self.answer(text, "354 go ahead", now, choices);
            }
            b"BDAT" => {
                let text = String::from_utf8_lossy(text);
                let size = text.split(' ').nth(1).and_then(|size| size.parse().ok()).unwrap_or(0);
                self.mode = Mode::Chunk(size, text.ends_with(" LAST"));
            }
            b"RSET" => {
                self.body.clear();
                self.recipients = 0;
                self.answer(text, "250 2.0.0 reset", now, choices);
            }
            b"QUIT" => {
                self.answer(text, "221 2.0.0 bye", now, choices);
                self.mouth.end(now, Ending::Close);
            }
            b"HELO" | b"NOOP" | b"VRFY" | b"EXPN" | b"HELP" | b"XFORWARD" => {
                self.answer(text, "250 2.0.0 ok", now, choices);
            }
            _ => self.answer(text, "503 5.5.1 what", now, choices),
        }
    }

    /// The usual answer to a command, or some trouble.
    fn answer(&mut self, asked: &[u8], usual: &str, now: Time, choices: &mut Choices) {
        self.answered.push(asked.to_vec());
        if usual.starts_with("354") {
            self.mode = Mode::Data;
        }
        if !choices.odds(self.temper) {
            self.say(usual, now);
            return;
        }
        match choices.below(19) {
            0 => self.refuse("451 4.3.0 later", now),
            1 => self.refuse("550 5.7.1 no", now),
            2 => {
                self.refuse("421 4.3.2 busy", now);
                self.mouth.end(now, Ending::Close);
            }
            3 => self.refuse("421 4.3.2 busy and here", now),
            4 => self.mouth.end(now, Ending::Close),
            5 => self.mouth.end(now, Ending::Reset),
            6 => self.mode = Mode::Deaf,
            7 => self.say(&format!("{usual}\nmore\n\tand more"), now),
            8 => self.say(usual, now + choices.pick(&[1, 10, 50, 250, 700]) * SECOND),
            9 => self.trickle(usual, now, choices),
            10 => {
                let octets = self.named(usual).replace("\r\n", "\n").into_bytes();
                self.mouth.say(now, octets);
            }
            other => self.out_of_step(other, usual, now, choices),
        }
    }

    fn out_of_step(&mut self, which: usize, usual: &str, now: Time, choices: &mut Choices) {
        self.in_step = false;
        match which {
            11 => {}
            12 => {
                self.say(usual, now);
                self.say(usual, now);
            }
            13 => {
                let odd = ["250 odd", "354 odd", "220 odd", "299 odd", "334 odd", "554 odd", "600 odd"];
                let odd = choices.pick(&odd);
                self.say(odd, now);
            }
            14 => self.mouth.say(now, b"hello\r\n".to_vec()),
            15 => self.mouth.say(now, [b"250 ", &[b'x'; 5000][..], b"\r\n"].concat()),
            16 => self.mouth.say(now, b"250-again\r\n".repeat(200)),
            17 => self.mouth.say(now, b"250-one\r\n251 two\r\n".to_vec()),
            _ => self.mouth.say(now, b"25".to_vec()),
        }
    }

    fn refuse(&mut self, said: &str, now: Time) {
        if self.mode == Mode::Data {
            self.mode = Mode::Commands;
        }
        self.auth = false;
        // Nobody refuses RSET: one that does cannot be told from one that answers something else.
        self.in_step &= self.answered.last().is_none_or(|asked| asked != b"RSET");
        if self.answered.last().is_some_and(|asked| asked.starts_with(b"RCPT")) {
            self.recipients = self.recipients.saturating_sub(1);
        }
        self.say(said, now);
    }

    /// Octet by octet, slowly.
    fn trickle(&mut self, said: &str, now: Time, choices: &mut Choices) {
        let pause = choices.pick(&[1, 20, 200]) * SECOND;
        let mut at = now;
        for octet in self.named(said).into_bytes() {
            at += pause;
            self.mouth.say(at, vec![octet]);
        }
    }

    fn say(&mut self, said: &str, at: Time) {
        let octets = self.named(said).into_bytes();
        self.mouth.say(at, octets);
    }

    /// A reply with its number in the first line, so that it can be told from all others. Lines after the
    /// first are without a code.
    fn named(&self, said: &str) -> String {
        let (code, text) = said.split_at(3);
        let number = self.answered.len().saturating_sub(1);
        let lines: Vec<&str> = text[1..].split('\n').collect();
        let mut reply = String::new();
        for (index, line) in lines.iter().enumerate() {
            let separator = if index + 1 < lines.len() { '-' } else { ' ' };
            reply.push_str(&format!("{code}{separator}{line}"));
            if index == 0 {
                reply.push_str(&format!(" #{}{number}", self.letter));
            }
            reply.push_str("\r\n");
        }
        reply
    }
}

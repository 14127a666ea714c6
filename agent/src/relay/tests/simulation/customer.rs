//! A simulated customer: mostly one who sends messages, at times one who tries everything.

use super::choices::Choices;
use super::mouth::{Ending, Mouth, SECOND, Time};

/// What comes next in a session without surprises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Greet,
    Mail,
    Rcpt,
    Data,
    Body,
    Chunk,
    Quit,
    Nothing,
}

#[derive(Debug)]
pub struct Customer {
    pub mouth: Mouth,
    next: Next,
    messages: usize,
    pieces: usize,
    /// In how many cases of 256 a piece is a surprise.
    temper: usize,
    /// Waits for every reply before it goes on.
    pub patient: bool,
    /// Speaks before it is greeted.
    early: bool,
}

/// Most pieces of one session.
const PIECES: usize = 60;

const MAIL: &[&[u8]] = &[
    b"MAIL FROM:<a@b.example>\r\n",
    b"MAIL FROM:<>\r\n",
    b"mail from:<a@b.example> SIZE=10\r\n",
    b"MAIL FROM:<a@b.example> BODY=8BITMIME\r\n",
    b"MAIL FROM:<a@b.example> SMTPUTF8\r\n",
    b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n",
    b"MAIL FROM:<a@b.example> RET=HDRS ENVID=x\r\n",
    b"MAIL FROM:<a@b.example> SIZE=99999999\r\n",
    b"MAIL FROM:<a@b.example> AUTH=<> X-Y=z\r\n",
    b"MAIL FROM: a@b.example\n",
    b"MAIL FROM:<a@b.example\r\n",
    b"MAIL\r\n",
];

const RCPT: &[&[u8]] = &[
    b"RCPT TO:<c@d.example>\r\n",
    b"RCPT TO:<e@f.example>\r\n",
    b"RCPT TO:<c@nowhere.invalid>\r\n",
    b"RCPT TO:<c@d.example> NOTIFY=NEVER\r\n",
    b"RCPT TO:<\"a> b\"@d.example>\r\n",
    b"RCPT TO:<c@d.example>\n",
    b"RCPT TO:\r\n",
];

/// What a session has no need of.
const SURPRISES: &[&[u8]] = &[
    b"NOOP\r\n",
    b"RSET\r\n",
    b"EHLO again.example\r\n",
    b"HELO once.example\r\n",
    b"EHLO we+ird=n\xe4me\r\n",
    b"DATA\r\n",
    b"MAIL FROM:<a@b.example>\r\n",
    b"RCPT TO:<c@d.example>\r\n",
    b"VRFY postmaster\r\n",
    b"EXPN list\r\n",
    b"HELP\r\n",
    b"STARTTLS\r\n",
    b"STARTTLS\r\nEHLO injected\r\n",
    b"XCLIENT ADDR=192.0.2.1\r\n",
    b"XFORWARD IDENT=forged\r\n",
    b"ETRN example.org\r\n",
    b"TURN\r\n",
    b"ATRN x\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AUTH LOGIN\r\n",
    b"AUTH LOGIN\r\nc2VjcmV0\r\n",
    b"AUTH LOGIN\r\nMAIL FROM:<x>\0\r\n",
    b"BDAT 6\r\nQUIT\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 0\r\n",
    b"BDAT 5 LAST now\r\n",
    b"BDAT 99999999 LAST\r\n",
    b"BDAT 20 LAST\r\n\r\n.\r\nMAIL FROM:<x>\r\n",
    b"BDAT x\r\n",
    b"XYZZY plugh\r\n",
    b"\r\n",
    b" NOOP\r\n",
    b"NOOP\rRSET\r\n",
    b"NO\0OP\r\n",
    b"NOOP x\n",
    b".\r\n",
    b"GET / HTTP/1.1\r\nHost: mx\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
    b"QUIT\r\nNOOP\r\n",
    b"QUIT now\r\n",
    b"NOOP \xff\xfe\r\n",
];

/// Pieces of bodies: plain ones, then all that smuggling was ever tried with.
const TEXT: &[&[u8]] = &[
    b"Subject: x\r\n\r\nHello\r\n",
    b"..stuffed\r\n",
    b"\r\n",
    b"8-bit \xe4\xf6\r\n",
    b".\r \r\n",
    b"no end",
    b"bare\nlf\n",
    b".unstuffed\r\n",
    b"\n.\n",
    b"\n.\r",
    b"\r.\n",
    b"\r.\r",
    b"\n.\r\n",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n\0.\r\n",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b".\n",
    b"\r\n..\r\n",
    b"\n..\r\n",
];

const SMUGGLED: &[u8] =
    b"MAIL FROM:<smuggled@b.example>\r\nRCPT TO:<victim@d.example>\r\nDATA\r\nsmuggled\r\n.\r\n";

impl Customer {
    pub fn new(temper: usize, choices: &mut Choices) -> Self {
        Self {
            mouth: Mouth::default(),
            next: Next::Greet,
            messages: 1 + choices.below(4),
            pieces: 0,
            temper,
            patient: choices.below(3) == 2,
            early: choices.odds(8),
        }
    }

    /// Whether it has something to say, now that everything it said was read.
    pub fn wants_to_speak(&self, greeted: bool, answered: bool) -> bool {
        let goes_on = self.next != Next::Nothing && !self.mouth.has_ended();
        goes_on && (greeted || self.early) && self.mouth.is_silent() && (answered || !self.patient)
    }

    /// Says the next thing. `in_body`: a go-ahead was given.
    pub fn speak(&mut self, in_body: bool, now: Time, choices: &mut Choices) {
        self.pieces += 1;
        let mut at = now;
        if self.temper > 0 && choices.odds(8) {
            at += choices.pick(&[1, 5, 100, 310]) * SECOND;
        }
        if self.pieces > PIECES {
            self.next = Next::Nothing;
            self.mouth.end(at, Ending::Close);
        } else if choices.odds(self.temper) {
            self.surprise(at, choices);
        } else {
            self.go_on(in_body, at, choices);
        }
    }

    fn go_on(&mut self, in_body: bool, at: Time, choices: &mut Choices) {
        let plain = self.temper == 0;
        let mut one_of = |list: &[&'static [u8]], usual: usize| {
            choices.pick(&list[..if plain { usual } else { list.len() }]).to_vec()
        };
        let (said, next) = match self.next {
            Next::Greet => (b"EHLO mail.example\r\n".to_vec(), Next::Mail),
            Next::Mail => (one_of(MAIL, 5), Next::Rcpt),
            Next::Rcpt => {
                let said = one_of(RCPT, 4);
                (said, if choices.odds(80) { Next::Rcpt } else { Next::Data })
            }
            Next::Data if choices.odds(96) => self.chunk(choices),
            Next::Data => (b"DATA\r\n".to_vec(), Next::Body),
            Next::Chunk => self.chunk(choices),
            Next::Body => {
                // A patient customer sends a body only when it may.
                let said = if in_body || !self.patient { self.body(choices) } else { b"RSET\r\n".to_vec() };
                self.messages = self.messages.saturating_sub(1);
                (said, if self.messages > 0 { Next::Mail } else { Next::Quit })
            }
            Next::Quit => (b"QUIT\r\n".to_vec(), Next::Nothing),
            Next::Nothing => (Vec::new(), Next::Nothing),
        };
        self.mouth.say(at, said);
        self.next = next;
    }

    /// A chunk, perhaps the last; what looks like an end or a command in it is content.
    fn chunk(&mut self, choices: &mut Choices) -> (Vec<u8>, Next) {
        let mut content = self.body(choices);
        if choices.odds(128) {
            content.truncate(choices.below(content.len() + 1));
        }
        if choices.odds(40) {
            content.extend_from_slice(SMUGGLED);
        }
        let last = choices.odds(128);
        let size = content.len();
        let mut said = format!("BDAT {size}{}\r\n", if last { " LAST" } else { "" }).into_bytes();
        said.append(&mut content);
        if !last {
            return (said, Next::Chunk);
        }
        self.messages = self.messages.saturating_sub(1);
        (said, if self.messages > 0 { Next::Mail } else { Next::Quit })
    }

    fn body(&self, choices: &mut Choices) -> Vec<u8> {
        let mut body = Vec::new();
        let usual = if self.temper == 0 && choices.below(2) == 0 { 4 } else { TEXT.len() };
        for _ in 0..choices.below(6) {
            body.extend_from_slice(choices.pick(&TEXT[..usual]));
            if usual > 4 && choices.odds(40) {
                body.extend_from_slice(SMUGGLED);
                if body.ends_with(b"\r\n.\r\n") {
                    // An end of its own: what follows are commands.
                    body.extend_from_slice(b"NOOP\r\n");
                }
            }
        }
        if choices.odds(6) {
            let line = [&vec![b'x'; choices.pick(&[10, 99, 100, 101, 1999, 2001])][..], b"\r\n"].concat();
            body.extend(line.repeat(1 + choices.below(90)));
        }
        if !(body.is_empty() || body.ends_with(b"\r\n")) || choices.odds(10) {
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b".\r\n");
        body
    }

    fn surprise(&mut self, at: Time, choices: &mut Choices) {
        match choices.below(24) {
            0 => self.mouth.end(at, Ending::Close),
            1 => self.mouth.end(at, Ending::Reset),
            2 => self.next = Next::Nothing,
            3 => self.mouth.say(at, [&vec![b'y'; 5000][..], b"\r\n"].concat()),
            4 => self.mouth.say(at, b"NOOP\r\n".repeat(choices.pick(&[10, 200, 20_000]))),
            5 => {
                let body = self.body(choices);
                self.mouth.say(at, body);
            }
            6 => self.patient = !self.patient,
            7 => self.next = choices.pick(&[Next::Greet, Next::Mail, Next::Rcpt, Next::Data, Next::Quit]),
            8 => self.mouth.say(at, vec![b'z'; choices.pick(&[1, 100, 70_000])]),
            _ => self.mouth.say(at, choices.pick(SURPRISES).to_vec()),
        }
        if matches!(self.next, Next::Body) && self.messages == 0 {
            self.next = Next::Quit;
        }
    }
}

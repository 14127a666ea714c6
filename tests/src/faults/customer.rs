//! A customer's mail server: one session, in one of the ways in which real ones speak.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use crate::message::{Try, stuffed};

/// How a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// One command, one answer.
    Plain,
    /// MAIL, RCPT and DATA at once (RFC 2920).
    Pipelined,
    /// BDAT (RFC 3030), all chunks at once.
    Chunked,
}

/// What a customer heard of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// 250 to the end of the message: it is somebody else's now.
    Acknowledged,
    /// 5xx.
    Refused(String),
    /// 4xx. `after_end`: to the end of the message.
    Deferred { text: String, after_end: bool },
    /// Nothing. `after_end`: the end of the message was sent, so nobody knows.
    Lost { text: String, after_end: bool },
}

impl Heard {
    /// SMTP leaves open whether the destination has it: the answer to the end was lost, or was a 421, which speaks of
    /// the connection and not of the message.
    pub(crate) fn leaves_open(&self) -> bool {
        match self {
            Self::Lost { after_end, .. } => *after_end,
            Self::Deferred { text, after_end } => *after_end && text.starts_with("421"),
            Self::Acknowledged | Self::Refused(_) => false,
        }
    }

    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Acknowledged | Self::Refused(_))
    }

    /// Whether the session can go on.
    pub(crate) fn ends_session(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::Deferred { text, after_end } => !*after_end || text.starts_with("421"),
            Self::Acknowledged | Self::Refused(_) => false,
        }
    }
}

/// From where to where, and how long a customer waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) from: IpAddr,
    pub(crate) to: SocketAddr,
    pub(crate) connect_patience: Duration,
    pub(crate) patience: Duration,
    /// Tells the other end with XCLIENT whose mail it is, as somebody must who speaks to a filter node.
    pub(crate) xclient: bool,
}

pub(crate) struct Session {
    stream: BufReader<TcpStream>,
    style: Style,
}

impl Session {
    /// Connects and greets. An error holds the server's words, if there were any.
    pub(crate) fn open(route: Route, style: Style) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(route.to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(route.from, 0).into())?;
        socket.connect_timeout(&route.to.into(), route.connect_patience).context("connect")?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(route.patience))?;
        stream.set_write_timeout(Some(route.patience))?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream: BufReader::with_capacity(2048, stream), style };
        session.expect("220")?;
        let mut extensions = session.ask("EHLO mail.customer.test", "250")?;
        if route.xclient {
            session.ask(&format!("XCLIENT ADDR={}", route.from), "220")?;
            extensions = session.ask("EHLO mail.customer.test", "250")?;
        }
        if style == Style::Chunked && !extensions.contains("CHUNKING") {
            session.style = Style::Plain;
        }
        Ok(session)
    }

    /// One try; `content` as in [`Message`](crate::message::Message).
    pub(crate) fn send(&mut self, by: Try, content: &[u8]) -> Heard {
        let mut after_end = false;
        match self.transaction(by, content, &mut after_end) {
            Ok(reply) => match reply.as_bytes().first() {
                Some(b'2') if after_end => Heard::Acknowledged,
                Some(b'5') => Heard::Refused(reply),
                Some(b'4') => Heard::Deferred { text: reply, after_end },
                _ => Heard::Lost { text: format!("an answer out of place: {reply}"), after_end },
            },
            Err(error) => Heard::Lost { text: format!("{error:#}"), after_end },
        }
    }

    /// The answer that decides.
    fn transaction(&mut self, by: Try, content: &[u8], after_end: &mut bool) -> Result<String> {
        let mail = format!("MAIL FROM:<{}>\r\n", by.address());
        let rcpt = "RCPT TO:<user@destination.test>\r\n";
        match self.style {
            Style::Plain => {
                for command in [mail.as_str(), rcpt] {
                    let reply = self.command(command)?;
                    if !reply.starts_with('2') {
                        return Ok(reply);
                    }
                }
                let reply = self.command("DATA\r\n")?;
                if !reply.starts_with("354") {
                    return Ok(reply);
                }
            }
            Style::Pipelined => {
                self.write(format!("{mail}{rcpt}DATA\r\n").as_bytes())?;
                let replies = [self.reply()?, self.reply()?, self.reply()?];
                let [mail, rcpt, data] = replies;
                if let Some(bad) = [mail, rcpt].into_iter().find(|reply| !reply.starts_with('2')) {
                    if data.starts_with("354") {
                        // A message without recipients, so that commands are read as such again.
                        self.command(".\r\n")?;
                    }
                    return Ok(bad);
                }
                if !data.starts_with("354") {
                    return Ok(data);
                }
            }
            Style::Chunked => return self.chunks(&mail, rcpt, content, after_end),
        }
        let wire = stuffed(content);
        let (body, end) = wire.split_at(wire.len() - 3);
        self.write(body)?;
        *after_end = true;
        self.write(end)?;
        self.reply()
    }

    fn chunks(&mut self, mail: &str, rcpt: &str, content: &[u8], after_end: &mut bool) -> Result<String> {
        self.write(format!("{mail}{rcpt}").as_bytes())?;
        let replies = [self.reply()?, self.reply()?];
        if let Some(bad) = replies.into_iter().find(|reply| !reply.starts_with('2')) {
            return Ok(bad);
        }
        let (first, last) = content.split_at(content.len() / 3);
        self.write(format!("BDAT {}\r\n", first.len()).as_bytes())?;
        self.write(first)?;
        *after_end = true;
        self.write(format!("BDAT {} LAST\r\n", last.len()).as_bytes())?;
        self.write(last)?;
        let reply = self.reply()?;
        // Behind a chunk that was refused the last one gets an answer too, and that one decides nothing.
        let decides = self.reply();
        if reply.starts_with('2') { decides } else { Ok(reply) }
    }

    pub(crate) fn quit(mut self) {
        // It has nothing to lose any more.
        let _ = self.command("QUIT\r\n");
    }

    fn command(&mut self, line: &str) -> Result<String> {
        self.write(line.as_bytes())?;
        self.reply()
    }

    fn ask(&mut self, line: &str, code: &str) -> Result<String> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.expect(code)
    }

    fn expect(&mut self, code: &str) -> Result<String> {
        let reply = self.reply()?;
        if !reply.starts_with(code) {
            bail!("{}", reply.trim_end());
        }
        Ok(reply)
    }

    fn write(&mut self, octets: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(octets)?)
    }

    fn reply(&mut self) -> Result<String> {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            if self.stream.read_line(&mut reply)? == 0 {
                bail!("closed");
            }
            let line = &reply[start..];
            if line.len() < 4 || !line.ends_with("\r\n") {
                bail!("no reply: {line:?}");
            }
            if line.as_bytes()[3] != b'-' {
                return Ok(reply.trim_end().to_owned());
            }
        }
    }
}

//! One SMTP connection, command by command.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Socket, Type};

use super::stuffed;
use crate::lab::Host;
use crate::wait::PATIENCE;

pub struct Client {
    stream: BufReader<TcpStream>,
    transcript: String,
    sent: u64,
}

/// A server's answer, all of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// The texts of the lines, without code and separator.
    pub lines: Vec<String>,
}

impl Reply {
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Whether an EHLO answer announces this keyword.
    pub fn announces(&self, keyword: &str) -> bool {
        let first_word = |line: &String| line.split_whitespace().next().map(str::to_ascii_uppercase);
        self.lines.iter().skip(1).any(|line| first_word(line).as_deref() == Some(keyword))
    }

    pub fn expect(self, code: u16) -> Result<Self> {
        ensure!(self.code == code, "expected {code}, got {} {}", self.code, self.text());
        Ok(self)
    }
}

impl Client {
    /// Connects from a host's usual address.
    pub fn connect(host: &Host, to: SocketAddr) -> Result<Self> {
        let stream = host.in_network(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
        Self::over(stream)
    }

    /// Connects from one of the host's addresses.
    pub fn connect_from(host: &Host, from: IpAddr, to: SocketAddr) -> Result<Self> {
        Self::connect_within(host, from, to, PATIENCE)
    }

    /// Connects from one of the host's addresses; every step may take no longer than `patience`.
    pub fn connect_within(host: &Host, from: IpAddr, to: SocketAddr, patience: Duration) -> Result<Self> {
        let stream = host.in_network(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket
                .connect_timeout(&to.into(), patience)
                .with_context(|| format!("connect {from} to {to}"))?;
            Ok(TcpStream::from(socket))
        })?;
        let client = Self::over(stream)?;
        client.stream.get_ref().set_read_timeout(Some(patience))?;
        Ok(client)
    }

    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), transcript: String::new(), sent: 0 })
    }

    pub fn local_address(&self) -> Result<SocketAddr> {
        Ok(self.stream.get_ref().local_addr()?)
    }

    /// The client's own address and the server's.
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        Ok((self.local_address()?, self.stream.get_ref().peer_addr()?))
    }

    /// Octets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Everything said so far, message contents left out.
    pub fn transcript(&self) -> &str {
        &self.transcript
    }

    /// Reads the next reply.
    pub fn reply(&mut self) -> Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let length = self
                .stream
                .read_line(&mut line)
                .with_context(|| format!("no reply; so far:\n{}", self.transcript))?;
            ensure!(length > 0, "connection closed; so far:\n{}", self.transcript);
            self.transcript += &format!("S: {line}");
            let line = line.trim_end_matches(['\r', '\n']);
            let (Some(code), Some(rest)) = (line.get(..3).and_then(|code| code.parse().ok()), line.get(3..))
            else {
                bail!("not a reply: {line:?}");
            };
            lines.push(rest.get(1..).unwrap_or_default().to_owned());
            if !rest.starts_with('-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// Reads the next reply, which must have this code.
    pub fn expect(&mut self, code: u16) -> Result<Reply> {
        self.reply()?.expect(code).with_context(|| self.transcript.clone())
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let result = self.stream.get_mut().write_all(bytes);
        self.sent += bytes.len() as u64;
        result.with_context(|| format!("send; so far:\n{}", self.transcript))
    }

    /// Sends a line and reads the reply.
    pub fn command(&mut self, line: &str) -> Result<Reply> {
        self.transcript += &format!("C: {line}\n");
        self.send(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// Banner and EHLO; returns the answer to EHLO.
    pub fn greet(&mut self, name: &str) -> Result<Reply> {
        self.expect(220)?;
        self.command(&format!("EHLO {name}"))?.expect(250)
    }

    /// MAIL, RCPT and DATA, all of which must be accepted, then the message; returns the final reply.
    pub fn send_message(&mut self, sender: &str, recipients: &[&str], message: &[u8]) -> Result<Reply> {
        self.command(&format!("MAIL FROM:<{sender}>"))?.expect(250)?;
        for recipient in recipients {
            self.command(&format!("RCPT TO:<{recipient}>"))?.expect(250)?;
        }
        self.command("DATA")?.expect(354)?;
        self.transcript += &format!("C: ({} bytes)\n", message.len());
        self.send(&stuffed(message))?;
        self.reply()
    }

    /// Whether the other side has closed the connection and sent nothing more.
    pub fn is_closed(&mut self) -> Result<bool> {
        Ok(self.stream.fill_buf()?.is_empty())
    }
}

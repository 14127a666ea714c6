//! A customer's part of SMTP, as little of it as there is, so that the one who measures costs little himself.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use weir_tests::wait::patient;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Talk {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Talk {
    /// Connects, and waits for the greeting. In the network of the caller.
    pub(crate) fn open(from: Option<IpAddr>, to: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(from) = from {
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        let patience = patient(PATIENCE);
        socket.connect_timeout(&to.into(), patience).with_context(|| format!("connect to {to}"))?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        socket.set_tcp_nodelay(true)?;
        // A reply is a line or a few.
        let mut talk = Self { stream: BufReader::with_capacity(512, socket.into()), line: String::new() };
        talk.expect(220)?;
        Ok(talk)
    }

    /// One command, or the end of a message, and its reply.
    pub(crate) fn say(&mut self, bytes: &[u8], code: u16) -> Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.expect(code)
    }

    /// One message; `content` has its final dot.
    pub(crate) fn send(&mut self, content: &[u8]) -> Result<()> {
        self.say(b"MAIL FROM:<a@customer.test>\r\n", 250)?;
        self.say(b"RCPT TO:<b@v4.destination.test>\r\n", 250)?;
        self.say(b"DATA\r\n", 354)?;
        self.say(content, 250)
    }

    fn expect(&mut self, code: u16) -> Result<()> {
        loop {
            self.line.clear();
            ensure!(self.stream.read_line(&mut self.line)? > 0, "closed instead of {code}");
            let said = self.line.get(..3).and_then(|code| code.parse::<u16>().ok());
            ensure!(said == Some(code), "{code} expected, not {:?}", self.line);
            if self.line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }
}

/// A message of about so many octets, with its final dot.
pub(crate) fn message(octets: usize) -> Vec<u8> {
    let mut content =
        b"From: <a@customer.test>\r\nTo: <b@v4.destination.test>\r\nSubject: figures\r\n\r\n".to_vec();
    while content.len() < octets {
        content.extend_from_slice(&[b'x'; 76]);
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(b".\r\n");
    content
}

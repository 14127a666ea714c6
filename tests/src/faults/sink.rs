//! The destination, a program of its own so that it can be killed: takes every message, and writes down which try
//! brought what before it answers 250.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use crate::message::{Digest, Try};

const EHLO: &str = "250-mx.destination.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-CHUNKING\r\n\
    250-ENHANCEDSTATUSCODES\r\n250 SIZE 104857600\r\n";

/// From taking a message to saying so. Real servers wait for their disk then, and may die there.
const BETWEEN: Duration = Duration::from_millis(5);

/// Longer silence means that the other side is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// One message taken whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) by: Try,
    pub(crate) digest: u64,
    pub(crate) size: u64,
}

/// Listens until it is killed.
pub(crate) fn run(port: u16, book: &Path) -> Result<()> {
    let listener = listen(port)?;
    let book = File::options().create(true).append(true).open(book).context("open the book")?;
    let book = Arc::new(book);
    println!("ready");
    for stream in listener.incoming() {
        let (stream, book) = (stream?, book.clone());
        // A connection that breaks is what this is about.
        let serve = move || drop(serve(&stream, &book));
        thread::Builder::new().stack_size(256 * 1024).spawn(serve).context("a thread for a connection")?;
    }
    Ok(())
}

/// On all addresses, with room for many that come at once.
pub(crate) fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn serve(stream: &TcpStream, book: &File) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut session = Session { reader: BufReader::new(stream), by: None, chunks: Content::new() };
    session.say("220 mx.destination.test ESMTP\r\n")?;
    loop {
        let line = session.line()?;
        let verb = line.split([' ', '\r']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => session.say(EHLO)?,
            "MAIL" => {
                session.by = Some(Try::of_mail(&line).context("an unknown sender")?);
                session.chunks = Content::new();
                session.say("250 2.1.0 go on\r\n")?;
            }
            "DATA" => {
                session.say("354 go on\r\n")?;
                let content = session.data()?;
                session.take(content, book)?;
            }
            "BDAT" => {
                let mut words = line.split_whitespace().skip(1);
                let size = words.next().and_then(|size| size.parse().ok()).context("BDAT without a size")?;
                session.chunk(size)?;
                match words.next() {
                    Some(_) => session.take(session.chunks, book)?,
                    None => session.say("250 2.0.0 chunk\r\n")?,
                }
            }
            "RSET" => {
                session.by = None;
                session.say("250 2.0.0 forgotten\r\n")?;
            }
            "QUIT" => return session.say("221 2.0.0 bye\r\n"),
            _ => session.say("250 2.0.0 fine\r\n")?,
        }
    }
}

#[derive(Clone, Copy)]
struct Content {
    digest: Digest,
    size: u64,
}

impl Content {
    fn new() -> Self {
        Self { digest: Digest::new(), size: 0 }
    }

    fn add(&mut self, octets: &[u8]) {
        self.digest.add(octets);
        self.size += octets.len() as u64;
    }
}

struct Session<'a> {
    reader: BufReader<&'a TcpStream>,
    by: Option<Try>,
    chunks: Content,
}

impl Session<'_> {
    fn say(&mut self, text: &str) -> Result<()> {
        let mut stream = *self.reader.get_ref();
        Ok(stream.write_all(text.as_bytes())?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        if self.reader.read_until(b'\n', &mut line)? == 0 || !line.ends_with(b"\r\n") {
            bail!("closed");
        }
        Ok(String::from_utf8(line)?)
    }

    /// Only CRLF.CRLF is the end.
    fn data(&mut self) -> Result<Content> {
        let (mut content, mut line) = (Content::new(), Vec::new());
        loop {
            line.clear();
            if self.reader.read_until(b'\n', &mut line)? == 0 || !line.ends_with(b"\n") {
                bail!("closed in a message");
            }
            if line == b".\r\n" {
                return Ok(content);
            }
            content.add(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    fn chunk(&mut self, size: usize) -> Result<()> {
        let mut chunk = vec![0; size];
        self.reader.read_exact(&mut chunk)?;
        self.chunks.add(&chunk);
        Ok(())
    }

    /// From here on it has the message, whether the answer arrives or not.
    fn take(&mut self, content: Content, mut book: &File) -> Result<()> {
        let by = self.by.take().context("a message without MAIL")?;
        let entry = format!("{} {} {} {}\n", by.message, by.number, content.digest.get(), content.size);
        book.write_all(entry.as_bytes())?;
        thread::sleep(BETWEEN);
        self.say("250 2.0.0 taken\r\n")
    }
}

/// What the destination has taken so far, in order.
pub(crate) fn read_book(book: &PathBuf) -> Result<Vec<Taken>> {
    let text = std::fs::read_to_string(book).with_context(|| format!("read {}", book.display()))?;
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let by = Try { message: words.next()?.parse().ok()?, number: words.next()?.parse().ok()? };
        Some(Taken { by, digest: words.next()?.parse().ok()?, size: words.next()?.parse().ok()? })
    };
    text.lines().map(|line| entry(line).with_context(|| format!("a bad entry: {line:?}"))).collect()
}

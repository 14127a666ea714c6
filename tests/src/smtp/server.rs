//! A scripted SMTP server that records who connected and every byte it was told.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::mem;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;

use super::lax;
use crate::lab::Host;
use crate::wait::{PATIENCE, wait_for};

/// How the server finds the ends of lines and of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// RFC 5321: a message ends with CRLF.CRLF only.
    Strict,
    /// See [`super::lax`].
    Lax,
}

/// What the server answers. Lines as sent, without the final CRLF.
#[derive(Debug, Clone)]
pub struct Script {
    pub banner: String,
    pub reading: Reading,
    /// Answers by verb (in capitals; `.` is the end of data); others get 250.
    pub answers: BTreeMap<&'static str, String>,
    /// After 354 nothing is read until it is open.
    pub gate: Gate,
}

/// Holds servers back until the test lets them go on.
#[derive(Debug, Clone)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    pub fn opened() -> Self {
        let gate = Self::closed();
        gate.open();
        gate
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_while(open, |open| !*open));
    }
}

impl Default for Script {
    fn default() -> Self {
        let answers = [
            (
                "EHLO",
                "250-mx.destination.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-STARTTLS\r\n250 SIZE 104857600",
            ),
            ("DATA", "354 go on"),
            (".", "250 2.0.0 taken by the scripted server"),
            ("QUIT", "221 bye"),
        ];
        Self {
            banner: "220 mx.destination.test ESMTP scripted".into(),
            reading: Reading::Strict,
            answers: answers.into_iter().map(|(verb, answer)| (verb, answer.to_owned())).collect(),
            gate: Gate::opened(),
        }
    }
}

impl Script {
    #[must_use]
    pub fn answering(mut self, verb: &'static str, answer: impl Into<String>) -> Self {
        self.answers.insert(verb, answer.into());
        self
    }

    /// A filter node: takes XCLIENT from everybody and accepts every message.
    pub fn filter_node() -> Self {
        Self::default()
            .answering(
                "EHLO",
                "250-filter.provider.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n\
                 250-BINARYMIME\r\n250-XFORWARD IDENT\r\n250 XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT",
            )
            .answering("XCLIENT", "220 filter.provider.test ESMTP scripted")
    }

    /// Reads no message until the gate is open.
    #[must_use]
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = gate.clone();
        self
    }

    /// A destination that takes everything as the end of a line or message that any server ever took for one.
    pub fn lax() -> Self {
        Self { reading: Reading::Lax, ..Self::default() }
    }
}

/// One connection.
#[derive(Clone)]
pub struct Session {
    pub peer: SocketAddr,
    /// Commands, as received, without CRLF.
    pub commands: Vec<String>,
    /// Bytes between the answer to DATA and the line with the dot alone, dots still doubled; or all chunks of BDAT.
    pub messages: Vec<Vec<u8>>,
    /// Every byte, as it came.
    pub received: Vec<u8>,
    pub closed: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {}: {:?}, closed: {}", self.peer, self.commands, self.closed)?;
        let mut messages = self.messages.iter();
        messages.try_for_each(|message| write!(f, "\nmessage: {}", message.escape_ascii()))
    }
}

/// Listens until dropped.
pub struct Server {
    address: SocketAddr,
    listener: TcpListener,
    sessions: Arc<Mutex<Vec<Session>>>,
}

impl Server {
    pub fn start(host: &Host, address: IpAddr, script: Script) -> Result<Self> {
        Self::start_at(host, SocketAddr::new(address, 25), script)
    }

    pub fn start_at(host: &Host, address: SocketAddr, script: Script) -> Result<Self> {
        let listener = host.in_network(|| Ok(TcpListener::bind(address)?))?;
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let (recorded, accepting) = (Arc::clone(&sessions), listener.try_clone()?);
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let (script, recorded) = (script.clone(), Arc::clone(&recorded));
                // A connection that breaks is recorded as far as it came.
                thread::spawn(move || drop(serve(&stream, &script, &recorded)));
            }
        });
        Ok(Self { address, listener, sessions })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn sessions(&self) -> Vec<Session> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is a session that satisfies the condition.
    pub fn any(&self, holds: impl Fn(&Session) -> bool) -> bool {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).iter().any(holds)
    }

    /// The sessions that satisfy the condition.
    pub fn sessions_that(&self, hold: impl Fn(&Session) -> bool) -> Vec<Session> {
        let all = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|session| hold(session)).cloned().collect()
    }

    /// The first session that satisfies the condition, once there is one.
    pub fn wait_session(&self, what: &str, holds: impl Fn(&Session) -> bool) -> Result<Session> {
        wait_for(what, PATIENCE, || Ok(self.sessions_that(&holds).into_iter().next()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the accepting thread, whose socket would keep the host's network alive.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }
}

/// Where a connection is recorded.
struct Recorder<'a> {
    sessions: &'a Mutex<Vec<Session>>,
    number: usize,
}

impl<'a> Recorder<'a> {
    fn begin(sessions: &'a Mutex<Vec<Session>>, peer: SocketAddr) -> Self {
        let mut all = sessions.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Session { peer, commands: vec![], messages: vec![], received: vec![], closed: false });
        Self { sessions, number: all.len() - 1 }
    }

    fn record(&self, change: impl FnOnce(&mut Session)) {
        if let Some(session) =
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get_mut(self.number)
        {
            change(session);
        }
    }
}

/// Records what is read.
struct Recording<'a> {
    stream: &'a TcpStream,
    recorder: &'a Recorder<'a>,
}

impl Read for Recording<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.stream.read(buffer)?;
        self.recorder.record(|session| session.received.extend_from_slice(&buffer[..length]));
        Ok(length)
    }
}

fn serve(stream: &TcpStream, script: &Script, sessions: &Mutex<Vec<Session>>) -> Result<()> {
    let recorder = Recorder::begin(sessions, stream.peer_addr()?);
    let result = converse(stream, script, &recorder);
    recorder.record(|session| session.closed = true);
    result
}

fn converse(stream: &TcpStream, script: &Script, recorder: &Recorder<'_>) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(10 * PATIENCE))?;
    let mut output = stream;
    let mut input = BufReader::new(Recording { stream, recorder });
    let mut chunks = Vec::new();
    say(&mut output, &script.banner)?;
    while let Some(line) = read_command(&mut input, script.reading)? {
        let command = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        recorder.record(|session| session.commands.push(command.clone()));
        if verb == "BDAT" {
            if script.reading == Reading::Lax {
                lax::end_command(&mut input)?;
            }
            let last = read_chunk(&mut input, &command, &mut chunks)?;
            if last {
                recorder.record(|session| session.messages.push(mem::take(&mut chunks)));
            }
            say(&mut output, answer_to(script, if last { "." } else { "BDAT" }))?;
            continue;
        }
        let answer = answer_to(script, &verb);
        say(&mut output, answer)?;
        if verb == "DATA" && answer.starts_with("354") {
            script.gate.pass();
            let message = read_message(&mut input, script.reading)?;
            recorder.record(|session| session.messages.push(message));
            say(&mut output, answer_to(script, "."))?;
        }
        if verb == "QUIT" {
            break;
        }
    }
    Ok(())
}

/// In one segment: some clients take what they read at once for the whole answer.
fn say(mut output: impl Write, answer: &str) -> Result<()> {
    Ok(output.write_all(format!("{answer}\r\n").as_bytes())?)
}

fn answer_to<'a>(script: &'a Script, verb: &str) -> &'a str {
    script.answers.get(verb).map_or("250 2.0.0 ok", String::as_str)
}

/// The next command line. `None`: the connection was closed.
fn read_command(input: &mut impl BufRead, reading: Reading) -> Result<Option<Vec<u8>>> {
    if reading == Reading::Lax {
        return lax::read_command(input);
    }
    let mut line = Vec::new();
    Ok((input.read_until(b'\n', &mut line)? > 0).then_some(line))
}

fn read_message(input: &mut impl BufRead, reading: Reading) -> Result<Vec<u8>> {
    if reading == Reading::Lax {
        return lax::read_message(input);
    }
    let mut message = Vec::new();
    let mut line_start = 0;
    loop {
        ensure!(input.read_until(b'\n', &mut message)? > 0, "closed within a message");
        if !message.ends_with(b"\r\n") {
            continue;
        }
        if &message[line_start..] == b".\r\n" {
            message.truncate(line_start);
            return Ok(message);
        }
        line_start = message.len();
    }
}

/// Reads what `BDAT size [LAST]` counts. `true`: it was the last.
fn read_chunk(input: &mut impl BufRead, command: &str, chunks: &mut Vec<u8>) -> Result<bool> {
    let mut words = command.split_ascii_whitespace().skip(1);
    let size: u64 = words.next().context("BDAT has a size")?.parse()?;
    let before = chunks.len();
    let read = input.take(size).read_to_end(chunks)?;
    ensure!(chunks.len() - before == read && read as u64 == size, "closed within a chunk");
    Ok(words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST")))
}

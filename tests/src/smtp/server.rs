//! A scripted SMTP server that records who connected and every byte it was told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use socket2::SockRef;

use crate::lab::Host;
use crate::wait::{PATIENCE, wait_for};

/// What the server answers. Lines as sent, without the final CRLF.
#[derive(Debug, Clone)]
pub struct Script {
    pub banner: String,
    /// Answers by verb (in capitals; `.` is the end of data); others get 250.
    pub answers: BTreeMap<&'static str, String>,
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
            answers: answers.into_iter().map(|(verb, answer)| (verb, answer.to_owned())).collect(),
        }
    }
}

impl Script {
    #[must_use]
    pub fn answering(mut self, verb: &'static str, answer: impl Into<String>) -> Self {
        self.answers.insert(verb, answer.into());
        self
    }
}

/// One connection.
#[derive(Debug, Clone)]
pub struct Session {
    pub peer: SocketAddr,
    /// Commands, as received, without CRLF.
    pub commands: Vec<String>,
    /// Bytes between the answer to DATA and the line with the dot alone, dots still doubled.
    pub messages: Vec<Vec<u8>>,
    pub closed: bool,
}

/// Listens until dropped.
pub struct Server {
    address: SocketAddr,
    listener: TcpListener,
    sessions: Arc<Mutex<Vec<Session>>>,
}

impl Server {
    pub fn start(host: &Host, address: IpAddr, script: Script) -> Result<Self> {
        let address = SocketAddr::new(address, 25);
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

    /// The first session that satisfies the condition, once there is one.
    pub fn wait_session(&self, what: &str, holds: impl Fn(&Session) -> bool) -> Result<Session> {
        wait_for(what, PATIENCE, || Ok(self.sessions().into_iter().find(|session| holds(session))))
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
        all.push(Session { peer, commands: vec![], messages: vec![], closed: false });
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

fn serve(stream: &TcpStream, script: &Script, sessions: &Mutex<Vec<Session>>) -> Result<()> {
    let recorder = Recorder::begin(sessions, stream.peer_addr()?);
    let result = converse(stream, script, &recorder);
    recorder.record(|session| session.closed = true);
    result
}

fn converse(stream: &TcpStream, script: &Script, recorder: &Recorder<'_>) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(2 * PATIENCE))?;
    let mut output = stream;
    let mut input = BufReader::new(stream);
    write!(output, "{}\r\n", script.banner)?;
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let command = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        recorder.record(|session| session.commands.push(command));
        let answer = answer_to(script, &verb);
        write!(output, "{answer}\r\n")?;
        if verb == "DATA" && answer.starts_with("354") {
            let message = read_message(&mut input)?;
            recorder.record(|session| session.messages.push(message));
            write!(output, "{}\r\n", answer_to(script, "."))?;
        }
        if verb == "QUIT" {
            return Ok(());
        }
    }
}

fn answer_to<'a>(script: &'a Script, verb: &str) -> &'a str {
    script.answers.get(verb).map_or("250 2.0.0 ok", String::as_str)
}

fn read_message(input: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let start = message.len();
        anyhow::ensure!(input.read_until(b'\n', &mut message)? > 0, "closed within a message");
        if &message[start..] == b".\r\n" {
            message.truncate(start);
            return Ok(message);
        }
    }
}

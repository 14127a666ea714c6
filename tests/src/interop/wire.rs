//! What goes over a host's cable to and from one port, put together again: nothing stands in the way.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Host;

const SMTP: u16 = 25;
const ETH_P_ALL: u16 = 3;
/// Frames wait here while the reader has no turn; what is lost is noticed as a gap.
const BUFFER: usize = 64 << 20;
const FRAME: usize = 1 << 17;
/// How often the reader looks whether it is still needed.
const TURN: Duration = Duration::from_millis(50);

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

/// One direction of a connection.
#[derive(Debug, Clone, Default)]
struct Stream {
    /// The sequence number of the first octet.
    start: Option<u32>,
    octets: Vec<u8>,
    /// What came before its turn, by place.
    ahead: BTreeMap<usize, Vec<u8>>,
    end: Option<usize>,
}

impl Stream {
    fn take(&mut self, segment: &Segment<'_>) {
        if segment.flags & SYN != 0 {
            self.start = Some(segment.sequence.wrapping_add(1));
            return;
        }
        let Some(start) = self.start else { return };
        let Ok(place) = usize::try_from(segment.sequence.wrapping_sub(start)) else { return };
        // A keep-alive's place is one before the stream.
        if place > usize::try_from(u32::MAX / 2).unwrap_or(usize::MAX) {
            return;
        }
        if segment.flags & FIN != 0 {
            self.end = Some(place + segment.octets.len());
        }
        if !segment.octets.is_empty() && place + segment.octets.len() > self.octets.len() {
            self.ahead.insert(place, segment.octets.to_vec());
        }
        while let Some((place, octets)) = self.ahead.first_key_value() {
            let Some(known) = self.octets.len().checked_sub(*place) else { break };
            self.octets.extend_from_slice(octets.get(known..).unwrap_or_default());
            self.ahead.pop_first();
        }
    }

    fn is_complete(&self) -> bool {
        self.end == Some(self.octets.len())
    }
}

/// One connection to that port of another machine.
#[derive(Clone)]
pub struct Connection {
    pub client: SocketAddr,
    pub server: SocketAddr,
    said: Stream,
    answered: Stream,
    reset: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, server, reset, .. } = self;
        let (said, answered) = (self.said().escape_ascii(), self.answered().escape_ascii());
        write!(f, "{client} to {server}, reset: {reset}\n    said: {said}\n    answered: {answered}")
    }
}

impl Connection {
    /// Both sides have closed it, or one has broken it off, and nothing is missing.
    pub fn is_over(&self) -> bool {
        let gaps = !self.said.ahead.is_empty() || !self.answered.ahead.is_empty();
        !gaps && (self.reset || (self.said.is_complete() && self.answered.is_complete()))
    }

    /// Everything the client said.
    pub fn said(&self) -> &[u8] {
        &self.said.octets
    }

    /// Everything the server answered.
    pub fn answered(&self) -> &[u8] {
        &self.answered.octets
    }
}

/// Listens on a host's cable until dropped.
pub struct Wire {
    connections: Arc<Mutex<Vec<Connection>>>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Wire {
    /// Port 25.
    pub fn of(host: &Host) -> Result<Self> {
        Self::of_port(host, SMTP)
    }

    pub fn of_port(host: &Host, port: u16) -> Result<Self> {
        let socket = host.in_network(|| {
            let every_protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol)).context("listen on the cable")
        })?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("a large buffer for frames")?;
        socket.set_read_timeout(Some(TURN))?;
        let connections = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let (found, stop) = (Arc::clone(&connections), Arc::clone(&over));
        let reader = thread::spawn(move || {
            let mut frame = vec![0; FRAME];
            while !stop.load(Ordering::Relaxed) {
                // Nothing came for a while: look whether to go on.
                let Ok(length) = (&socket).read(&mut frame) else { continue };
                if let Some(segment) = Segment::parse(&frame[..length], port) {
                    record(&mut found.lock().unwrap_or_else(PoisonError::into_inner), &segment, port);
                }
            }
        });
        Ok(Self { connections, over, reader: Some(reader) })
    }

    /// How many connections there were so far.
    pub fn count(&self) -> usize {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The connections after the first `known`, as far as they have come.
    pub fn since(&self, known: usize) -> Vec<Connection> {
        let all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        all[known..].to_vec()
    }

    /// The connections after the first `known`. `None`: some are not over.
    pub fn over_since(&self, known: usize) -> Option<Vec<Connection>> {
        let all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let new = &all[known..];
        new.iter().all(Connection::is_over).then(|| new.to_vec())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has recorded nothing more: its connections are not over.
            let _ = reader.join();
        }
    }
}

fn record(connections: &mut Vec<Connection>, segment: &Segment<'_>, port: u16) {
    let from_client = segment.to.port() == port;
    let (client, server) = if from_client { (segment.from, segment.to) } else { (segment.to, segment.from) };
    if server.ip().is_loopback() {
        return;
    }
    let known = connections.iter().rposition(|each| each.client == client && each.server == server);
    let begins = from_client && segment.flags & SYN != 0;
    let place = match known {
        Some(place) if !begins || !connections[place].is_over() => place,
        _ if begins => {
            let (said, answered) = (Stream::default(), Stream::default());
            connections.push(Connection { client, server, said, answered, reset: false });
            connections.len() - 1
        }
        _ => return,
    };
    let connection = &mut connections[place];
    connection.reset |= segment.flags & RST != 0;
    if from_client { &mut connection.said } else { &mut connection.answered }.take(segment);
}

/// A TCP segment to or from the port.
struct Segment<'a> {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    flags: u8,
    octets: &'a [u8],
}

impl<'a> Segment<'a> {
    fn parse(frame: &'a [u8], port: u16) -> Option<Self> {
        const TCP: u8 = 6;
        let packet = frame.get(14..)?;
        let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
            [0x08, 0x00] if *packet.get(9)? == TCP => {
                let header = usize::from(packet.first()? & 0x0f) * 4;
                let length = usize::from(u16::from_be_bytes(octets(packet, 2)?));
                let address = |place| Some(Ipv4Addr::from(octets::<4>(packet, place)?).into());
                (address(12)?, address(16)?, until(packet, length)?.get(header..)?)
            }
            [0x86, 0xdd] if *packet.get(6)? == TCP => {
                let length = usize::from(u16::from_be_bytes(octets(packet, 4)?));
                let address = |place| Some(Ipv6Addr::from(octets::<16>(packet, place)?).into());
                (address(8)?, address(24)?, until(packet.get(40..)?, length)?)
            }
            _ => return None,
        };
        let number = |place| Some(u16::from_be_bytes(octets(tcp, place)?));
        let (from, to) = (SocketAddr::new(from, number(0)?), SocketAddr::new(to, number(2)?));
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        (from.port() == port || to.port() == port).then_some(())?;
        let sequence = u32::from_be_bytes(octets(tcp, 4)?);
        Some(Self { from, to, sequence, flags: *tcp.get(13)?, octets: tcp.get(header..)? })
    }
}

fn octets<const LENGTH: usize>(packet: &[u8], place: usize) -> Option<[u8; LENGTH]> {
    packet.get(place..place + LENGTH)?.try_into().ok()
}

/// Without the padding of short frames. A length of 0 is that of a packet too large for it.
fn until(packet: &[u8], length: usize) -> Option<&[u8]> {
    if length == 0 { Some(packet) } else { packet.get(..length) }
}

//! The driver of one session: the only place that touches its socket and the clock.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant as Deadline, timeout};
use tracing::{debug, info};

use super::Node;
use super::conclusion::Judging;
use super::session::{Input, Output, Session};
use super::stream::Stream;
use super::verdict;
use crate::body::{Body, Receiving};
use crate::facts::Facts;
use crate::message::{Message, Transaction};
use crate::policy::Verdict;
use crate::policy::script::Context;

/// Octets read at a time.
const CHUNK: usize = 32 * 1024;

/// A proxy that does not read its replies is left after this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// A handshake takes no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn run(node: Arc<Node>, stream: TcpStream, peer: SocketAddr, stop: watch::Receiver<bool>) {
    let session = Session::new(node.settings.clone(), Box::new(make_id));
    if let Err(cause) = stream.set_nodelay(true) {
        debug!(%cause, "connection");
        return;
    }
    let stream = Stream::Clear(stream);
    let body = Receiving::new(node.spool.clone());
    let mut connection =
        Connection { node, peer, stream, session, body, receiving_since: None, data_until: None };
    if let Err(cause) = connection.run(stop).await {
        debug!(%cause, "connection");
    }
    if let Some(transaction) = connection.session.transaction() {
        connection.node.counters.incomplete();
        let id = &transaction.id;
        info!(id, customer = %transaction.customer.address, "message incomplete: the connection ended before it did");
    }
}

/// An id of our own, for proxies that give none.
fn make_id() -> String {
    format!("f{:015x}", rand::random::<u64>() >> 4)
}

struct Connection {
    node: Arc<Node>,
    peer: SocketAddr,
    stream: Stream,
    session: Session,
    body: Receiving,
    /// When the body began to come.
    receiving_since: Option<Instant>,
    /// When the body has to be complete.
    data_until: Option<Deadline>,
}

enum Read {
    Octets(usize),
    TimedOut,
    Stop,
}

impl Connection {
    async fn run(&mut self, mut stop: watch::Receiver<bool>) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            if !self.outputs().await? {
                return self.stream.hang_up().await;
            }
            match self.read(&mut chunk, &mut stop).await? {
                Read::Octets(0) => return Ok(()),
                Read::Octets(count) => self.session.handle(Input::Bytes(&chunk[..count])),
                Read::TimedOut => self.session.handle(Input::TimedOut),
                Read::Stop => self.session.handle(Input::Shutdown),
            }
        }
    }

    async fn read(&mut self, chunk: &mut [u8], stop: &mut watch::Receiver<bool>) -> io::Result<Read> {
        let idle = Deadline::now() + self.node.idle_timeout;
        let until = self.data_until.map_or(idle, |data| data.min(idle));
        tokio::select! {
            count = self.stream.read(chunk) => Ok(Read::Octets(count?)),
            () = tokio::time::sleep_until(until) => Ok(Read::TimedOut),
            _ = stop.wait_for(|stop| *stop), if self.session.is_idle() => Ok(Read::Stop),
        }
    }

    /// Does what the session wants. False: the session is over.
    async fn outputs(&mut self) -> io::Result<bool> {
        let mut replies = Vec::new();
        while let Some(output) = self.session.poll() {
            match output {
                Output::Write(octets) => replies.extend_from_slice(&octets),
                Output::BodyBegins => {
                    self.body = Receiving::new(self.node.spool.clone());
                    self.receiving_since = Some(Instant::now());
                    self.data_until = Some(Deadline::now() + self.node.data_timeout);
                }
                Output::Body(octets) => self.body.append(&octets).await,
                Output::BodyDropped => {
                    self.body = Receiving::new(self.node.spool.clone());
                    self.data_until = None;
                }
                Output::Ask(context) => {
                    let verdict = if self.node.asks(context) {
                        self.flush(&mut replies).await?;
                        self.ask(context).await
                    } else {
                        Verdict::Accept
                    };
                    self.session.handle(Input::Judged(&verdict));
                }
                Output::Judge(transaction) => {
                    self.flush(&mut replies).await?;
                    let verdict = self.judge(*transaction).await;
                    self.session.handle(Input::Judged(&verdict));
                }
                Output::StartTls => {
                    self.flush(&mut replies).await?;
                    self.secure().await?;
                    self.session.handle(Input::Secured);
                }
                Output::Close => {
                    self.flush(&mut replies).await?;
                    return Ok(false);
                }
            }
        }
        self.flush(&mut replies).await?;
        Ok(true)
    }

    async fn flush(&mut self, replies: &mut Vec<u8>) -> io::Result<()> {
        if !replies.is_empty() {
            timeout(WRITE_TIMEOUT, self.stream.write(replies)).await??;
            replies.clear();
        }
        Ok(())
    }

    async fn secure(&mut self) -> io::Result<()> {
        // STARTTLS is taken only where there is a certificate.
        let Some(tls) = &self.node.tls else { return Err(io::ErrorKind::Unsupported.into()) };
        let acceptor = tls.acceptor();
        let secured = timeout(HANDSHAKE_TIMEOUT, self.stream.secure(&acceptor)).await;
        let secured = secured.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
        self.node.counters.handshake(secured.is_ok());
        if let Err(cause) = &secured {
            info!(peer = %self.peer, %cause, "no TLS with a proxy");
        }
        secured
    }

    /// Whether a transaction may begin, or have a recipient.
    async fn ask(&mut self, context: Context) -> Verdict {
        let Some(transaction) = self.session.asked() else { return Verdict::Accept };
        let (node, asking) = (&self.node, Judging::begin(self.peer.ip(), None));
        let owner = node.owner_of(transaction.customer.address).await;
        let message = Message { transaction, body: Body::Memory(Bytes::new()) };
        let facts = Facts::new(&message, &node.scanners).with_owner(owner).with_outside(&node.outside);
        let facts = facts.with_blocker(&node.blocker).with_reputation(node.reputation.as_ref());
        let verdict = match node.verdict(context, &facts).await {
            Verdict::Accept => Verdict::Accept,
            refused => asking.early(node, &facts, context, refused),
        };
        node.compare(context, &facts, &verdict).await;
        verdict
    }

    async fn judge(&mut self, transaction: Transaction) -> Verdict {
        let judging = Judging::begin(self.peer.ip(), self.receiving_since.take());
        self.data_until = None;
        let body = std::mem::replace(&mut self.body, Receiving::new(self.node.spool.clone()));
        verdict::on(&self.node, &judging, transaction, body).await
    }
}

/// Writes to a stream that nobody reads from.
pub(super) async fn say(stream: &TcpStream, mut octets: &[u8]) -> io::Result<()> {
    while !octets.is_empty() {
        stream.writable().await?;
        match stream.try_write(octets) {
            Ok(count) => octets = octets.get(count..).unwrap_or_default(),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

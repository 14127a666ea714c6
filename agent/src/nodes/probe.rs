//! Is a filter node alive, and does it take XCLIENT or XFORWARD from this agent? Asked every `filter.probe_interval`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_smtp::extension::Extensions;
use weir_smtp::reply::{ReplyDecoder, ReplyLimits};
use weir_smtp::xclient::{Identity, Protocol};
use weir_smtp::{Reply, xforward};

use super::Family;
use crate::failure::Cause;
use crate::tls::Peer;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not reached: {0}")]
    Connect(io::Error),
    #[error("connection lost: {0}")]
    Io(io::Error),
    #[error("did not answer within {0:?}")]
    Silent(Duration),
    #[error("answered {0}")]
    Answer(String),
    #[error(
        "does not announce XCLIENT ADDR or XFORWARD ADDR: is this agent in its list of proxies, or does it want filter.tls?"
    )]
    NoXclient,
    #[error("does not announce STARTTLS, which filter.tls asks for")]
    NoTls,
    #[error("no TLS with it: {}", in_words(.0))]
    Handshake(io::Error),
    #[error("refused XCLIENT: {0}")]
    XclientRefused(String),
    #[error("refused XFORWARD: {0}")]
    XforwardRefused(String),
}

/// As messages that find it out say it, and what the library adds, as the names in a certificate.
fn in_words(error: &io::Error) -> String {
    match Cause::of(error) {
        Cause::Other => error.to_string(),
        cause @ Cause::Tls(_) => format!("{cause} ({error})"),
        cause => cause.to_string(),
    }
}

/// Banner, EHLO, XCLIENT (or XFORWARD) with an address reserved for documentation (RFC 5737, RFC 3849), QUIT. What the node
/// announced.
///
/// # Errors
/// The first thing that did not go as it should.
pub async fn probe(
    node: SocketAddr,
    family: Family,
    hostname: &str,
    tls: Option<Peer>,
    limit: Duration,
) -> Result<Extensions, Error> {
    timeout(limit, converse(node, family, hostname, tls)).await.unwrap_or(Err(Error::Silent(limit)))
}

async fn converse(
    node: SocketAddr,
    family: Family,
    hostname: &str,
    tls: Option<Peer>,
) -> Result<Extensions, Error> {
    let stream = TcpStream::connect(node).await.map_err(Error::Connect)?;
    let mut client = Client::new(stream);
    client.expect(220).await?;
    let extensions = client.greet(hostname).await?;
    let Some(peer) = tls else {
        return introduce(client, extensions, nobody(family, node)).await;
    };
    if !extensions.has("STARTTLS") {
        return Err(Error::NoTls);
    }
    client.say("STARTTLS").await?;
    client.expect(220).await?;
    let mut client = Client::new(peer.secure(client.stream).await.map_err(Error::Handshake)?);
    let extensions = client.greet(hostname).await?;
    introduce(client, extensions, nobody(family, node)).await
}

/// XCLIENT, or XFORWARD where there is none, and QUIT.
async fn introduce<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: Client<S>,
    extensions: Extensions,
    identity: Identity,
) -> Result<Extensions, Error> {
    let xclient = extensions.parameters("XCLIENT").and_then(|names| identity.command(names).ok());
    if let Some(command) = xclient {
        let said = [command];
        return client.tell(&said, 220, Error::XclientRefused).await.map(|()| extensions);
    }
    let names = extensions.parameters("XFORWARD");
    let xforward = names.and_then(|names| xforward::introduction(&identity, "probe", names));
    let said = xforward.ok_or(Error::NoXclient)?;
    client.tell(&said, 250, Error::XforwardRefused).await.map(|()| extensions)
}

/// A customer that nobody has.
fn nobody(family: Family, node: SocketAddr) -> Identity {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    Identity {
        customer: SocketAddr::new(address, 1025),
        destination: node,
        protocol: Protocol::Esmtp,
        helo: b"probe.invalid".to_vec(),
    }
}

struct Client<S> {
    stream: S,
    decoder: ReplyDecoder,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    fn new(stream: S) -> Self {
        Self { stream, decoder: ReplyDecoder::new(ReplyLimits::default()) }
    }

    async fn greet(&mut self, hostname: &str) -> Result<Extensions, Error> {
        self.say(&format!("EHLO {hostname}")).await?;
        self.expect(250).await.map(|reply| Extensions::from_reply(&reply))
    }

    async fn say(&mut self, line: &str) -> Result<(), Error> {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await.map_err(Error::Io)
    }

    /// Says all of it, and QUIT.
    async fn tell(
        &mut self,
        commands: &[String],
        code: u16,
        refused: impl Fn(String) -> Error,
    ) -> Result<(), Error> {
        let mut wrong = None;
        for command in commands {
            self.say(command).await?;
            wrong = Some(self.reply().await?).filter(|reply| reply.code() != code);
            if wrong.is_some() {
                break;
            }
        }
        self.say("QUIT").await?;
        match wrong {
            None => self.expect(221).await.map(|_| ()),
            Some(reply) if reply.code() == 421 => Err(Error::Answer(reply.to_string())),
            Some(reply) => Err(refused(reply.to_string())),
        }
    }

    async fn expect(&mut self, code: u16) -> Result<Reply, Error> {
        let reply = self.reply().await?;
        if reply.code() == code { Ok(reply) } else { Err(Error::Answer(reply.to_string())) }
    }

    /// One reply; the protocol is spoken in lockstep, so nothing can follow it.
    async fn reply(&mut self) -> Result<Reply, Error> {
        let mut buffer = [0; 1024];
        loop {
            let read = self.stream.read(&mut buffer).await.map_err(Error::Io)?;
            if read == 0 {
                return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            match self.decoder.next(&mut &buffer[..read]) {
                None => {}
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(error)) => return Err(Error::Answer(error.to_string())),
            }
        }
    }
}

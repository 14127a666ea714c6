//! A connection to a filter node, up to the point at which it is told who the customer is.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_smtp::Reply;
use weir_smtp::extension::Extensions;
use weir_smtp::reply::{ReplyDecoder, ReplyLimits};

use crate::failure::Cause;
use crate::stream::Stream;
use crate::tls::Peer;

/// A node that takes longer to answer QUIT and to close is not waited for.
const GOODBYE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not reached: {0}")]
    Connect(io::Error),
    #[error("connection lost: {0}")]
    Io(io::Error),
    #[error("answered {0}")]
    Answer(String),
    #[error("does not announce STARTTLS, which filter.tls asks for")]
    NoTls,
    #[error("no TLS with it: {}", in_words(.0))]
    Handshake(io::Error),
}

/// As messages that find it out say it, and what the library adds, as the names in a certificate.
fn in_words(error: &io::Error) -> String {
    match Cause::of(error) {
        Cause::Other => error.to_string(),
        cause @ Cause::Tls(_) => format!("{cause} ({error})"),
        cause => cause.to_string(),
    }
}

/// A node that was greeted and announced what it offers.
pub struct Greeted {
    client: Client,
    pub extensions: Extensions,
}

impl Greeted {
    /// Banner, EHLO; STARTTLS and EHLO again where the node is to be spoken to in TLS.
    ///
    /// # Errors
    /// The first thing that did not go as it should.
    pub async fn dial(node: SocketAddr, hostname: &str, tls: Option<Peer>) -> Result<Self, Error> {
        let stream = TcpStream::connect(node).await.map_err(Error::Connect)?;
        stream.set_nodelay(true).map_err(Error::Connect)?;
        let mut client = Client::new(Stream::Clear(stream));
        client.expect(220).await?;
        let extensions = client.greet(hostname).await?;
        let Some(peer) = tls else { return Ok(Self { client, extensions }) };
        if !extensions.has("STARTTLS") {
            return Err(Error::NoTls);
        }
        client.say("STARTTLS").await?;
        client.expect(220).await?;
        let mut client = Client::new(client.stream.secure(peer).await.map_err(Error::Handshake)?);
        let extensions = client.greet(hostname).await?;
        Ok(Self { client, extensions })
    }

    /// A connection on which a message was judged, to a node that takes XCLIENT again: as good as greeted.
    pub fn again(stream: Stream, extensions: Extensions) -> Self {
        Self { client: Client::new(stream), extensions }
    }

    /// The node has said nothing since, and has not closed.
    pub fn is_quiet(&mut self) -> bool {
        let mut nothing = Context::from_waker(Waker::noop());
        self.client.stream.poll_read(&mut nothing, &mut [0]).is_pending()
    }

    pub fn into_stream(self) -> Stream {
        self.client.stream
    }

    #[cfg(test)]
    pub(super) fn from_parts(client: Client, extensions: Extensions) -> Self {
        Self { client, extensions }
    }

    pub(super) fn into_parts(self) -> (Client, Extensions) {
        (self.client, self.extensions)
    }

    /// Says goodbye, and lets the node close first.
    pub async fn quit(mut self) {
        let goodbye = async {
            self.client.say("QUIT").await?;
            while self.client.stream.read(&mut [0; 256]).await.map_err(Error::Io)? > 0 {}
            Ok::<_, Error>(())
        };
        // An error or a timeout means that there is nobody to be polite to.
        let _ = timeout(GOODBYE, goodbye).await;
    }
}

pub(super) struct Client {
    stream: Stream,
    decoder: ReplyDecoder,
}

impl Client {
    fn new(stream: Stream) -> Self {
        Self { stream, decoder: ReplyDecoder::new(ReplyLimits::default()) }
    }

    async fn greet(&mut self, hostname: &str) -> Result<Extensions, Error> {
        self.say(&format!("EHLO {hostname}")).await?;
        self.expect(250).await.map(|reply| Extensions::from_reply(&reply))
    }

    pub(super) async fn say(&mut self, line: &str) -> Result<(), Error> {
        let line = Bytes::from(format!("{line}\r\n"));
        self.stream.write_all([line].into()).await.map_err(Error::Io)
    }

    pub(super) async fn expect(&mut self, code: u16) -> Result<Reply, Error> {
        let reply = self.reply().await?;
        if reply.code() == code { Ok(reply) } else { Err(Error::Answer(reply.to_string())) }
    }

    /// One reply; the protocol is spoken in lockstep, so nothing can follow it.
    pub(super) async fn reply(&mut self) -> Result<Reply, Error> {
        let mut buffer = [0; 1024];
        loop {
            let read = self.stream.read(&mut buffer).await.map_err(Error::Io)?;
            if read == 0 {
                return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut octets = &buffer[..read];
            match self.decoder.next(&mut octets) {
                None => {}
                Some(Ok(_)) if !octets.is_empty() => {
                    return Err(Error::Answer("more than it was asked".into()));
                }
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(error)) => return Err(Error::Answer(error.to_string())),
            }
        }
    }
}

//! A connection with a proxy, in clear or in TLS.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Time for a peer to hang up after our last word.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between both; a handshake that fails ends here.
    Gone,
}

impl Stream {
    /// # Errors
    /// If the peer breaks the handshake, and with it the connection.
    pub(super) async fn secure(&mut self, acceptor: &TlsAcceptor) -> io::Result<()> {
        if let Self::Clear(stream) = std::mem::replace(self, Self::Gone) {
            *self = Self::Tls(Box::new(acceptor.accept(stream).await?));
        }
        Ok(())
    }

    /// `Ok(0)`: the peer closed its side.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(buffer).await,
            // Closed without TLS's own goodbye. SMTP says by itself what is whole.
            Self::Tls(stream) => match stream.read(buffer).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                done => done,
            },
            Self::Gone => Ok(0),
        }
    }

    pub(super) async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.write_all(octets).await,
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Closes, and waits for the peer, so that what is unread does not turn our last word into a reset.
    pub(super) async fn hang_up(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.shutdown().await?,
            Self::Tls(stream) => stream.shutdown().await?,
            Self::Gone => return Ok(()),
        }
        let mut scrap = [0; 1024];
        let gone = async {
            while self.read(&mut scrap).await? > 0 {}
            io::Result::Ok(())
        };
        timeout(HANG_UP_TIMEOUT, gone).await.unwrap_or(Ok(()))
    }
}

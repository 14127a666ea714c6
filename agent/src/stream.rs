//! A connection, in clear or in TLS, read and written by polling.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::tls::Peer;

/// Pieces given to the kernel in one call.
const GATHER: usize = 16;

pub enum Stream {
    Clear(TcpStream),
    Tls {
        stream: Box<TlsStream<TcpStream>>,
        /// Octets that TLS took and that the kernel may not have yet.
        unflushed: usize,
    },
}

impl Stream {
    pub fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls { stream: Box::new(stream), unflushed: 0 }
    }

    /// Writes from the front of the queue. The octets that have left: of TLS, those that were flushed.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Clear(stream) => loop {
                if outgoing.is_empty() {
                    return Poll::Ready(Ok(0));
                }
                match gather(stream, outgoing) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(stream.poll_write_ready(cx))?;
                    }
                    done => return Poll::Ready(done),
                }
            },
            Self::Tls { stream, unflushed } => {
                while let Some(first) = outgoing.front_mut() {
                    let taken = ready!(Pin::new(&mut **stream).poll_write(cx, first))?;
                    first.advance(taken);
                    *unflushed += taken;
                    if first.is_empty() {
                        outgoing.pop_front();
                    }
                }
                if *unflushed > 0 {
                    ready!(Pin::new(&mut **stream).poll_flush(cx))?;
                }
                Poll::Ready(Ok(std::mem::take(unflushed)))
            }
        }
    }

    /// `Ok(0)`: the peer closed its side.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match self {
            // Not `try_read`, which would have the kernel say each time that there is nothing more.
            Self::Clear(stream) => {
                let read = ready!(Pin::new(stream).poll_read(cx, &mut buffer));
                Poll::Ready(read.map(|()| buffer.filled().len()))
            }
            Self::Tls { stream, .. } => {
                match ready!(Pin::new(&mut **stream).poll_read(cx, &mut buffer)) {
                    // Closed without TLS's own goodbye, as many servers do. SMTP says by itself what is whole.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
                    done => Poll::Ready(done.map(|()| buffer.filled().len())),
                }
            }
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn write_all(&mut self, mut octets: VecDeque<Bytes>) -> io::Result<()> {
        while !octets.is_empty() {
            poll_fn(|cx| self.poll_write(cx, &mut octets)).await?;
        }
        Ok(())
    }

    /// `Ok(0)`: the peer closed its side.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buffer)).await
    }

    /// In TLS from now on, if it is not yet.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn secure(self, peer: Peer) -> io::Result<Self> {
        match self {
            Self::Clear(stream) => peer.secure(stream).await.map(Self::tls),
            secured @ Self::Tls { .. } => Ok(secured),
        }
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls { stream, .. } => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }

    /// Makes the close to come a reset.
    pub fn reset_at_close(&self) {
        let tcp = match self {
            Self::Clear(stream) => stream,
            Self::Tls { stream, .. } => stream.get_ref().0,
        };
        // If it can't be set the peer sees a plain close, which ends no message either.
        let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }
}

fn gather(stream: &TcpStream, outgoing: &mut VecDeque<Bytes>) -> io::Result<usize> {
    let mut pieces = [IoSlice::new(&[]); GATHER];
    let count = outgoing.iter().zip(&mut pieces).map(|(octets, piece)| *piece = IoSlice::new(octets)).count();
    let written = stream.try_write_vectored(&pieces[..count])?;
    let mut left = written;
    while let Some(first) = outgoing.front_mut() {
        let taken = left.min(first.len());
        first.advance(taken);
        left -= taken;
        if !first.is_empty() {
            break;
        }
        outgoing.pop_front();
    }
    Ok(written)
}

//! One connection of a session: what is to be written, and whether it is read.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

/// Pieces given to the kernel in one call.
const GATHER: usize = 16;

/// Octets read at once.
const READ: usize = 64 * 1024;

thread_local! {
    /// One buffer a thread instead of one a connection: an idle session holds none.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

pub(super) type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum Link {
    None,
    Connecting(Connecting),
    Open(TcpStream),
}

/// What happened on a leg.
pub(super) enum Event<'a> {
    Connected,
    Failed(io::Error),
    Bytes(&'a [u8]),
    Closed,
    Written(usize),
}

pub(super) struct LegSocket {
    link: Link,
    outgoing: VecDeque<Bytes>,
    paused: bool,
    ended: bool,
    /// A write failed. What the peer said before is read first: it may say why.
    broken: Option<io::Error>,
}

impl LegSocket {
    pub(super) fn none() -> Self {
        Self { link: Link::None, outgoing: VecDeque::new(), paused: false, ended: false, broken: None }
    }

    pub(super) fn open(stream: TcpStream) -> Self {
        Self { link: Link::Open(stream), ..Self::none() }
    }

    pub(super) fn connecting(connecting: Connecting) -> Self {
        Self { link: Link::Connecting(connecting), ..Self::none() }
    }

    pub(super) fn write(&mut self, octets: Bytes) {
        if !matches!(self.link, Link::None) && !octets.is_empty() {
            self.outgoing.push_back(octets);
        }
    }

    pub(super) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Closes with a reset: a peer in the middle of a message must not take it for a whole one.
    pub(super) fn abort(&mut self) {
        if let Link::Open(stream) = &self.link {
            // If it can't be set the peer sees a plain close, which ends no message either.
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        *self = Self::none();
    }

    /// The stream and what it still has to send; the leg is empty afterwards.
    pub(super) fn take(&mut self) -> Option<(TcpStream, VecDeque<Bytes>)> {
        match std::mem::replace(self, Self::none()) {
            Self { link: Link::Open(stream), outgoing, .. } => Some((stream, outgoing)),
            _ => None,
        }
    }

    /// Hands the next event to `tell`. `Pending`: there is none, and the task will be woken by the next.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, tell: impl FnOnce(Event<'_>)) -> Poll<()> {
        match &mut self.link {
            Link::None => Poll::Pending,
            Link::Connecting(connecting) => {
                let event = match std::task::ready!(connecting.as_mut().poll(cx)) {
                    Ok(stream) => {
                        self.link = Link::Open(stream);
                        Event::Connected
                    }
                    Err(error) => {
                        *self = Self::none();
                        Event::Failed(error)
                    }
                };
                tell(event);
                Poll::Ready(())
            }
            Link::Open(_) => self.poll_open(cx, tell),
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>, tell: impl FnOnce(Event<'_>)) -> Poll<()> {
        match self.poll_write(cx) {
            Poll::Ready(Ok(0)) | Poll::Pending => {}
            Poll::Ready(Ok(written)) => {
                tell(Event::Written(written));
                return Poll::Ready(());
            }
            Poll::Ready(Err(error)) => {
                self.outgoing.clear();
                self.paused = false;
                self.broken = Some(error);
            }
        }
        let Some(error) = self.broken.take() else { return self.poll_read(cx, tell) };
        match self.last_words() {
            Some(read) => BUFFER.with_borrow(|buffer| {
                self.broken = Some(error);
                tell(Event::Bytes(&buffer[..read]));
            }),
            None => {
                *self = Self::none();
                tell(Event::Failed(error));
            }
        }
        Poll::Ready(())
    }

    /// What a peer said before it stopped taking octets.
    fn last_words(&self) -> Option<usize> {
        let Link::Open(stream) = &self.link else { return None };
        BUFFER.with_borrow_mut(|buffer| stream.try_read(buffer).ok().filter(|read| *read > 0))
    }

    /// `Ok(0)`: there is nothing to write.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Link::Open(stream) = &self.link else { return Poll::Ready(Ok(0)) };
        if self.outgoing.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            match try_write(stream, &mut self.outgoing) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(stream.poll_write_ready(cx))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, tell: impl FnOnce(Event<'_>)) -> Poll<()> {
        if self.paused || self.ended {
            return Poll::Pending;
        }
        BUFFER.with_borrow_mut(|buffer| {
            let Link::Open(stream) = &self.link else { return Poll::Pending };
            let event = match std::task::ready!(poll_read(stream, cx, buffer)) {
                Ok(0) => {
                    self.ended = true;
                    Event::Closed
                }
                Ok(read) => Event::Bytes(&buffer[..read]),
                Err(error) => {
                    *self = Self::none();
                    Event::Failed(error)
                }
            };
            tell(event);
            Poll::Ready(())
        })
    }
}

fn poll_read(stream: &TcpStream, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        std::task::ready!(stream.poll_read_ready(cx))?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

/// Writes what the kernel takes, and removes it from the queue.
pub(super) fn try_write(stream: &TcpStream, outgoing: &mut VecDeque<Bytes>) -> io::Result<usize> {
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

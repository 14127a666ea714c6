//! One connection of a session: what is to be written, and whether it is read.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::stream::Stream;
use crate::tls::{self, Peer};

/// Octets read at once.
const READ: usize = 64 * 1024;

/// What a piece that waits to be written costs beside its octets, about.
const PIECE: usize = 64;

thread_local! {
    /// One buffer a thread instead of one a connection: an idle session holds none.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

pub(super) type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;
type Securing = Pin<Box<dyn Future<Output = io::Result<(Stream, String)>> + Send>>;

enum Link {
    None,
    Connecting(Connecting),
    Securing(Securing),
    Open(Stream),
}

/// Pieces that wait to be written; with more of them small ones are put together, or a peer that sends octet by octet could make
/// them take many times the memory of what is in them.
const MANY: usize = 64;
const SMALL: usize = 4096;

fn queue(outgoing: &mut VecDeque<Bytes>, octets: Bytes) {
    let many = outgoing.len() >= MANY;
    match outgoing.back_mut() {
        Some(last) if many && last.len() + octets.len() <= SMALL => {
            *last = [&last[..], &octets].concat().into();
        }
        _ => outgoing.push_back(octets),
    }
}

/// What happened on a leg.
pub(super) enum Event<'a> {
    Connected,
    /// TLS is on: protocol and cipher.
    Secured(String),
    Failed(io::Error),
    Bytes(&'a [u8]),
    Closed,
    Written(usize),
}

pub(super) struct LegSocket {
    link: Link,
    outgoing: VecDeque<Bytes>,
    /// Octets that were to be written and have not left.
    unwritten: usize,
    /// Octets of the spool that are to be written here when there is room.
    wanted: Option<Range<u64>>,
    paused: bool,
    ended: bool,
    /// A write failed. What the peer said before is read first: it may say why.
    broken: Option<io::Error>,
}

impl LegSocket {
    pub(super) fn none() -> Self {
        Self {
            link: Link::None,
            outgoing: VecDeque::new(),
            unwritten: 0,
            wanted: None,
            paused: false,
            ended: false,
            broken: None,
        }
    }

    pub(super) fn open(stream: Stream) -> Self {
        Self { link: Link::Open(stream), ..Self::none() }
    }

    pub(super) fn connecting(connecting: Connecting) -> Self {
        Self { link: Link::Connecting(connecting), ..Self::none() }
    }

    /// Begins TLS on an open connection.
    pub(super) fn secure(&mut self, peer: Peer) {
        if let Link::Open(Stream::Clear(stream)) = std::mem::replace(&mut self.link, Link::None) {
            self.link = Link::Securing(Box::pin(async move {
                let stream = peer.secure(stream).await?;
                let description = tls::describe(&stream);
                Ok((Stream::tls(stream), description))
            }));
        }
    }

    pub(super) fn write(&mut self, octets: Bytes) {
        if !matches!(self.link, Link::None) && !octets.is_empty() {
            self.unwritten += octets.len();
            queue(&mut self.outgoing, octets);
        }
    }

    /// Octets of memory that wait here to be written.
    pub(super) fn held(&self) -> usize {
        self.unwritten + PIECE * self.outgoing.len()
    }

    pub(super) fn want(&mut self, range: Option<Range<u64>>) {
        self.wanted = range;
    }

    pub(super) fn wanted(&self) -> Option<Range<u64>> {
        self.wanted.clone()
    }

    pub(super) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Closes with a reset: a peer in the middle of a message must not take it for a whole one.
    pub(super) fn abort(&mut self) {
        if let Link::Open(stream) = &self.link {
            stream.reset_at_close();
        }
        *self = Self::none();
    }

    /// The stream and what it still has to send; the leg is empty afterwards.
    pub(super) fn take(&mut self) -> Option<(Stream, VecDeque<Bytes>)> {
        match std::mem::replace(self, Self::none()) {
            Self { link: Link::Open(stream), outgoing, .. } => Some((stream, outgoing)),
            _ => None,
        }
    }

    /// Hands the next event to `tell`; at most `room` octets are read. `Pending`: there is none, and the task will
    /// be woken by the next.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        tell: impl FnOnce(Event<'_>),
    ) -> Poll<()> {
        let opened = match &mut self.link {
            Link::None => return Poll::Pending,
            Link::Open(_) => return self.poll_open(cx, room, tell),
            Link::Connecting(connecting) => {
                let connected = ready!(connecting.as_mut().poll(cx));
                connected.map(|stream| (Stream::Clear(stream), Event::Connected))
            }
            Link::Securing(securing) => {
                let secured = ready!(securing.as_mut().poll(cx));
                secured.map(|(stream, description)| (stream, Event::Secured(description)))
            }
        };
        match opened {
            Ok((stream, event)) => {
                self.link = Link::Open(stream);
                tell(event);
            }
            Err(error) => {
                *self = Self::none();
                tell(Event::Failed(error));
            }
        }
        Poll::Ready(())
    }

    fn poll_open(&mut self, cx: &mut Context<'_>, room: usize, tell: impl FnOnce(Event<'_>)) -> Poll<()> {
        let Link::Open(stream) = &mut self.link else { return Poll::Pending };
        match stream.poll_write(cx, &mut self.outgoing) {
            Poll::Ready(Ok(0)) | Poll::Pending => {}
            Poll::Ready(Ok(written)) => {
                self.unwritten = self.unwritten.saturating_sub(written);
                tell(Event::Written(written));
                return Poll::Ready(());
            }
            Poll::Ready(Err(error)) => {
                self.outgoing.clear();
                self.unwritten = 0;
                self.broken = Some(error);
            }
        }
        match self.broken.take() {
            Some(error) => {
                self.last_words(error, tell);
                Poll::Ready(())
            }
            None => self.poll_read(cx, room, tell),
        }
    }

    /// What a peer said before it stopped taking octets, then the error.
    fn last_words(&mut self, error: io::Error, tell: impl FnOnce(Event<'_>)) {
        BUFFER.with_borrow_mut(|buffer| {
            let said = match &mut self.link {
                Link::Open(stream) => stream.poll_read(&mut Context::from_waker(Waker::noop()), buffer),
                _ => Poll::Pending,
            };
            match said {
                Poll::Ready(Ok(read)) if read > 0 => {
                    self.broken = Some(error);
                    tell(Event::Bytes(&buffer[..read]));
                }
                _ => {
                    *self = Self::none();
                    tell(Event::Failed(error));
                }
            }
        });
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, room: usize, tell: impl FnOnce(Event<'_>)) -> Poll<()> {
        if self.paused || self.ended || room == 0 {
            return Poll::Pending;
        }
        BUFFER.with_borrow_mut(|buffer| {
            let Link::Open(stream) = &mut self.link else { return Poll::Pending };
            let event = match ready!(stream.poll_read(cx, &mut buffer[..room.min(READ)])) {
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;

    use super::{MANY, SMALL, queue};

    #[test]
    fn many_small_pieces_are_put_together_in_order() {
        let mut outgoing = VecDeque::new();
        let said: Vec<u8> = (0..=250).cycle().take(20_000).collect();
        said.chunks(1).for_each(|octet| queue(&mut outgoing, Bytes::copy_from_slice(octet)));
        assert!(outgoing.len() <= MANY + said.len() / SMALL + 1, "{}", outgoing.len());
        queue(&mut outgoing, Bytes::from(vec![7; SMALL]));
        assert_eq!(outgoing.pop_back().unwrap().len(), SMALL, "a large one is one of its own");
        assert_eq!(outgoing.into_iter().flatten().collect::<Vec<u8>>(), said);
    }
}

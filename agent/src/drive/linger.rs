//! Closing a connection so that the peer gets what was said last.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::buffers::Hold;
use crate::stream::Stream;

/// A peer that takes longer to read its last reply and to close loses it.
const LINGER: Duration = Duration::from_secs(5);

/// Octets still read from a peer that goes on talking.
const MAX_UNREAD: usize = 1024 * 1024;

/// Who closes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    Us,
    Peer,
}

/// Sends what is left, closes our side, and reads until the peer closes its own: a socket that is closed
/// with octets unread resets the connection, and the reset can overtake the reply. What waits to be sent is held.
pub(super) async fn close(stream: Stream, outgoing: VecDeque<Bytes>, first: First, _held: Hold) {
    // An error or a timeout means that there is nobody to be polite to.
    let _ = tokio::time::timeout(LINGER, finish(stream, outgoing, first)).await;
}

async fn finish(mut stream: Stream, outgoing: VecDeque<Bytes>, first: First) -> io::Result<()> {
    stream.write_all(outgoing).await?;
    if first == First::Us {
        poll_fn(|cx| stream.poll_shutdown(cx)).await?;
    }
    let (mut unread, mut buffer) = (0, [0; 4096]);
    while unread < MAX_UNREAD {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => unread += read,
        }
    }
    Ok(())
}

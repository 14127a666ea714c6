//! Closing a connection so that the peer gets what was said last.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::leg::try_write;

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
/// with octets unread resets the connection, and the reset can overtake the reply.
pub(super) async fn close(stream: TcpStream, outgoing: VecDeque<Bytes>, first: First) {
    // An error or a timeout means that there is nobody to be polite to.
    let _ = tokio::time::timeout(LINGER, finish(stream, outgoing, first)).await;
}

async fn finish(mut stream: TcpStream, mut outgoing: VecDeque<Bytes>, first: First) -> std::io::Result<()> {
    while !outgoing.is_empty() {
        stream.writable().await?;
        match try_write(&stream, &mut outgoing) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    if first == First::Us {
        stream.shutdown().await?;
    }
    let (mut unread, mut buffer) = (0, [0; 4096]);
    while unread < MAX_UNREAD {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => unread += read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

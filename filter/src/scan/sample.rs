//! What a scanner is shown of a message: lines that a mail server would have added, then the body or its beginning. It is
//! read piece by piece, so that a scan of a large message takes no more memory than one of a small.

use std::io;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::received;
use crate::body::Body;
use crate::message::{Message, Transaction};

/// Octets read and written at a time.
pub const PIECE: usize = 64 * 1024;

/// A message for a scanner.
#[derive(Debug)]
pub struct Sample<'m> {
    pub transaction: &'m Transaction,
    added: Bytes,
    body: &'m Body,
    shown: u64,
}

impl<'m> Sample<'m> {
    /// The message, or its first `limit` octets. Every scanner gets the added lines: SpamAssassin and rspamd learn from them
    /// who sent it, and clamd takes a file for mail only if it begins as mail usually does.
    pub fn new(message: &'m Message, limit: u64) -> Self {
        Self {
            transaction: &message.transaction,
            added: received::lines(&message.transaction, SystemTime::now()).into(),
            body: &message.body,
            shown: message.body.size().min(limit),
        }
    }

    /// Octets in all.
    pub fn size(&self) -> u64 {
        self.added.len() as u64 + self.shown
    }

    /// The octets from there on, [`PIECE`] at most; none at the end.
    ///
    /// # Errors
    /// If the body cannot be read.
    pub async fn piece(&self, from: u64) -> io::Result<Bytes> {
        let added = self.added.len() as u64;
        match usize::try_from(from) {
            Ok(from) if from < self.added.len() => Ok(self.added.slice(from..)),
            _ => {
                let offset = from - added;
                let left = usize::try_from(self.shown.saturating_sub(offset)).unwrap_or(PIECE);
                self.body.piece(offset, left.min(PIECE)).await
            }
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// If the body cannot be read, or the scanner does not take it.
    pub async fn write_to(&self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut at = 0;
        while at < self.size() {
            let piece = self.next(at).await?;
            writer.write_all(&piece).await?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// As [`Self::piece`], where there has to be one.
    ///
    /// # Errors
    /// If the body cannot be read, or is shorter than it was.
    pub async fn next(&self, from: u64) -> io::Result<Bytes> {
        let piece = self.piece(from).await?;
        if piece.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the spooled message is cut short"));
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::tests::message;

    #[tokio::test]
    async fn the_beginning_of_a_body_comes_after_the_lines() {
        let message = message();
        let whole = Sample::new(&message, 1000);
        let mut octets = Vec::new();
        whole.write_to(&mut octets).await.unwrap();
        assert_eq!(octets.len() as u64, whole.size());
        assert!(octets.starts_with(b"Return-Path: <s@example.org>\r\nReceived: "));
        assert!(octets.ends_with(b"+0000\r\nSubject: x\r\n"));
        let head = Sample::new(&message, 3);
        let mut octets = Vec::new();
        head.write_to(&mut octets).await.unwrap();
        assert!(octets.ends_with(b"+0000\r\nSub"));
        assert!(head.piece(head.size()).await.unwrap().is_empty());
    }
}

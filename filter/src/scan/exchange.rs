//! One question and one answer on a connection.

use std::io;

use super::ScanError;

/// Reads while it writes: a scanner may answer before it has read everything, and leave. What it answered counts then, not
/// that the rest could not be written.
pub(super) async fn exchange<T>(
    write: impl Future<Output = io::Result<()>>,
    read: impl Future<Output = Result<T, ScanError>>,
) -> Result<T, ScanError> {
    tokio::pin!(write, read);
    tokio::select! {
        biased;
        answer = &mut read => answer,
        written = &mut write => match written {
            Ok(()) => read.await,
            Err(cause) => read.await.map_err(|_| ScanError::Io(cause)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn an_early_answer_counts_and_a_write_error_is_the_cause() {
        let broken = || ready(Err(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(exchange(pending(), async { Ok(1) }).await.unwrap(), 1);
        let late = async {
            tokio::task::yield_now().await;
            Ok(2)
        };
        assert_eq!(exchange(broken(), late).await.unwrap(), 2);
        let nothing = async {
            tokio::task::yield_now().await;
            Err::<(), _>(ScanError::Answer("none".into()))
        };
        assert!(matches!(exchange(broken(), nothing).await, Err(ScanError::Io(_))));
    }
}

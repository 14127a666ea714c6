//! Listeners that outlive the process: systemd keeps them while it starts the next one (`FileDescriptorStoreMax=`), and who
//! connects meanwhile waits in their queue instead of being refused. Without systemd they are listeners as any others.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::{debug, warn};

/// What systemd calls all of them.
const NAME: NotifyState<'static> = NotifyState::FdName("listener");

/// Those that the process before this one had.
#[derive(Debug, Default)]
pub struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// Those that systemd kept, of these addresses; others are closed, for they may be in the way of new ones.
    pub fn inherited(wanted: &[SocketAddr]) -> Self {
        let mut kept = ListenFd::from_env();
        let listeners = (0..kept.len()).filter_map(|place| match kept.take_tcp_listener(place) {
            Ok(listener) => listener,
            Err(cause) => {
                warn!(%cause, place, "what was handed over is no listener");
                None
            }
        });
        Self::only(listeners.collect(), wanted)
    }

    fn only(mut listeners: Vec<TcpListener>, wanted: &[SocketAddr]) -> Self {
        listeners.retain(|listener| listener.local_addr().is_ok_and(|own| wanted.contains(&own)));
        Self(listeners)
    }

    /// One on this address: that of the process before, or a new one. Needs tokio.
    ///
    /// # Errors
    /// If it cannot be listened on.
    pub async fn take(&mut self, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let known = self.0.iter().position(|listener| listener.local_addr().is_ok_and(|own| own == address));
        let Some(place) = known else { return tokio::net::TcpListener::bind(address).await };
        debug!(%address, "listening on with the listener of the process before");
        let listener = self.0.swap_remove(place);
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }

    /// From now on systemd keeps these and no others.
    pub fn keep<'l>(self, listeners: impl IntoIterator<Item = &'l tokio::net::TcpListener>) {
        drop(self);
        forget();
        let descriptors: Vec<BorrowedFd<'_>> = listeners.into_iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty()
            && let Err(cause) = sd_notify::notify_with_fds(&[NotifyState::FdStore, NAME], &descriptors)
        {
            warn!(%cause, "systemd keeps no listeners: who connects during a restart is refused");
        }
    }
}

/// From now on systemd keeps none: a process that cannot start must not leave anybody waiting for it.
pub fn forget() {
    if let Err(cause) = sd_notify::notify(&[NotifyState::FdStoreRemove, NAME]) {
        warn!(%cause, "systemd could not be told to close listeners");
    }
}

#[cfg(test)]
mod tests {
    use super::{Listeners, SocketAddr, TcpListener};

    #[tokio::test]
    async fn what_is_there_is_taken_and_the_rest_is_new() {
        let kept = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [known, unwanted] = kept.each_ref().map(|listener| listener.local_addr().unwrap());
        let everywhere = SocketAddr::new([0, 0, 0, 0].into(), unwanted.port());
        let mut listeners = Listeners::only(kept.into(), &[known, everywhere]);
        let wider = listeners.take(everywhere).await.unwrap();
        assert_eq!(wider.local_addr().unwrap(), everywhere, "what was narrower is not in its way");
        let taken = listeners.take(known).await.unwrap();
        assert_eq!(taken.local_addr().unwrap(), known);
        assert!(TcpListener::bind(known).is_err(), "it is the same one");
        let new = listeners.take("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_ne!(new.local_addr().unwrap(), unwanted);
        listeners.keep([&taken, &new, &wider]);
    }
}

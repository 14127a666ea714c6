//! What all sessions are told at once. One bell wakes them, whatever it is about: an idle session listens to nothing else of the
//! daemon's, which keeps it small.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Rung after something has changed that sessions look at.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<watch::Sender<()>>);

impl Bell {
    pub fn ring(&self) {
        self.0.send_replace(());
    }

    /// Hears it from now on.
    pub fn listen(&self) -> Listener {
        Listener(self.0.subscribe())
    }
}

#[derive(Debug)]
pub struct Listener(watch::Receiver<()>);

impl Listener {
    /// The next time it rings; once for all times since it was heard last.
    pub async fn rung(mut self) -> Self {
        // An error means that nobody is left who could ring, which is while the daemon ends.
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self
    }
}

/// The daemon's end, as sessions are told of it.
#[derive(Debug, Default)]
pub struct Orders {
    pub bell: Bell,
    stopping: AtomicBool,
    cutting: AtomicBool,
}

impl Orders {
    /// Sessions without a message end, messages in flight are finished.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// All that can be is ended at once.
    pub fn cut(&self) {
        self.cutting.store(true, Ordering::Release);
        self.bell.ring();
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub fn is_cutting(&self) -> bool {
        self.cutting.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::Orders;

    #[tokio::test]
    async fn who_listens_is_woken_and_sees_why() {
        let orders = Orders::default();
        let listener = orders.bell.listen();
        orders.stop();
        let listener = listener.rung().await;
        assert!(orders.is_stopping() && !orders.is_cutting());
        let waiting = tokio::spawn(listener.rung());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "heard once");
        orders.cut();
        waiting.await.unwrap();
        assert!(orders.is_cutting());
    }
}

//! What all sessions are told at once.

use tokio::sync::watch;

use crate::shared::Shared;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// There is more room in memory, or less.
    Room,
    /// Other customers are blocked.
    Blocked,
    /// The daemon stops.
    Stop,
    /// It can't wait any longer.
    Cut,
}

pub(super) struct Signals {
    room: watch::Receiver<bool>,
    blocked: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    cut: watch::Receiver<bool>,
    stopping: bool,
    cutting: bool,
}

impl Signals {
    pub(super) fn new(shared: &Shared, stop: watch::Receiver<bool>, cut: watch::Receiver<bool>) -> Self {
        let (room, blocked) = (shared.buffers.watch(), shared.blocked.watch());
        Self { room, blocked, stop, cut, stopping: false, cutting: false }
    }

    /// The next, and what is to be asked for the one after it. The last two come once.
    pub(super) async fn next(mut self) -> (Signal, Self) {
        let signal = tokio::select! {
            _ = self.room.changed() => Signal::Room,
            _ = self.blocked.changed() => Signal::Blocked,
            _ = self.stop.wait_for(|stop| *stop), if !self.stopping => Signal::Stop,
            _ = self.cut.wait_for(|cut| *cut), if !self.cutting => Signal::Cut,
        };
        self.stopping |= signal == Signal::Stop;
        self.cutting |= signal == Signal::Cut;
        (signal, self)
    }
}

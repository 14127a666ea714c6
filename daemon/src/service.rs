//! What the service manager and the operator are told, and when to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

/// Whether another process is the service now: then it is that one's to say that it lives.
static REPLACED: AtomicBool = AtomicBool::new(false);

/// Says that the daemon serves: a log line with the word `ready`, and READY=1 to systemd; and from then on that it lives,
/// if systemd wants to hear it (`WatchdogSec=`). Needs tokio, which is what has to live.
pub fn ready(name: &str) {
    info!(program = name, version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "ready");
    notify(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(live(limit / 3));
    }
}

async fn live(pause: Duration) {
    while !REPLACED.load(Ordering::Relaxed) {
        notify(&[NotifyState::Watchdog]);
        tokio::time::sleep(pause).await;
    }
}

/// From now on another process is the service.
pub fn is_replaced() {
    REPLACED.store(true, Ordering::Relaxed);
}

/// Says that from now on this process is the service, in the place of another.
pub fn is_main() {
    notify(&[NotifyState::MainPid(std::process::id())]);
}

/// Says that the daemon accepts nothing new.
pub fn stopping() {
    info!("stopping");
    notify(&[NotifyState::Stopping]);
}

/// Says that the configuration is read anew (`Type=notify-reload` waits for `reloaded`).
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(cause) => warn!(%cause, "the service manager could not be notified"),
    }
}

/// Says that this is over, whatever came of it.
pub fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// Without systemd there is no socket to notify, which is no error.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(cause) = sd_notify::notify(states) {
        warn!(%cause, "the service manager could not be notified");
    }
}

/// The SIGHUPs that come.
pub struct Hangups(Signal);

impl Hangups {
    /// From now on: called before `ready`, so that none meets the default action; needs tokio.
    ///
    /// # Errors
    /// If the signals cannot be watched.
    pub fn watch() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next; several that came meanwhile are one. `false`: there will be none.
    pub async fn next(&mut self) -> bool {
        self.0.recv().await.is_some()
    }
}

/// A future that is ready at SIGTERM or SIGINT. Called before `ready`, so that no signal meets the
/// default action; needs tokio.
///
/// # Errors
/// If the signals cannot be watched.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

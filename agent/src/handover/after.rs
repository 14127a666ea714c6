//! After the hand-over: the old agent tells the new one what sessions it still has, and whose messages were refused in
//! them, and ends when the last is over.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::channel::{Channel, Line};
use super::process::Process;
use super::{FromHeir, FromOwner};
use crate::places::Places;
use crate::shared::Shared;
use crate::source::Source;

/// How often what has changed is told.
const INTERVAL: Duration = Duration::from_millis(100);

/// Sources in one packet.
const CHUNK: usize = 1000;

/// Tells the heir, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reporter {
    told_to_stop: watch::Receiver<bool>,
    is_done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn start(channel: Channel, places: Arc<Places>, shared: Arc<Shared>) -> io::Result<Self> {
        let ((stop, told_to_stop), is_done) = (watch::channel(false), Arc::<AtomicBool>::default());
        let done = is_done.clone();
        let work = move || report(&channel, &places, &shared, &stop, &done);
        let thread = Some(thread::Builder::new().name("reports".into()).spawn(work)?);
        Ok(Self { told_to_stop, is_done, thread })
    }

    /// Until the heir wants this agent to stop. For ever, if it does not.
    pub(crate) async fn stop(&self) {
        let mut told_to_stop = self.told_to_stop.clone();
        if told_to_stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Reporter {
    /// When the last word is said.
    fn drop(&mut self) {
        self.is_done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported.
            let _ = thread.join();
        }
    }
}

fn report(
    channel: &Channel,
    places: &Places,
    shared: &Shared,
    stop: &watch::Sender<bool>,
    is_done: &AtomicBool,
) {
    loop {
        let is_last = is_done.load(Ordering::Relaxed);
        if let Err(error) = tell(channel, places, shared, is_done) {
            debug!(%error, "the agent that took over hears nothing");
            return;
        }
        if is_last {
            return;
        }
        match channel.receive(INTERVAL) {
            Ok((FromHeir::Stop {}, _)) => {
                stop.send_replace(true);
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            // It has ended, which the next word shows, or it can only be told.
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

/// What has changed.
fn tell(channel: &Channel, places: &Places, shared: &Shared, is_done: &AtomicBool) -> io::Result<()> {
    for sources in places.take_news().chunks(CHUNK) {
        say(channel, &FromOwner::Sessions { sources: sources.to_vec() }, is_done)?;
    }
    let refused: Vec<_> = shared.refusals.take_news().into_iter().map(Source::address).collect();
    for sources in refused.chunks(CHUNK) {
        say(channel, &FromOwner::Refusals { sources: sources.to_vec() }, is_done)?;
    }
    Ok(())
}

/// When the heir has room for it: a busy one has not gone.
fn say(channel: &Channel, words: &FromOwner, is_done: &AtomicBool) -> io::Result<()> {
    loop {
        match channel.send(words, &[]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && !is_done.load(Ordering::Relaxed) => {}
            said => return said,
        }
    }
}

/// The agent before, whose last sessions are not over. It is there until its process has ended: a channel may break.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pid: u32,
    /// It, and those before it.
    processes: Arc<Vec<Process>>,
    channel: Arc<Channel>,
    gone: watch::Receiver<bool>,
}

impl Predecessor {
    /// Listens to it from now on.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn listen(
        channel: Channel,
        pid: u32,
        before: &[u32],
        places: Arc<Places>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let channel = Arc::new(channel);
        let opened = [&[pid], before].concat().into_iter().filter_map(|pid| {
            let process = Process::of(pid);
            // It has ended already, or the end of the channel must do.
            process.inspect_err(|error| debug!(pid, %error, "a process that is not watched")).ok()
        });
        let processes: Arc<Vec<_>> = Arc::new(opened.collect());
        let watched = processes.clone();
        let (ended, gone) = watch::channel(false);
        let line = channel.clone();
        let work = move || {
            hear(&line, &places, &shared);
            let (direct, others): (Vec<_>, Vec<_>) = watched.iter().partition(|process| process.pid() == pid);
            direct.into_iter().for_each(Process::wait);
            info!(pid, "the agent before this one has ended");
            // If others are left it was killed, and nobody counts their sessions any more.
            places.forget_elsewhere();
            others.into_iter().for_each(Process::wait);
            ended.send_replace(true);
        };
        thread::Builder::new().name("predecessor".into()).spawn(work)?;
        Ok(Self { pid, processes, channel, gone })
    }

    /// Its process, as long as it is there.
    pub(crate) fn pid(&self) -> Option<u32> {
        let first = self.pids().next();
        let pid = first.or_else(|| self.processes.is_empty().then_some(self.pid));
        pid.filter(|_| !*self.gone.borrow())
    }

    /// Its process and those before it, as far as they are there.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.processes.iter().filter(|process| !process.has_ended()).map(Process::pid)
    }

    /// It need not wait for its sessions any longer.
    pub(crate) fn stop(&self) {
        if self.channel.send(&FromHeir::Stop {}, &[]).is_ok() {
            return;
        }
        // It hears nothing, or has died and left others.
        for process in self.processes.iter().filter(|process| !process.has_ended()) {
            if let Err(error) = process.terminate() {
                warn!(pid = process.pid(), %error, "an agent before this one cannot be told to stop");
            }
        }
    }

    /// Until it is there no more.
    pub(crate) async fn gone(&self) {
        let mut gone = self.gone.clone();
        // An error means that nobody listens any more.
        let _ = gone.wait_for(|gone| *gone).await;
    }
}

fn hear(channel: &Channel, places: &Places, shared: &Shared) {
    loop {
        match channel.receive(Duration::ZERO) {
            Ok((FromOwner::Sessions { sources }, _)) => places.set_elsewhere(&sources),
            Ok((FromOwner::Refusals { sources }, _)) => {
                sources.into_iter().for_each(|source| shared.refusals.refused(source));
            }
            Ok((other, _)) => warn!(?other, "the agent before says what is not expected of it"),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                warn!(%error, "the agent before says what is not understood");
            }
            Err(_) => return,
        }
    }
}

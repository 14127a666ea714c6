//! The heart's own nft(8): started once, and told of each beat. To start a program for each takes long on a loaded machine,
//! and open files that may be short by then.

use std::io::{self, ErrorKind, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{nft, ruleset};

/// How long the last beats are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Some twenty minutes: who knows what a program keeps that nobody has run for weeks.
const RENEWED_AFTER: u32 = 10_000;

const PAUSE: Duration = Duration::from_millis(5);

/// Dropped, it beats no more: what came before has reached the kernel.
#[derive(Debug, Default)]
pub(super) struct Beater(Option<Running>);

#[derive(Debug)]
struct Running {
    nft: Child,
    words: ChildStdin,
    beats: u32,
}

impl Beater {
    pub(super) fn beat(&mut self) {
        // One that ended, or hears nothing, is replaced at once: the kernel waits for three beats.
        if let Err(error) = self.say().or_else(|_| self.say()) {
            tracing::debug!(%error, "no heartbeat");
        }
    }

    fn say(&mut self) -> io::Result<()> {
        let mut running = match self.0.take() {
            Some(running) if running.beats < RENEWED_AFTER => running,
            old => {
                let new = Running::start()?;
                if let Some(old) = old {
                    old.end(Duration::ZERO);
                }
                new
            }
        };
        running.beats += 1;
        // Each line is a transaction.
        match running.words.write_all(ruleset::beat().as_bytes()) {
            Ok(()) => {
                self.0 = Some(running);
                Ok(())
            }
            Err(error) => {
                running.end(Duration::ZERO);
                Err(error)
            }
        }
    }
}

impl Drop for Beater {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.end(PATIENCE);
        }
    }
}

impl Running {
    fn start() -> io::Result<Self> {
        let mut nft = nft::program()
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // What it minds, above all that there is no table, is found out and said by the check of each second.
            .stderr(Stdio::null())
            .spawn()?;
        let words = nft.stdin.take().ok_or(ErrorKind::BrokenPipe)?;
        // One that hangs must not hold the heart.
        fcntl(&words, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { nft, words, beats: 0 })
    }

    fn end(self, patience: Duration) {
        let Self { mut nft, words, .. } = self;
        drop(words);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && matches!(nft.try_wait(), Ok(None)) {
            thread::sleep(PAUSE);
        }
        // It may have ended already.
        let _ = nft.kill();
        let _ = nft.wait();
    }
}

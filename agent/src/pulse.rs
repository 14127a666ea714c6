//! Whether the agent is hung: what takes connections shows that it goes on, and a thread of its own looks.
//!
//! Being busy is not being hung: steering must not be lost to a flood of connections.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::gettid;

use crate::privileges;

/// How often the thread looks. What takes connections must show that it goes on as often.
pub const BEAT: Duration = Duration::from_millis(100);

/// What does not go on for so long, and does nothing else meanwhile, is hung.
const STILL: Duration = Duration::from_millis(250);

/// What does not go on for so long is hung whatever it does.
const STALLED: Duration = Duration::from_secs(30);

/// Shows that the agent goes on.
#[derive(Debug, Default)]
pub struct Pulse {
    count: AtomicU64,
}

impl Pulse {
    /// Call it every [`BEAT`].
    pub fn show(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells the kernel that the agent is alive.
pub type Beat = Box<dyn FnMut() + Send>;

/// Says "alive" by `beat` as long as it is so, until it is dropped.
#[derive(Debug)]
pub struct Heart {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    /// `every`: the time between two beats.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(pulse: Arc<Pulse>, every: Duration, mut beat: Beat) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let look = move || {
            prefer_this_thread();
            privileges::settle_this_thread();
            let own = gettid();
            let mut watch = Watch::new(Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                let count = pulse.count.load(Ordering::Relaxed);
                if watch.is_alive(count, Instant::now(), || others_work(own.as_raw())) {
                    beat();
                }
                thread::park_timeout(every);
            }
        };
        let thread = thread::Builder::new().name("heart".into()).spawn(look)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It ends by itself; a panic in it has been reported.
            let _ = thread.join();
        }
    }
}

/// What was seen of the pulse.
#[derive(Debug)]
struct Watch {
    count: u64,
    since: Instant,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { count: 0, since: now }
    }

    /// `works`: whether the process does anything.
    fn is_alive(&mut self, count: u64, now: Instant, works: impl FnOnce() -> bool) -> bool {
        if self.count != count {
            (self.count, self.since) = (count, now);
        }
        let still = now.saturating_duration_since(self.since);
        let begins = self.count == 0;
        still < STILL || (still < STALLED && (begins || works()))
    }
}

/// A thread of this process runs, wants to, or waits for a disk.
fn others_work(own: i32) -> bool {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return true };
    threads.flatten().filter(|thread| thread.file_name().to_str() != Some(&own.to_string())).any(|thread| {
        let status = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        is_at_work(&status)
    })
}

/// From `/proc/PID/stat`: the state comes after the name, which is in parentheses and may hold anything (proc(5)).
fn is_at_work(stat: &str) -> bool {
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('R' | 'D'))
}

#[expect(unsafe_code, reason = "no library at hand sets a scheduling policy")]
/// It must run however busy the machine is, and what it starts too; it needs next to nothing.
fn prefer_this_thread() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters are valid for the call, which changes nothing but how this thread is scheduled.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if outcome != 0 {
        let error = io::Error::last_os_error();
        static SAID: Once = Once::new();
        SAID.call_once(|| tracing::warn!(%error, "the heart has no real-time priority (CAP_SYS_NICE): a machine under great load may seem hung"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_alive_and_what_is_still_is_not() {
        let start = Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let mut watch = Watch::new(start);
        assert!(watch.is_alive(1, at(100), || false));
        assert!(watch.is_alive(1, at(349), || false));
        assert!(!watch.is_alive(1, at(350), || false));
        assert!(watch.is_alive(2, at(5000), || false), "it goes on");
    }

    #[test]
    fn what_is_busy_is_alive_for_long_but_not_for_ever() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert!(watch.is_alive(0, start + Duration::from_secs(29), || false), "it has not begun");
        assert!(!watch.is_alive(0, start + Duration::from_secs(30), || true));
        assert!(watch.is_alive(1, start + Duration::from_secs(30), || true));
        assert!(watch.is_alive(1, start + Duration::from_secs(59), || true));
        assert!(!watch.is_alive(1, start + Duration::from_secs(60), || true));
    }

    #[test]
    fn states_are_read_whatever_the_name_is() {
        assert!(is_at_work("42 (heart) R 1 42") && is_at_work("42 (a) S (b) D 1 42"));
        assert!(!is_at_work("42 (R) S 1 42") && !is_at_work("42 (x) t 1") && !is_at_work(""));
    }

    #[test]
    fn a_heart_beats_while_there_is_a_pulse_and_stops_when_dropped() {
        let (pulse, beats) = (Arc::new(Pulse::default()), Arc::new(AtomicU64::new(0)));
        let counted = beats.clone();
        let beat = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let heart = Heart::start(pulse.clone(), Duration::from_millis(1), beat).unwrap();
        while beats.load(Ordering::Relaxed) < 5 {
            pulse.show();
            thread::yield_now();
        }
        drop(heart);
        let after = beats.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(beats.load(Ordering::Relaxed), after);
    }
}

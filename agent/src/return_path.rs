//! Whether answers come back from the internet.
//!
//! The agent connects to destinations from its customers' addresses. If the answers take another way (a router that was
//! changed, a firewall that lost its state), every customer's mail waits in vain, and without the agent it would
//! flow. So as long as nothing shows that answers come back, new connections are taken one at a time, and the others go
//! straight; the first answer, be it a refusal, is enough for all. Only where the path may be open at all
//! (`when_agent_dies = "open"`, back end `ebpf`): elsewhere this is said, and nothing is done.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{info, warn};

use crate::reminder::Reminder;
use crate::source::Source;

/// Without an answer for so long, the attempts are looked at.
const SILENCE: Duration = Duration::from_secs(10);

/// Attempts that were not answered within this time count.
const PATIENCE: Duration = Duration::from_secs(3);

/// So many of them, by so many customers to so many destinations, are more than one dead destination or one odd customer.
const ATTEMPTS: usize = 20;
const CUSTOMERS: usize = 3;
const DESTINATIONS: usize = 5;

/// Attempts that are remembered.
const REMEMBERED: usize = 256;

/// How long one connection that was taken to see whether it is answered is waited for.
const TRIAL: Duration = Duration::from_secs(2);

/// Tells the kernel how many new connections to take; `None`: all.
pub type Admit = Box<dyn FnMut(Option<u32>) + Send>;

/// What is known, and what follows.
#[derive(Debug)]
struct Path {
    /// Since when nothing shows that answers come back, and when the next connection may be taken. `None`: they do.
    doubt: Option<(Instant, Instant)>,
    /// The last answer, or the first attempt since.
    quiet_since: Option<Instant>,
    /// Not answered yet, the oldest first.
    attempts: Vec<(Instant, Source, IpAddr)>,
}

impl Path {
    fn new(now: Instant) -> Self {
        Self { doubt: Some((now, now)), quiet_since: None, attempts: Vec::new() }
    }

    fn attempted(&mut self, customer: Source, destination: IpAddr, now: Instant) {
        self.quiet_since.get_or_insert(now);
        if self.attempts.len() < REMEMBERED {
            self.attempts.push((now, customer, destination));
        }
        if let Some((_, next)) = &mut self.doubt {
            *next = now + TRIAL;
        }
    }

    /// `true`: that is news.
    fn answered(&mut self) -> bool {
        self.attempts.clear();
        self.quiet_since = None;
        self.doubt.take().is_some()
    }

    /// `true`: since now answers are in doubt.
    fn look(&mut self, now: Instant) -> bool {
        let long_ago = |at: Instant, limit: Duration| now.saturating_duration_since(at) >= limit;
        if self.doubt.is_some() || !self.quiet_since.is_some_and(|since| long_ago(since, SILENCE)) {
            return false;
        }
        let unanswered = || self.attempts.iter().filter(|(at, ..)| long_ago(*at, PATIENCE));
        let customers: BTreeSet<_> = unanswered().map(|(_, customer, _)| customer).collect();
        let destinations: BTreeSet<_> = unanswered().map(|(.., destination)| destination).collect();
        let lost = unanswered().count() >= ATTEMPTS
            && customers.len() >= CUSTOMERS
            && destinations.len() >= DESTINATIONS;
        if lost {
            self.doubt = Some((now, now));
        }
        lost
    }

    /// Whether one more connection is to be taken, to see whether it is answered.
    fn tries(&mut self, now: Instant) -> bool {
        match &mut self.doubt {
            Some((_, next)) if *next <= now => {
                *next = now + TRIAL;
                true
            }
            _ => false,
        }
    }
}

/// As `status` shows it.
#[derive(Debug, Serialize)]
pub struct Status {
    pub proven: bool,
    /// Seconds since which nothing shows that answers come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_doubt_for: Option<u64>,
}

/// For all sessions.
pub struct ReturnPath {
    // Held for moments, and never while anything is awaited.
    state: Mutex<State>,
}

struct State {
    path: Path,
    admit: Option<Admit>,
    reminder: Reminder,
}

impl std::fmt::Debug for ReturnPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReturnPath").field("path", &self.state().path).finish_non_exhaustive()
    }
}

impl ReturnPath {
    pub fn new(now: Instant) -> Self {
        let state = State { path: Path::new(now), admit: None, reminder: Reminder::default() };
        Self { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done from now on, where something can be.
    pub fn control(&self, admit: Option<Admit>) {
        let mut state = self.state();
        state.admit = admit;
        if state.path.doubt.is_none() {
            state.tell(None);
        }
    }

    /// Another agent has seen answers.
    pub(crate) fn inherit(&self) {
        let mut state = self.state();
        if state.path.answered() {
            state.tell(None);
        }
    }

    /// A connection to a destination is begun.
    pub fn attempted(&self, customer: IpAddr, destination: IpAddr, now: Instant) {
        self.state().path.attempted(Source::of(customer), destination, now);
    }

    /// What came of it.
    pub fn ended<T>(&self, outcome: &io::Result<T>) {
        let is_answer = match outcome {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        };
        if !is_answer {
            return;
        }
        let mut state = self.state();
        if state.path.answered() {
            state.tell(None);
            info!("answers come back from the internet: all new connections are taken");
        }
    }

    /// Call it every second or so.
    pub fn look(&self, now: Instant) {
        let mut state = self.state();
        let State { path, admit, reminder } = &mut *state;
        let follows = match admit {
            Some(_) => "customers' new connections go straight, but for one at a time",
            None => "nothing is done about it (see steering.when_agent_dies)",
        };
        if path.look(now) {
            warn!(
                "no connection to any destination was answered for {} s: is the way back from the internet through this \
                 host? {follows}",
                SILENCE.as_secs()
            );
            state.tell(Some(0));
        } else {
            let is_lost = path.doubt.is_some() && path.quiet_since.is_some();
            if reminder.is_due(is_lost, now) {
                warn!("no connection to any destination is answered; {follows}");
            }
        }
        if state.path.tries(now) {
            state.tell(Some(1));
        }
    }

    pub fn status(&self, now: Instant) -> Status {
        let doubt = self.state().path.doubt;
        Status {
            proven: doubt.is_none(),
            in_doubt_for: doubt.map(|(since, _)| now.saturating_duration_since(since).as_secs()),
        }
    }
}

impl State {
    fn tell(&mut self, count: Option<u32>) {
        if let Some(admit) = &mut self.admit {
            admit(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A path, what the kernel was told last, and the time.
    fn path() -> (ReturnPath, Arc<Mutex<Vec<Option<u32>>>>, Instant) {
        let (path, start) = (ReturnPath::new(Instant::now()), Instant::now());
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        path.control(Some(Box::new(move |count| log.lock().unwrap().push(count))));
        (path, told, start)
    }

    fn take(told: &Arc<Mutex<Vec<Option<u32>>>>) -> Vec<Option<u32>> {
        std::mem::take(&mut told.lock().unwrap())
    }

    fn refused() -> io::Result<()> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    fn timed_out() -> io::Result<()> {
        Err(io::ErrorKind::TimedOut.into())
    }

    fn attempts(path: &ReturnPath, count: u8, customers: u8, destinations: u8, at: Instant) {
        for number in 0..count {
            path.attempted(
                [10, 1, 0, number % customers].into(),
                [192, 0, 2, number % destinations].into(),
                at,
            );
        }
    }

    #[test]
    fn at_the_start_one_at_a_time_until_one_is_answered() {
        let (path, told, start) = path();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        path.look(at(1));
        assert_eq!(take(&told), [Some(1)]);
        attempts(&path, 1, 1, 1, at(1));
        path.look(at(2));
        assert_eq!(take(&told), []);
        path.ended(&timed_out());
        path.look(at(3));
        assert_eq!(take(&told), [Some(1)], "another");
        path.ended(&refused());
        assert_eq!(take(&told), [None]);
        assert!(path.status(at(3)).proven);
        path.look(at(100));
        path.ended(&Ok(()));
        assert_eq!(take(&told), []);
    }

    #[test]
    fn many_attempts_without_an_answer_put_it_in_doubt() {
        for (count, customers, destinations, lost) in
            [(20, 3, 5, true), (19, 3, 5, false), (40, 2, 5, false), (40, 3, 4, false), (100, 100, 100, true)]
        {
            let (path, told, start) = path();
            let at = |seconds: u64| start + Duration::from_secs(seconds);
            path.ended(&refused());
            attempts(&path, count, customers, destinations, at(50));
            path.look(at(59));
            assert_eq!(take(&told), [None]);
            path.look(at(60));
            let expected = if lost { vec![Some(0), Some(1)] } else { vec![] };
            assert_eq!(take(&told), expected, "{count} {customers} {destinations}");
            assert_eq!(path.status(at(60)).proven, !lost);
        }
    }

    /// One spammer, or a dead network, is not enough as long as anybody is answered.
    #[test]
    fn an_answer_to_anybody_is_enough() {
        let (path, told, start) = path();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        path.ended(&Ok(()));
        for second in 0..60 {
            attempts(&path, 50, 10, 10, at(second));
            if second % 9 == 0 {
                path.ended(&refused());
            }
            path.look(at(second));
        }
        assert_eq!(take(&told), [None]);
    }

    #[test]
    fn attempts_that_are_young_do_not_count() {
        let (path, told, start) = path();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        path.ended(&Ok(()));
        attempts(&path, 1, 1, 1, at(0));
        attempts(&path, 30, 5, 5, at(9));
        path.look(at(11));
        assert_eq!(take(&told), [None]);
        path.look(at(12));
        assert_eq!(take(&told), [Some(0), Some(1)]);
    }
}

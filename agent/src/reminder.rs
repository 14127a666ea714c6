//! Says again what must not be forgotten.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(300);

/// When a state that is no usual one is to be said again. It was said when it began.
#[derive(Debug, Default)]
pub struct Reminder {
    due: Option<Instant>,
}

impl Reminder {
    pub fn is_due(&mut self, is_on: bool, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        self.due = match self.due {
            _ if !is_on => None,
            Some(at) if !due => Some(at),
            _ => Some(now + INTERVAL),
        };
        is_on && due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_five_minutes_while_it_lasts() {
        let (mut reminder, began) = (Reminder::default(), Instant::now());
        let at = |minutes: u64| began + Duration::from_secs(60 * minutes);
        let mut said = Vec::new();
        for minute in 0..30 {
            if reminder.is_due((2..14).contains(&minute) || minute >= 20, at(minute)) {
                said.push(minute);
            }
        }
        assert_eq!(said, [7, 12, 25]);
    }
}

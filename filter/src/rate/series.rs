//! The counts of one key: for each window its buckets, and what of them is kept in a file.
//!
//! A store has a million of these: they are small, and what they point at is as large as it need be.

use serde::{Deserialize, Serialize};

use super::BUCKETS;
use super::packed::Packed;

/// Counts in the buckets of one window, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub(super) struct Series {
    /// Of the window.
    seconds: u64,
    /// Number of the oldest bucket since 1970.
    first: u64,
    /// What is in it and in each after it.
    counts: Packed,
}

/// A series in a file.
#[derive(Serialize, Deserialize)]
struct Saved {
    seconds: u64,
    /// Number of the bucket since 1970, and the count in it; without those that are empty.
    buckets: Vec<(u64, u64)>,
}

/// The counts of one key, for every window of its namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// In the order of the namespace's windows; may lack the newest.
    series: Vec<Series>,
    /// When something was last counted.
    pub(super) last: u64,
    /// Since it was last saved.
    #[serde(skip)]
    pub(super) changed: bool,
}

impl Entry {
    /// Without counts, which a file is still to be told.
    pub(super) fn forgotten() -> Self {
        Self { changed: true, ..Self::default() }
    }

    /// Adds the series of windows that are newer than this key, filled from the longest one there is.
    pub(super) fn complete(&mut self, windows: &[u64], now: u64) {
        let missing = windows.iter().skip(self.series.len());
        if missing.len() == 0 {
            return;
        }
        self.series.reserve_exact(missing.len());
        // What is over is not known any more, whenever it was last looked at.
        self.series.iter_mut().for_each(|series| series.expire(now));
        let longest = self.series.iter().max_by_key(|series| series.seconds).cloned();
        for seconds in missing {
            let mut series = Series { seconds: *seconds, ..Series::default() };
            if let Some(longest) = &longest {
                for (bucket, count) in longest.buckets() {
                    // As late as it can have been, so that no limit is loosened.
                    let end = (bucket + 1).saturating_mul(longest.width()) - 1;
                    series.add(end.min(now), count);
                }
            }
            self.series.push(series);
        }
    }

    pub(super) fn sum(&mut self, window: usize, now: u64) -> u64 {
        self.series.get_mut(window).map_or(0, |series| series.sum(now))
    }

    pub(super) fn add(&mut self, now: u64, weight: u64) {
        (self.last, self.changed) = (now, true);
        for series in &mut self.series {
            series.add(now, weight);
        }
    }

    pub(super) fn windows(&self) -> Vec<u64> {
        self.series.iter().map(|series| series.seconds).collect()
    }
}

impl Series {
    fn width(&self) -> u64 {
        width(self.seconds)
    }

    fn sum(&mut self, now: u64) -> u64 {
        self.expire(now);
        self.counts.iter().fold(0, u64::saturating_add)
    }

    /// Those in which something was counted.
    fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        (self.first..).zip(self.counts.iter()).filter(|(_, count)| *count > 0)
    }

    /// A bucket is dropped when all of it is older than the window.
    fn expire(&mut self, now: u64) {
        let over = oldest(self.seconds, now).saturating_sub(self.first);
        if over > 0 {
            self.counts.drop_first(over);
            self.first += over;
        }
    }

    fn add(&mut self, now: u64, weight: u64) {
        self.expire(now);
        self.count(now / self.width(), weight);
    }

    fn count(&mut self, bucket: u64, weight: u64) {
        let Some(last) = self.counts.pop() else {
            self.first = bucket;
            return self.counts.push(weight);
        };
        // A clock that went back must not put buckets out of order.
        let after = bucket.saturating_sub(self.first + self.counts.len());
        if after == 0 {
            return self.counts.push(last.saturating_add(weight));
        }
        self.counts.push(last);
        (1..after).for_each(|_| self.counts.push(0));
        self.counts.push(weight);
    }
}

impl From<Saved> for Series {
    fn from(saved: Saved) -> Self {
        let mut series = Self { seconds: saved.seconds, ..Self::default() };
        for (bucket, count) in saved.buckets {
            series.add(bucket.saturating_mul(series.width()), count);
        }
        series
    }
}

impl From<Series> for Saved {
    fn from(series: Series) -> Self {
        Self { seconds: series.seconds, buckets: series.buckets().collect() }
    }
}

fn window(seconds: u64) -> u64 {
    seconds.clamp(1, u64::MAX / 100_000).saturating_mul(1000)
}

/// Milliseconds of a bucket; rounded up, so that the buckets cover the window.
fn width(seconds: u64) -> u64 {
    window(seconds).div_ceil(BUCKETS)
}

/// The number of the first bucket whose end is still in the window.
fn oldest(seconds: u64, now: u64) -> u64 {
    now.saturating_add(1).saturating_sub(window(seconds)) / width(seconds)
}

/// Milliseconds after which nothing is left of what is counted now.
pub(super) fn life(seconds: u64) -> u64 {
    window(seconds).saturating_add(width(seconds))
}

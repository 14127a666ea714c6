//! What the agent counts, for `status`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::config::Mode;
use crate::failure::Failure;
use crate::relay::Notice;
use crate::relay::record::{Outcome, Record, Verdict};

#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// Connections taken since the start.
    pub sessions: AtomicU64,
    pub sessions_now: AtomicU64,
    /// Connections answered 421 because there were `relay.max_sessions` already.
    pub overload: AtomicU64,
    /// Connections answered 421 because their customer had `relay.max_sessions_per_customer` already.
    pub overload_customer: AtomicU64,
    /// Connections answered 421 because `relay.max_buffered` was reached.
    pub overload_buffered: AtomicU64,
    /// Connections of customers that filter nodes block: answered 554, and closed without a word because that was said
    /// less than a second before.
    pub blocked_told: AtomicU64,
    pub blocked_untold: AtomicU64,
    /// Sessions that were open when their customer was blocked.
    pub blocked_ended: AtomicU64,
    pub accepted: AtomicU64,
    pub deferred: AtomicU64,
    pub rejected: AtomicU64,
    /// Messages without a verdict: their customer left before there was one.
    pub abandoned: AtomicU64,
    /// Accepted because no filter node could be reached (`filter.when_unavailable = "accept"`).
    pub unjudged: AtomicU64,
    /// Not judged because of `filter.mode = "bypass"`.
    pub bypassed: AtomicU64,
    /// Delivered though the verdict was another (`filter.mode = "shadow"`).
    pub passed_in_shadow: AtomicU64,
    pub delivered: AtomicU64,
    pub refused_by_destination: AtomicU64,
    pub unreported: AtomicU64,
    /// Sent whole to the destination, whose answer was lost.
    pub unknown: AtomicU64,
    /// Refused by weir: by a verdict, a limit or a failure.
    pub withheld: AtomicU64,
    /// Their customer left before the end went to the destination.
    pub left: AtomicU64,
    /// Of messages' bodies.
    pub octets: AtomicU64,
    /// Deferred because two nodes failed while they had the message.
    pub suspect: AtomicU64,
    /// Messages with LF line ends, which were made CRLF.
    pub with_bare_lf: AtomicU64,
    /// Messages with a CR that no LF followed.
    pub with_bare_cr: AtomicU64,
    /// Messages refused because the spool could not take them: `spool.disk_total`, or the disk itself.
    pub spool_full: AtomicU64,
    /// How often customers spoke before they were greeted, or sent a message before the go-ahead.
    pub early_talkers: AtomicU64,
    /// Sessions of customers that would have used TLS.
    pub wanted_tls: AtomicU64,
    /// Customers that spoke HTTP or TLS.
    pub not_smtp: AtomicU64,
    /// Sessions with destinations whose banner is asterisks.
    pub masked_banners: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn notice(&self, notice: Notice) {
        Self::add(match notice {
            Notice::EarlyTalker => &self.early_talkers,
            Notice::NotSmtp => &self.not_smtp,
            Notice::WantedTls => &self.wanted_tls,
            Notice::MaskedBanner => &self.masked_banners,
        });
    }

    pub fn count(&self, record: &Record) {
        Self::add(match record.verdict {
            Verdict::Accept => &self.accepted,
            Verdict::Defer => &self.deferred,
            Verdict::Reject => &self.rejected,
            Verdict::None => &self.abandoned,
        });
        match record.outcome {
            Outcome::Delivered => Self::add(&self.delivered),
            Outcome::Refused => Self::add(&self.refused_by_destination),
            Outcome::Unreported => Self::add(&self.unreported),
            Outcome::Unknown => Self::add(&self.unknown),
            Outcome::Withheld => Self::add(&self.withheld),
            Outcome::Abandoned => Self::add(&self.left),
        }
        self.octets.fetch_add(record.size, Ordering::Relaxed);
        let accepted = record.verdict == Verdict::Accept;
        let bypassed = record.mode == Mode::Bypass;
        let delivered = record.outcome == Outcome::Delivered;
        let also = [
            (&self.unjudged, accepted && record.node.is_none() && !bypassed),
            (&self.bypassed, bypassed && delivered),
            (&self.passed_in_shadow, record.mode == Mode::Shadow && !accepted && delivered),
            (&self.suspect, record.suspect),
            (&self.with_bare_lf, record.bare_lf > 0),
            (&self.with_bare_cr, record.bare_cr > 0),
            (&self.spool_full, record.failure == Some(Failure::SpoolFull)),
        ];
        also.into_iter().filter(|(_, holds)| *holds).for_each(|(counter, _)| Self::add(counter));
    }
}

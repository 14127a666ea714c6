//! What others are told of a session: counters, lists of customers and destinations, the log.

use std::time::Instant;

use tracing::{debug, info};
use weir_daemon::log::said;

use super::Driver;
use crate::config::Mode;
use crate::relay::Notice;
use crate::relay::record::Record;

impl Driver {
    pub(super) fn notice(&self, notice: Notice) {
        self.shared.counters.notice(notice);
        let (customer, destination) = (self.customer_address, self.destination_address);
        match notice {
            Notice::WantedTls => {
                debug!(%customer, %destination, "customer wanted TLS");
                self.shared.wanted_tls.note(customer.ip(), destination.ip());
            }
            // Mail to such a destination may fail in odd ways: the operator wants to know which it is.
            Notice::MaskedBanner => {
                info!(%customer, %destination, "destination masks its banner (SMTP fixup)");
            }
            Notice::EarlyTalker | Notice::NotSmtp => debug!(%customer, %destination, ?notice, "noticed"),
        }
    }

    pub(super) fn log(&self, record: &Record) {
        self.shared.counters.count(record);
        self.shared.timings.count(record);
        self.shared.bare_line_ends.note(self.customer_address.ip(), record);
        self.shared.refusals.note(self.customer_address.ip(), record);
        let judged_by = record.node.and_then(|node| self.shared.pool.address(node));
        self.shared.outcomes.note(
            self.customer_address.ip(),
            self.destination_address.get(),
            judged_by,
            record,
        );
        let now = Instant::now();
        self.shared.suspects.note(self.customer_address.ip(), record, now);
        self.shared.busiest.note(self.customer_address.ip(), record, now);
        let node = record.node.map(|node| self.node_name(node));
        let failures = record.node_failures.iter();
        let failures: Vec<String> =
            failures.map(|(node, failure)| format!("{} {failure}", self.node_name(*node))).collect();
        info!(
            id = %record.id,
            customer = %self.customer_address,
            destination = %self.destination_address,
            helo = said(&record.helo),
            recipients = record.recipients,
            size = record.size,
            bare_lf = record.bare_lf,
            bare_cr = record.bare_cr,
            mode = Some(record.mode).filter(|mode| *mode != Mode::Enforce).map(Mode::name),
            verdict = record.verdict.name(),
            outcome = record.outcome.name(),
            reason = record.failure.map(tracing::field::display),
            tls = record.tls,
            fault = record.failure.map(|failure| failure.side().name()),
            node,
            filter_reply = record.filter_reply.as_ref().map(said),
            reply = record.reply.as_ref().map(said),
            node_failures = (!failures.is_empty()).then(|| said(failures.join("; "))),
            suspect = record.suspect,
            duration_ms = u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
            "message relayed"
        );
    }
}

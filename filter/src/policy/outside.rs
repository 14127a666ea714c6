//! What the operator and others say of a message before anybody looks into it: maps, checks of the envelope, lists in the
//! DNS, and bounces by their number.

use super::engines::shown;
use super::limits::Case;
use super::{Refusal, Step};
use crate::dns::{Listing, Use};
use crate::maps;
use crate::rate::{Ask, Counters};
use crate::scan::Cause;

/// Bounces to one recipient.
const BOUNCES: &str = "dsn-bypass";

/// A bounce has one recipient (RFC 5321 section 4.5.5); what has more than so many is none.
const MAX_RECIPIENTS: usize = 10;

impl<C: Counters> Case<'_, C> {
    /// The operator's maps do not refuse it. What they let pass unscanned is not scanned.
    pub(super) fn maps(&self) -> Step {
        let texts = &self.settings.texts;
        if let Some((action, reason)) = &self.said.refused {
            let text = texts.say(&texts.refused, "", reason);
            return Err(match action {
                maps::Use::Defer => Refusal::defer("map", text),
                _ => Refusal::reject("map", text),
            });
        }
        if let Some(cause) = self.said.bypass {
            self.facts.results().spare(cause);
        }
        Ok(())
    }

    /// HELO and envelope pass the checks that are on.
    pub(super) async fn envelope(&self) -> Step {
        let Some(outside) = self.facts.outside() else { return Ok(()) };
        let Some(fault) = outside.fault(self.facts.transaction()).await else { return Ok(()) };
        let texts = &self.settings.texts;
        let text = texts.say(&texts.envelope, "", &shown(&fault.text));
        Err(Refusal::new(fault.check.name(), 550, fault.status, text))
    }

    /// No list refuses it. Who is listed as good is spared the scanners that give scores.
    pub(super) async fn lists(&self) -> Step {
        let Some(outside) = self.facts.outside() else { return Ok(()) };
        let transaction = self.facts.transaction();
        let listed: Vec<_> = outside
            .listings(transaction)
            .await
            .into_iter()
            .filter_map(|(list, listing)| match listing {
                Listing::Listed(answer) => Some((list, answer)),
                Listing::NotListed | Listing::Unknown => None,
            })
            .collect();
        for (list, answer) in &listed {
            tracing::info!(id = transaction.id, list = list.name(), %answer, "listed");
        }
        for action in [Use::Reject, Use::Defer, Use::Bulk, Use::Allow] {
            let Some((list, _)) = listed.iter().find(|(list, _)| list.action() == action) else { continue };
            let texts = &self.settings.texts;
            let text = || texts.say(&texts.listed, "", &format!("listed by {}", list.name()));
            match action {
                Use::Reject => return Err(Refusal::reject("dns-list", text())),
                Use::Defer => return Err(Refusal::defer("dns-list", text())),
                Use::Bulk => return self.bulk().await,
                Use::Allow => self.facts.results().spare_scores(Cause::Allowed),
            }
        }
        Ok(())
    }

    /// Many bounces to the same recipient are spared SpamAssassin and rspamd: all of its recipients have to get as many. They
    /// are bulk mail, as is everything that should have been scanned.
    pub(super) async fn bounces(&self) -> Step {
        let policy = &self.settings.policy;
        let envelope = &self.facts.transaction().envelope;
        let possible = envelope.sender.path.is_null()
            && (1..=MAX_RECIPIENTS).contains(&envelope.recipients.len())
            && policy.dsn_bypass_above > 0;
        if !possible {
            return Ok(());
        }
        let mut all_have_many = true;
        for recipient in &envelope.recipients {
            let recipient = self.settings.addresses.of(recipient.path.as_bytes());
            let key = format!("{} {recipient}", self.identity());
            let (limit, seconds) = (policy.dsn_bypass_above, policy.dsn_bypass_seconds);
            let ask = Ask { namespace: BOUNCES, key: &key, limit, seconds, weight: 1, message: None };
            // Each is counted, whatever the others have.
            all_have_many &= !self.counted(ask).await?;
        }
        if all_have_many {
            self.facts.results().spare_scores(Cause::Bounce);
        }
        Ok(())
    }
}

//! What becomes of a message that has come to its end.

use std::sync::Arc;

use tracing::warn;

use super::Node;
use super::conclusion::Judging;
use crate::body::Receiving;
use crate::facts::Facts;
use crate::message::{Message, Transaction};
use crate::policy::script::Context;
use crate::policy::{Refusal, Verdict};
use crate::reputation;

pub(super) async fn on(
    node: &Arc<Node>,
    judging: &Judging,
    transaction: Transaction,
    body: Receiving,
) -> Verdict {
    let limit = node.settings.max_message_size;
    if transaction.findings.size > limit {
        let text = format!("message larger than {limit} octets");
        let refusal = Refusal::new("size", 552, "5.3.4", text);
        return judging.unseen(node, &transaction, None, Verdict::Refuse(refusal));
    }
    let owner = node.owner_of(transaction.customer.address).await;
    if let Some(text) = node.blocks.of(transaction.customer.address, &owner) {
        let refusal = Refusal::new("blocked", 554, "5.7.1", text);
        return judging.unseen(node, &transaction, Some(&owner), Verdict::Refuse(refusal));
    }
    let body = match body.finish().await {
        Ok(body) => body,
        Err(cause) => {
            warn!(id = transaction.id, %cause, "message could not be stored");
            let text = "temporarily out of room for your message, try later";
            let refusal = Refusal::new("spool", 451, "4.3.1", text);
            return judging.unseen(node, &transaction, Some(&owner), Verdict::Refuse(refusal));
        }
    };
    let message = Message { transaction, body };
    let facts = Facts::new(&message, &node.scanners).with_owner(owner);
    let mut facts = facts.with_inside(&node.inside).with_outside(&node.outside);
    facts = facts.with_quarantine(node.quarantine.as_ref()).with_blocker(&node.blocker);
    facts = facts.with_reputation(node.reputation.as_ref());
    if node.privacy.keeps_content_closed(message.transaction.customer.address) {
        facts = facts.closed();
    }
    let verdict = node.verdict(Context::Data, &facts).await;
    note_reputation(node, &facts, &verdict);
    if verdict == Verdict::Accept && node.channel.is_some() {
        let Transaction { id, envelope, .. } = facts.transaction();
        node.judged.note(id, facts.identity(), envelope.sender.path.domain().as_deref());
    }
    let verdict = judging.seen(node, &message, &facts, verdict).await;
    node.compare(Context::Data, &facts, &verdict).await;
    verdict
}

/// Beside the verdict: a store across the network is nothing to wait for.
fn note_reputation(node: &Arc<Node>, facts: &Facts<'_>, verdict: &Verdict) {
    let points = node.reputation.as_ref().and_then(|_| node.policy.points(facts, verdict));
    let Some(points) = points else { return };
    let (node, id, keys) = (node.clone(), facts.transaction().id.clone(), reputation::keys(facts));
    tokio::spawn(async move {
        if let Some(reputation) = &node.reputation {
            reputation.note(node.policy.once(), &id, &keys, points, node.clock.now()).await;
        }
    });
}

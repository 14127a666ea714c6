//! Spam is refused.

use super::Step;
use super::engines::Level;
use super::limits::Case;
use crate::rate::Counters;

/// Without `policy.reject_at`.
const REJECT_AT: f64 = 6.0;

pub(super) async fn judge<C: Counters>(case: &Case<'_, C>) -> Step {
    case.sender().await?;
    let reject_at = case.settings.policy.reject_at.unwrap_or(REJECT_AT);
    let (level, score) = case.spamassassin(|score| score >= reject_at).await?;
    match level {
        Level::Sure => Err(case.is_spam(score, reject_at)),
        Level::Unscanned => case.bulk().await,
        Level::Likely | Level::Clean => Ok(()),
    }
}

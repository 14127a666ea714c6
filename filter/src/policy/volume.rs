//! Spam is let through as long as there is little of it: a customer's server that bounces, forwards or mails its
//! users now and then what looks like spam is not cut off for it, one that sends much of it is.

use super::Step;
use super::engines::Level;
use super::limits::Case;
use crate::rate::Counters;

pub(super) async fn judge<C: Counters>(case: &Case<'_, C>) -> Step {
    case.sender().await?;
    let policy = &case.settings.policy;
    let (level, score) = case.spamassassin(|score| score > policy.spam_above).await?;
    if level > Level::Clean {
        case.bulk().await?;
    }
    if level == Level::Sure {
        case.spam().await?;
    }
    match policy.reject_at {
        Some(reject_at) if score >= reject_at => Err(case.is_spam(score, reject_at)),
        Some(_) | None => Ok(()),
    }
}

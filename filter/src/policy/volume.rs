//! Spam is let through as long as there is little of it: a customer's server that bounces, forwards or mails its
//! users now and then what looks like spam is not cut off for it, one that sends much of it is.

use super::Step;
use super::engines::Level;
use super::limits::Case;
use crate::rate::Counters;

pub(super) async fn judge<C: Counters>(case: &Case<'_, C>) -> Step {
    case.maps()?;
    case.sender().await?;
    case.envelope().await?;
    case.lists().await?;
    case.bounces().await?;
    let policy = &case.settings.policy;
    let opinions = case.opinions(|score| score > policy.spam_above).await?;
    if case.outbreak().await == Level::Sure {
        case.sample("outbreak").await;
    } else if case.facts.quarantine().is_some_and(|quarantine| opinions.score > quarantine.sample_above()) {
        case.sample("spamassassin").await;
    }
    let counts = opinions.level.max(opinions.unlowered);
    if counts > Level::Clean {
        case.bulk().await?;
    }
    if counts == Level::Sure {
        case.spam().await?;
    }
    if let Some(reject_at) = policy.reject_at.filter(|reject_at| opinions.score >= *reject_at) {
        let score = opinions.score;
        return Err(case.is_spam(&format!("SpamAssassin score {score:.1} is at or above {reject_at:.1}")));
    }
    case.viruses().await?;
    case.files().await
}

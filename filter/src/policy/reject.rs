//! Spam is refused.

use super::Step;
use super::engines::Level;
use super::limits::Case;
use crate::rate::Counters;

/// Without `policy.reject_at`.
const REJECT_AT: f64 = 6.0;

/// So many engines that call a message likely spam are as good as one that is sure.
const AGREED: usize = 2;

pub(super) async fn judge<C: Counters>(case: &Case<'_, C>) -> Step {
    case.maps()?;
    case.sender().await?;
    case.envelope().await?;
    case.lists().await?;
    case.bounces().await?;
    case.viruses().await?;
    case.files().await?;
    let reject_at = case.settings.policy.reject_at.unwrap_or(REJECT_AT);
    let opinions = case.opinions(|score| score >= reject_at).await?;
    if opinions.score >= reject_at {
        let score = opinions.score;
        return Err(case.is_spam(&format!("SpamAssassin score {score:.1} is at or above {reject_at:.1}")));
    }
    if opinions.level == Level::Sure || opinions.likely >= AGREED {
        return Err(case.is_spam(&format!("Your message looks like spam: {}", opinions.reason)));
    }
    if opinions.level == Level::Unscanned || opinions.unlowered > Level::Clean {
        return case.bulk().await;
    }
    Ok(())
}

//! How old clamd's signatures are, as `VERSION` says: `ClamAV 1.4.3/27500/Thu Jan  1 00:00:00 2026`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weir_daemon::finding::Finding;

const SIGNATURES: &str = "clamav_signatures";

/// New ones come every day; a few missed are no reason to be called.
const OLD: Duration = Duration::from_secs(3 * 86_400);

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

pub(super) fn check(version: &str, now: SystemTime) -> Finding {
    let mend = "systemctl restart clamav-freshclam";
    let Some(made) = version.rsplit('/').next().and_then(time) else {
        let words =
            format!("{version:?} says nothing of signatures by freshclam: only your own are in force");
        return Finding::warning(SIGNATURES, words).mended_by(mend);
    };
    let age = now.duration_since(made).unwrap_or_default();
    let words = format!("{} days old ({version})", age.as_secs() / 86_400);
    if age > OLD {
        Finding::warning(SIGNATURES, format!("{words}: new viruses are not found")).mended_by(mend)
    } else {
        Finding::ok(SIGNATURES, words)
    }
}

/// As ctime(3) writes it; taken for UTC, since a day more or less is no matter.
fn time(text: &str) -> Option<SystemTime> {
    let mut words = text.split_whitespace().skip(1);
    let month = words.next().and_then(|name| MONTHS.iter().position(|month| *month == name))? as u64 + 1;
    let day: u64 = words.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let _time_of_day = words.next()?;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    // Years that begin on 1 March put the leap day last.
    let (shifted, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + (from_march * 153 + 2) / 5 + day - 1;
    Some(UNIX_EPOCH + Duration::from_secs(days.checked_sub(719_468)? * 86_400))
}

#[cfg(test)]
mod tests {
    use weir_daemon::finding::State;

    use super::*;

    #[test]
    fn signatures_of_last_week_are_old() {
        let made = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        assert_eq!(time("Thu Jan  1 00:00:00 2026"), Some(made));
        assert_eq!(time("Tue Feb 29 08:00:00 2000"), Some(UNIX_EPOCH + Duration::from_secs(951_782_400)));
        let version = "ClamAV 1.4.3/27500/Thu Jan  1 09:30:00 2026";
        assert_eq!(check(version, made + Duration::from_secs(86_400)).state, State::Ok);
        assert_eq!(check(version, made + Duration::from_secs(8 * 86_400)).state, State::Warning);
        assert_eq!(check("ClamAV 1.4.3", made).state, State::Warning);
        for text in ["", "Thu Jan", "Thu Jan 32 00:00:00 2026", "Thu Jan 1 00:00:00 1", "x Foo 1 x 2026"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}

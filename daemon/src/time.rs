//! Times and durations as people write them, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `2026-11-21T06:00:00Z`
pub fn rfc3339(unix: u64) -> String {
    let (year, month, day) = date(unix);
    let second = unix % DAY;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

/// Year, month and day of a second since 1970.
pub fn date(unix: u64) -> (u64, u64, u64) {
    // Years that begin in March have their leap day at the end: 400 of them are 146,097 days.
    let shifted = unix / DAY + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    if month < 10 { (era * 400 + year, month + 3, day) } else { (era * 400 + year + 1, month - 9, day) }
}

/// The second at which a day begins; none if there is no such day.
pub fn midnight(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    let (shifted, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * from_march + 2) / 5 + day.checked_sub(1)?;
    let unix =
        (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)? * DAY;
    (date(unix) == (year, month, day)).then_some(unix)
}

/// A moment as it is said on the command line: `2026-11-21T06:00:00Z`, a day, or a duration before `now`. In
/// seconds since 1970.
///
/// # Errors
/// If it is none of these.
pub fn moment(text: &str, now: u64) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is no time: accepted are 2026-11-21T06:00:00Z (UTC), 2026-11-21, and 90s, 15m, 24h, 7d ago"
        )
    };
    if let Ok(ago) = duration(text) {
        return Ok(now.saturating_sub(ago.as_secs()));
    }
    let (day, clock) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let midnight = match numbers(day, '-').as_deref() {
        Some([year, month, day]) => midnight(*year, *month, *day).ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    let clock = clock.strip_suffix('Z').unwrap_or(clock);
    let (hour, minute, second) = match numbers(clock, ':').as_deref() {
        Some([hour, minute]) => (*hour, *minute, 0),
        Some([hour, minute, second]) => (*hour, *minute, *second),
        _ => return Err(wrong()),
    };
    if hour > 23 || minute > 59 || second > 59 {
        return Err(wrong());
    }
    Ok(midnight + hour * 3_600 + minute * 60 + second)
}

fn numbers(text: &str, between: char) -> Option<Vec<u64>> {
    let number = |part: &str| {
        let plain = (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse().ok().filter(|_| plain)
    };
    text.split(between).map(number).collect()
}

/// A duration as it is said on the command line: a number and its unit, `90s`, `15m`, `24h`, `7d`.
///
/// # Errors
/// If it is not that.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no duration: a number and its unit are expected, as in 90s, 15m, 24h, 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => DAY,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// What is left of a time, in its two largest units: `23h 59m`.
pub fn left(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(DAY, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let first = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(units.len() - 1);
    let part = |(unit, name): &(u64, char), whole: Option<u64>| {
        format!("{}{name}", whole.map_or(seconds, |whole| seconds % whole) / unit)
    };
    let mut text = part(&units[first], None);
    if let Some(second) = units.get(first + 1) {
        text += &format!(" {}", part(second, Some(units[first].0)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (unix, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_219_200, "2026-11-21T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix), expected);
            assert_eq!(moment(expected, 5), Ok(unix));
        }
    }

    #[test]
    fn every_day_begins_at_its_midnight() {
        for day in (0..60_000).map(|day| day * DAY) {
            let (year, month, of_month) = date(day);
            assert_eq!(midnight(year, month, of_month), Some(day));
        }
        for (year, month, day) in
            [(2026, 2, 29), (2026, 13, 1), (2026, 0, 1), (2026, 1, 0), (2026, 4, 31), (1969, 1, 1)]
        {
            assert_eq!(midnight(year, month, day), None, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn moments() {
        let now = 1_795_219_200;
        for (text, expected) in [
            ("2h", now - 7_200),
            ("2026-11-21", now),
            ("2026-11-21T06:00", now + 21_600),
            ("2026-11-21 06:00:01", now + 21_601),
        ] {
            assert_eq!(moment(text, now), Ok(expected));
        }
        for text in ["", "yesterday", "2026-02-30", "2026-11-21T24:00", "2026-11-21T06", "2026-11", "1-1-1-1"]
        {
            let error = moment(text, now).unwrap_err();
            assert!(error.contains("2026-11-21T06:00:00Z"), "{error}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("1s", 1), ("15m", 900), ("24h", 86_400), ("365d", 31_536_000), ("0h", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "",
            "h",
            "24",
            "-1h",
            "+1h",
            "1.5h",
            "1 h",
            "24H",
            "1h30m",
            "99999999999999999999s",
            "999999999999999999d",
            "5µ",
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains("24h"), "{error}");
        }
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (86_399, "23h 59m"), (90_000, "1d 1h")]
        {
            assert_eq!(left(Duration::from_secs(seconds)), text);
        }
    }
}

//! Times as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::steer::BootTime;

/// Seconds since 1970 of a moment, as the clock on the wall will show it if nobody sets it.
pub fn unix(moment: BootTime) -> u64 {
    let (now, wall) = (BootTime::now(), SystemTime::now());
    let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    (wall + moment.since(now)).saturating_sub(now.since(moment)).as_secs()
}

/// `2026-11-21T06:00:00Z`
pub fn rfc3339(moment: BootTime) -> String {
    format(unix(moment))
}

fn format(unix: u64) -> String {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Years that begin in March have their leap day at the end: 400 of them are 146,097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) =
        if month < 10 { (era * 400 + year, month + 3) } else { (era * 400 + year + 1, month - 9) };
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

/// A duration as it is said on the command line: a number and its unit, `90s`, `15m`, `24h`, `7d`.
///
/// # Errors
/// If it is not that.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no duration: a number and its unit are expected, as in 90s, 15m, 24h, 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
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
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
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
            assert_eq!(format(unix), expected);
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("1s", 1), ("15m", 900), ("24h", 86_400), ("365d", 31_536_000), ("0h", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
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
            let error = parse(text).unwrap_err();
            assert!(error.contains("24h"), "{error}");
        }
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (86_399, "23h 59m"), (90_000, "1d 1h")]
        {
            assert_eq!(left(Duration::from_secs(seconds)), text);
        }
    }
}

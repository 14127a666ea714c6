//! What a script gives to a function, checked.

use std::time::Duration;

use mlua::{MultiValue, Table, Value};

use super::reply::Wanted;
use crate::blocks::MAX_REASON;
use crate::files;

/// A namespace or a key that is longer is cut, and its checksum put behind: keys come from customers, and a long one
/// must neither fill the store nor fail the script.
const MAX_KEY: usize = 255;

/// Longest window.
const MAX_SECONDS: u64 = 31 * 86_400;

/// Archives within each other.
const MAX_DEPTH: u64 = files::MAX_DEPTH as u64;

/// More than there are; a larger table is not gone through.
const MAX_OPTIONS: usize = 20;

const MAX_WEIGHT: u64 = 1_000_000;

/// The longest text taken from a script, in octets.
const MAX_TEXT: usize = 16 * 1024;

const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_XZ);

/// The arguments of one call. Every error says which argument, and what it should be.
pub(super) struct Arguments {
    values: MultiValue,
}

pub(super) struct Rate {
    pub(super) namespace: String,
    pub(super) key: String,
    pub(super) limit: u64,
    pub(super) seconds: u64,
    pub(super) weight: u64,
}

impl Arguments {
    pub(super) fn new(values: MultiValue) -> Self {
        Self { values }
    }

    pub(super) fn shown(&self) -> Vec<super::Answer> {
        self.values.iter().map(super::Answer::of_lua).collect()
    }

    fn value(&self, at: usize) -> &Value {
        self.values.get(at).unwrap_or(&Value::Nil)
    }

    /// A text; numbers are texts too.
    pub(super) fn text(&self, at: usize, name: &str) -> Result<String, String> {
        text(self.value(at), name)
    }

    pub(super) fn maybe_text(&self, at: usize, name: &str) -> Result<Option<String>, String> {
        if self.value(at).is_nil() { Ok(None) } else { self.text(at, name).map(Some) }
    }

    fn key(&self, at: usize, name: &str) -> Result<String, String> {
        let text = self.text(at, name)?;
        if text.is_empty() {
            return Err(format!("{name} is empty"));
        }
        Ok(shortened(text))
    }

    pub(super) fn whole(&self, at: usize, name: &str, most: u64) -> Result<u64, String> {
        whole(self.value(at), name, most)
    }

    fn or(&self, at: usize, name: &str, most: u64, otherwise: u64) -> Result<u64, String> {
        if self.value(at).is_nil() { Ok(otherwise) } else { self.whole(at, name, most) }
    }

    fn table(&self, at: usize, name: &str) -> Result<Option<&Table>, String> {
        match self.value(at) {
            Value::Nil => Ok(None),
            Value::Table(table) => Ok(Some(table)),
            other => Err(format!("{name} must be a table, not {}", other.type_name())),
        }
    }

    pub(super) fn rate(&self) -> Result<Rate, String> {
        let rate = Rate {
            namespace: self.key(0, "namespace")?,
            key: self.key(1, "key")?,
            limit: self.whole(2, "limit", u64::from(u32::MAX))?,
            seconds: self.whole(3, "seconds", MAX_SECONDS)?,
            weight: self.or(4, "weight", MAX_WEIGHT, 1)?,
        };
        if rate.seconds == 0 || rate.weight == 0 {
            return Err("seconds and weight must be at least 1".into());
        }
        Ok(rate)
    }

    pub(super) fn stat(&self) -> Result<(String, String), String> {
        Ok((self.key(0, "namespace")?, self.key(1, "key")?))
    }

    /// `seconds, text`
    pub(super) fn block(&self, longest: Duration) -> Result<(Duration, String), String> {
        let seconds = self.whole(0, "seconds", longest.as_secs())?;
        let text = self.text(1, "text")?;
        if seconds == 0 {
            return Err("seconds must be at least 1".into());
        }
        if text.chars().count() > MAX_REASON || text.chars().any(char::is_control) {
            return Err(format!("text must be one line of at most {MAX_REASON} characters"));
        }
        Ok((Duration::from_secs(seconds), text))
    }

    /// `scanner, {depth =}`
    pub(super) fn scan(&self) -> Result<(String, Option<u64>), String> {
        let scanner = self.text(0, "scanner")?;
        let mut depth = None;
        for (key, value) in self.options(1)? {
            match key.as_str() {
                "depth" if scanner == "filetype" => depth = Some(whole(&value, "depth", MAX_DEPTH)?),
                "depth" => return Err("depth is for filetype only".into()),
                _ => return Err(format!("{key:?} is none of depth")),
            }
        }
        Ok((scanner, depth))
    }

    /// By name; none where they are not given.
    pub(super) fn options(&self, at: usize) -> Result<Vec<(String, Value)>, String> {
        let Some(options) = self.table(at, "options")? else { return Ok(Vec::new()) };
        let pairs = options.pairs::<Value, Value>().take(MAX_OPTIONS);
        pairs
            .map(|pair| {
                let (key, value) = pair.map_err(|error| error.to_string())?;
                Ok((text(&key, "an option's name")?, value))
            })
            .collect()
    }

    /// `text, {code =, status =, rule =, limit =, contact =}`
    pub(super) fn wanted(&self) -> Result<Wanted, String> {
        let mut wanted = Wanted { text: self.text(0, "text")?, ..Wanted::default() };
        for (key, value) in self.options(1)? {
            match key.as_str() {
                "code" => wanted.code = Some(u16::try_from(whole(&value, "code", 999)?).unwrap_or(0)),
                "status" => wanted.status = Some(text(&value, "status")?),
                "rule" => wanted.rule = Some(rule(&value)?),
                "limit" => wanted.limit = Some(text(&value, "limit")?),
                "contact" => wanted.contact = Some(text(&value, "contact")?),
                _ => return Err(format!("{key:?} is none of code, status, rule, limit and contact")),
            }
        }
        Ok(wanted)
    }
}

pub(super) fn text(value: &Value, name: &str) -> Result<String, String> {
    match value {
        Value::String(text) => {
            let octets = text.as_bytes();
            let end = octets.len().min(MAX_TEXT);
            Ok(String::from_utf8_lossy(octets.get(..end).unwrap_or_default()).into_owned())
        }
        Value::Number(number) => Ok(number.to_string()),
        Value::Integer(number) => Ok(number.to_string()),
        other => Err(format!("{name} must be a text, not {}", other.type_name())),
    }
}

pub(super) fn whole(value: &Value, name: &str, most: u64) -> Result<u64, String> {
    let number = match value {
        Value::Number(number) if number.fract() == 0.0 => format!("{number:.0}").parse().ok(),
        Value::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    number
        .filter(|number| *number <= most)
        .ok_or_else(|| format!("{name} must be a whole number from 0 to {most}"))
}

/// It goes into logs and counts.
fn rule(value: &Value) -> Result<String, String> {
    let rule = text(value, "rule")?;
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    if rule.is_empty() || rule.len() > 64 || !rule.bytes().all(plain) {
        return Err("rule must be 1 to 64 letters, digits, -, _ and .".into());
    }
    Ok(rule)
}

fn shortened(key: String) -> String {
    if key.len() <= MAX_KEY {
        return key;
    }
    let checksum = CRC.checksum(key.as_bytes());
    let begin: String = key
        .chars()
        .scan(0, |length, one| {
            *length += one.len_utf8();
            (*length <= MAX_KEY - 17).then_some(one)
        })
        .collect();
    format!("{begin}#{checksum:016x}")
}

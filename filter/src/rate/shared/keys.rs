//! Keys at an operator's wish: what is counted for them, and that it is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::{PATIENCE, PREFIX, Shared};
use crate::rate::{Ask, Away, Moment, Shown};

/// KEYS: the names of all namespaces. ARGV: what the names of counts begin with, a key, and a namespace or nothing.
pub(super) const FORGET: &str = "\
local gone = 0
for _, namespace in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    if ARGV[3] == '' or ARGV[3] == namespace then
        gone = gone + redis.call('DEL', ARGV[1] .. #namespace .. ':' .. namespace .. ':' .. ARGV[2])
    end
end
return gone";

/// Keys that are looked at before others have their turn: the store does one thing at a time.
const SCANNED_AT_ONCE: usize = 1000;

impl Shared {
    /// Forgets this key at once, and then what is beneath it (`KEY domain`), in one namespace or in all. The latter takes as long
    /// as it takes to look at the names of all keys.
    ///
    /// # Errors
    /// Without an answer in time.
    pub async fn forget(&self, namespace: Option<&str>, key: &str) -> Result<(), Away> {
        let mut connection = self.connection().ok_or(Away)?;
        let mut call = self.forget.key(format!("{PREFIX}:namespaces"));
        call.arg(format!("{PREFIX}:count:")).arg(key).arg(namespace.unwrap_or_default());
        in_time(call.invoke_async::<u64>(&mut connection)).await?;
        let namespace = namespace.map_or_else(|| "*".to_owned(), literally);
        let beneath = format!("{PREFIX}:count:*:{namespace}:{} *", literally(key));
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let (next, names) = scan(&mut connection, at, &beneath).await?;
            if !names.is_empty() {
                let mut unlink = redis::cmd("UNLINK");
                in_time(unlink.arg(names).query_async::<u64>(&mut connection)).await?;
            }
            cursor = next;
        }
        Ok(())
    }

    /// What is counted for these keys and what is beneath them, in every namespace and window, at most so many; on the store's
    /// clock, unless a time is given. It takes as long as it takes to look at the names of all keys.
    ///
    /// # Errors
    /// Without an answer in time.
    pub async fn show(&self, keys: &[String], most: usize, now: Option<Moment>) -> Result<Vec<Shown>, Away> {
        let mut connection = self.connection().ok_or(Away)?;
        let mut windows: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        let mut namespaces = redis::cmd("SMEMBERS");
        namespaces.arg(format!("{PREFIX}:namespaces"));
        for namespace in in_time(namespaces.query_async::<Vec<String>>(&mut connection)).await? {
            let mut of_it = redis::cmd("SMEMBERS");
            of_it.arg(format!("{PREFIX}:windows:{namespace}"));
            let seconds = in_time(of_it.query_async(&mut connection)).await?;
            windows.insert(namespace, seconds);
        }
        let mut found = BTreeSet::new();
        for key in keys {
            found.extend(windows.keys().map(|namespace| (key.clone(), namespace.clone())));
            let beneath = format!("{PREFIX}:count:*:{} *", literally(key));
            let mut cursor = Some(0);
            while let Some(at) = cursor.filter(|_| found.len() < most) {
                let (next, names) = scan(&mut connection, at, &beneath).await?;
                let of_it = |(one, _): &(String, String)| is_beneath(key, one);
                found.extend(names.iter().filter_map(|name| parts(name)).filter(of_it));
                cursor = next;
            }
        }
        let mut shown = Vec::new();
        for (key, namespace) in found {
            for &seconds in windows.get(&namespace).into_iter().flatten() {
                let one = Shown { namespace: namespace.clone(), key: key.clone(), count: 0, seconds };
                shown.extend(self.counted(one, now).await?);
                if shown.len() == most {
                    return Ok(shown);
                }
            }
        }
        Ok(shown)
    }

    /// With what the store has counted instead; none, if that is nothing.
    ///
    /// # Errors
    /// Without an answer in time.
    pub async fn counted(&self, one: Shown, now: Option<Moment>) -> Result<Option<Shown>, Away> {
        let Shown { namespace, key, seconds, .. } = &one;
        let ask = Ask { namespace, key, limit: 0, seconds: *seconds, weight: 0, message: None };
        let count = self.rate(ask, now).await?.sum;
        Ok((count > 0).then_some(Shown { count, ..one }))
    }
}

/// Some of the names that fit a pattern, and where to go on.
async fn scan(
    connection: &mut MultiplexedConnection,
    cursor: u64,
    pattern: &str,
) -> Result<(Option<u64>, Vec<String>), Away> {
    let mut scan = redis::cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCANNED_AT_ONCE);
    let (next, names): (u64, Vec<String>) = in_time(scan.query_async(connection)).await?;
    Ok(((next != 0).then_some(next), names))
}

/// The key and the namespace of a count.
fn parts(name: &str) -> Option<(String, String)> {
    let (length, rest) = name.strip_prefix(PREFIX)?.strip_prefix(":count:")?.split_once(':')?;
    let (namespace, key) = rest.split_at_checked(length.parse().ok()?)?;
    Some((key.strip_prefix(':')?.to_owned(), namespace.to_owned()))
}

fn is_beneath(key: &str, one: &str) -> bool {
    one.strip_prefix(key).is_some_and(|rest| rest.starts_with(' '))
}

async fn in_time<T>(work: impl Future<Output = Result<T, RedisError>>) -> Result<T, Away> {
    timeout(PATIENCE, work).await.ok().and_then(Result::ok).ok_or(Away)
}

/// In a pattern of the store's, nothing but itself.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

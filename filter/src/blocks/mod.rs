//! Who is blocked: by the operator's command, or by policy. Agents fetch the list and stop them in the kernel; whoever gets
//! past, or has an address that was not known to be his, is refused here.

mod blocker;
mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};
use weir_daemon::channel::{self, MAX_PREFIXES, one_line};
use weir_daemon::time;

use crate::customers::{Customers, Owner, check_id};
use crate::rate::Source;

pub use blocker::{Blocker, Order};

/// Blocks at a time.
const MAX_BLOCKS: usize = 10_000;

/// Whoever is to be blocked for longer is better no customer any more.
const MAX_DURATION: Duration = Duration::from_secs(365 * 86_400);

/// Characters of a reason, and of what customers are told.
pub(crate) const MAX_REASON: usize = 200;
const MAX_TEXT: usize = 400;

/// Who is meant by a block.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Who {
    Prefix(IpNet),
    Customer(String),
}

/// An address or a prefix is one; everything else is a customer's id.
impl TryFrom<String> for Who {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let address = || text.parse::<IpAddr>().map(|address| Source::of(address).prefix());
        let Ok(prefix) = text.parse::<IpNet>().or_else(|_| address()) else {
            check_id(&text)?;
            return Ok(Self::Customer(text));
        };
        let least = if prefix.addr().is_ipv4() { 8 } else { 16 };
        if prefix.trunc() != prefix {
            Err(format!("{prefix} has bits behind its length: did you mean {}?", prefix.trunc()))
        } else if prefix.prefix_len() < least {
            Err(format!("{prefix} is too much for a block: /{least} is the shortest"))
        } else {
            Ok(Self::Prefix(prefix))
        }
    }
}

impl From<Who> for String {
    fn from(who: Who) -> Self {
        who.to_string()
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Customer(id) => f.write_str(id),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    /// Seconds since 1970.
    until: u64,
    reason: String,
    /// `operator`, or the rule of the policy.
    by: String,
    /// Addresses of a customer that were seen since, or before by a service.
    seen: BTreeSet<IpNet>,
}

/// Why somebody is not blocked, or not unblocked.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    #[error("{who} is not blocked")]
    NotBlocked { who: Who },
    #[error("{seconds} seconds; accepted: 1 to {}, a year", MAX_DURATION.as_secs())]
    Duration { seconds: u64 },
    #[error("a reason is one line of at most {MAX_REASON} characters")]
    Reason,
    #[error("there are {MAX_BLOCKS} blocks already, or {MAX_PREFIXES} prefixes in them")]
    Full,
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
}

/// Everybody who is blocked.
#[derive(Debug)]
pub struct Blocks {
    file: Option<PathBuf>,
    contact: String,
    held: Mutex<BTreeMap<Who, Block>>,
    version: watch::Sender<u64>,
}

impl Blocks {
    /// Those of the last run that are not over. `contact` is whom a blocked customer may ask.
    ///
    /// # Errors
    /// If the file cannot be read: nobody knows who was blocked.
    pub fn open(file: Option<&Path>, contact: &str) -> Result<Self, BlockError> {
        let held = match file {
            None => BTreeMap::new(),
            Some(path) => {
                file::load(path).map_err(|cause| BlockError::File { path: path.to_owned(), cause })?
            }
        };
        let (version, _) = watch::channel(1);
        let blocks = Self {
            file: file.map(Path::to_owned),
            contact: contact.to_owned(),
            held: Mutex::new(held),
            version,
        };
        blocks.sweep();
        Ok(blocks)
    }

    /// Blocks somebody, or blocks him for another while. After an error everything is as it was. Blocks for as long as
    /// the disk takes.
    ///
    /// # Errors
    /// If there is something wrong with it, or it cannot be written down.
    pub fn block(
        &self,
        customers: &Customers,
        who: &Who,
        duration: Duration,
        reason: &str,
        by: &str,
    ) -> Result<(), BlockError> {
        if !(Duration::from_secs(1)..=MAX_DURATION).contains(&duration) {
            return Err(BlockError::Duration { seconds: duration.as_secs() });
        }
        if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(BlockError::Reason);
        }
        let mut held = self.lock();
        let seen = match who {
            Who::Prefix(_) => BTreeSet::new(),
            Who::Customer(id) => customers.addresses_of(id).into_iter().collect(),
        };
        let prefixes = held.values().map(|block| block.seen.len() + 1).sum::<usize>() + seen.len();
        let known = held.contains_key(who);
        if !known && (held.len() >= MAX_BLOCKS || prefixes >= MAX_PREFIXES) {
            return Err(BlockError::Full);
        }
        let until = time::now().saturating_add(duration.as_secs());
        let block = Block { until, reason: reason.to_owned(), by: by.to_owned(), seen };
        let before = held.insert(who.clone(), block);
        if let Err(error) = self.save(&held) {
            match before {
                Some(before) => held.insert(who.clone(), before),
                None => held.remove(who),
            };
            return Err(error);
        }
        info!(%who, seconds = duration.as_secs(), reason, by, "blocked");
        self.changed();
        Ok(())
    }

    /// Ends a block, also when that cannot be written down at once.
    ///
    /// # Errors
    /// If there is none.
    pub fn unblock(&self, who: &Who) -> Result<(), BlockError> {
        let mut held = self.lock();
        held.remove(who).ok_or_else(|| BlockError::NotBlocked { who: who.clone() })?;
        info!(%who, "blocked no more");
        self.save_or_warn(&held);
        self.changed();
        Ok(())
    }

    /// What a customer is told, if he is blocked. His address is stopped by the agents from now on, if it was not known
    /// to be his.
    pub fn of(&self, address: IpAddr, owner: &Owner) -> Option<String> {
        let source = Source::of(address).prefix();
        let mut held = self.lock();
        if held.is_empty() {
            return None;
        }
        let room = held.values().map(|block| block.seen.len() + 1).sum::<usize>() < MAX_PREFIXES;
        let now = time::now();
        let customer = owner.customer.as_ref().map(|customer| Who::Customer(customer.id.clone()));
        if let Some(block) = customer.and_then(|who| held.get_mut(&who)).filter(|block| block.until > now) {
            let text = self.text(block);
            let known = owner.prefix.is_some() || block.seen.iter().any(|seen| seen.contains(&source));
            if !known && room {
                block.seen.insert(source);
                self.changed();
            }
            return Some(text);
        }
        let holds = |(who, block): &(&Who, &Block)| {
            block.until > now && matches!(who, Who::Prefix(prefix) if prefix.contains(&source.addr()))
        };
        held.iter().find(holds).map(|(_, block)| self.text(block))
    }

    /// Whether there is a block of exactly this.
    pub fn has(&self, who: &Who) -> bool {
        self.lock().get(who).is_some_and(|block| block.until > time::now())
    }

    /// The address is another customer's from now on.
    pub fn forget(&self, address: IpAddr) {
        let source = Source::of(address).prefix();
        let mut held = self.lock();
        let own = |who: &Who| matches!(who, Who::Prefix(prefix) if source.contains(prefix));
        let (blocks, mut changed) = (held.len(), false);
        held.retain(|who, _| !own(who));
        for block in held.values_mut() {
            changed |= block.seen.remove(&source);
        }
        if changed || held.len() != blocks {
            self.save_or_warn(&held);
            self.changed();
        }
    }

    /// Ends what is over; to be called every second or so.
    pub fn sweep(&self) {
        let mut held = self.lock();
        let (blocks, now) = (held.len(), time::now());
        held.retain(|_, block| block.until > now);
        if held.len() != blocks {
            info!(blocks = blocks - held.len(), "blocks are over");
            self.save_or_warn(&held);
            self.changed();
        }
    }

    /// As agents are told.
    pub fn for_agents(&self, customers: &Customers) -> channel::Blocks {
        self.tell(&self.lock(), customers)
    }

    fn tell(&self, held: &BTreeMap<Who, Block>, customers: &Customers) -> channel::Blocks {
        let now = time::now();
        let mut room = MAX_PREFIXES;
        let blocks = held.iter().map(|(who, block)| {
            let mut prefixes: Vec<IpNet> = match who {
                Who::Prefix(prefix) => vec![*prefix],
                Who::Customer(id) => {
                    customers.addresses_of(id).into_iter().chain(block.seen.iter().copied()).collect()
                }
            };
            prefixes = IpNet::aggregate(&prefixes);
            if prefixes.len() > room {
                warn!(%who, left_out = prefixes.len() - room, "too many prefixes are blocked: some are not stopped by agents");
                prefixes.truncate(room);
            }
            room -= prefixes.len();
            channel::Block {
                who: who.to_string(),
                prefixes: prefixes.iter().map(ToString::to_string).collect(),
                seconds_left: block.until.saturating_sub(now),
                text: self.text(block),
            }
        });
        channel::Blocks { blocks: blocks.collect() }
    }

    /// As the operator sees them.
    pub fn list(&self, customers: &Customers) -> Value {
        let held = self.lock();
        let agents = self.tell(&held, customers);
        let blocks = held.iter().zip(&agents.blocks).map(|((who, block), told)| {
            json!({
                "who": who,
                "seconds_left": told.seconds_left,
                "by": block.by,
                "reason": block.reason,
                "prefixes": told.prefixes,
            })
        });
        blocks.collect()
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Grows with each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn text(&self, block: &Block) -> String {
        let reason = if block.reason.is_empty() { "no reason is given" } else { &block.reason };
        let contact =
            if self.contact.is_empty() { String::new() } else { format!("; contact {}", self.contact) };
        one_line(&format!("Your mail is blocked by your provider: {reason}{contact}"), MAX_TEXT)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn save(&self, held: &BTreeMap<Who, Block>) -> Result<(), BlockError> {
        let Some(path) = &self.file else { return Ok(()) };
        file::save(path, held).map_err(|cause| BlockError::File { path: path.clone(), cause })
    }

    fn save_or_warn(&self, held: &BTreeMap<Who, Block>) {
        if let Err(error) = self.save(held) {
            warn!(%error, "the next start will not know who is blocked");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Who, Block>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A list as it is shown: a line for each.
pub fn table(list: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = list.as_array().into_iter().flatten().map(|block| {
        let left = Duration::from_secs(block["seconds_left"].as_u64().unwrap_or(0));
        let prefixes = block["prefixes"].as_array().map_or(0, Vec::len);
        let (who, by, reason) = (text(&block["who"]), text(&block["by"]), text(&block["reason"]));
        format!("{who}  {} left  by {by}  {prefixes} prefixes  {reason}", time::left(left))
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() { "nobody is blocked".to_owned() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests;

//! Who is blocked by filter nodes: what each of them said last, whether it is there or not, kept in a file for the next
//! start.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use weir_daemon::channel::{self, MAX_PREFIXES, one_line};

use crate::config::Config;
use crate::orders::Bell;
use crate::policy::{file, time};
use crate::source::Source;
use crate::steer::{BootTime, Refusal, RuleTerms, Rules};

const NAME: &str = "node-blocks.json";

const VERSION: u32 = 1;

/// Prefixes of all nodes together: the kernel's table has room for more, which the operator's own rules may need.
const MAX_TOTAL: usize = 2 * MAX_PREFIXES;

/// No node blocks for longer than this.
const MAX_DURATION: Duration = Duration::from_secs(366 * 86_400);

/// Characters of what a customer is told.
const MAX_TEXT: usize = 400;

/// A blocked customer is told why once in this time; a little less than a second, which the kernel measures.
const TELL_INTERVAL: Duration = Duration::from_millis(900);

/// Sources of which it is known when they were told.
const MAX_TOLD: usize = 10_000;

/// A block of one node's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    who: String,
    prefixes: Vec<IpNet>,
    until: BootTime,
    text: Arc<str>,
}

/// As it is in the file. `until` in seconds since 1970.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    blocks: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    node: String,
    who: String,
    prefixes: Vec<IpNet>,
    until: u64,
    text: String,
}

/// Why a blocked customer's connection is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turned {
    /// What he is told; none if he was told just now.
    pub text: Option<Arc<str>>,
}

/// Everybody whom filter nodes block.
#[derive(Debug)]
pub struct Blocked {
    file: Option<PathBuf>,
    by_node: Mutex<BTreeMap<String, Vec<Block>>>,
    current: RwLock<Table>,
    told: Mutex<HashMap<Source, Instant>>,
    /// The kernel and the file do not know what is here.
    news: AtomicBool,
    version: AtomicU64,
    bell: Bell,
}

/// For look-ups.
#[derive(Debug, Default)]
struct Table {
    entries: HashMap<IpNet, (BootTime, Arc<str>)>,
    /// Of the prefixes.
    lengths: BTreeSet<u8>,
}

impl Table {
    fn new<'a>(blocks: impl Iterator<Item = &'a Block>) -> Self {
        let mut table = Self::default();
        for block in blocks {
            for prefix in &block.prefixes {
                if table.entries.len() >= MAX_TOTAL && !table.entries.contains_key(prefix) {
                    warn!(
                        who = block.who,
                        "filter nodes block more than {MAX_TOTAL} prefixes: the others are not stopped here"
                    );
                    return table;
                }
                table.lengths.insert(prefix.prefix_len());
                let entry = (block.until, block.text.clone());
                let known = table.entries.entry(*prefix).or_insert_with(|| entry.clone());
                if known.0 < block.until {
                    *known = entry;
                }
            }
        }
        table
    }

    fn get(&self, address: IpAddr, now: BootTime) -> Option<&Arc<str>> {
        self.lengths.iter().rev().find_map(|length| {
            let prefix = IpNet::new(address, *length).ok()?.trunc();
            let (until, text) = self.entries.get(&prefix)?;
            (*until > now).then_some(text)
        })
    }
}

impl Blocked {
    /// What was known at the end of the last run. Where no channel is configured nobody is blocked by nodes.
    pub fn of(config: &Config, bell: Bell) -> Self {
        let channel = config.filter.channel.as_ref();
        let file = channel.map(|_| config.state.directory.join(NAME));
        let nodes = channel.map(|channel| channel.nodes.clone()).unwrap_or_default();
        let mut by_node: BTreeMap<String, Vec<Block>> = file.as_deref().map_or_else(BTreeMap::new, |path| {
            file::load(path, |document| read(document).map(Some)).unwrap_or_default()
        });
        // What a node said that is none any more ends with it.
        by_node.retain(|node, _| nodes.contains(node));
        let current = RwLock::new(Table::new(by_node.values().flatten()));
        Self {
            file,
            by_node: Mutex::new(by_node),
            current,
            told: Mutex::default(),
            news: AtomicBool::new(false),
            version: AtomicU64::new(0),
            bell,
        }
    }

    /// Another when somebody is blocked who was not, or the other way round: for sessions that are open, after the bell.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What a blocked customer is told.
    pub fn of_customer(&self, customer: IpAddr) -> Option<Arc<str>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if current.entries.is_empty() {
            return None;
        }
        current.get(customer.to_canonical(), BootTime::now()).cloned()
    }

    /// Whether a new connection is to be turned away.
    pub fn turns_away(&self, customer: IpAddr, now: Instant) -> Option<Turned> {
        let text = self.of_customer(customer)?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: &Instant| now.saturating_duration_since(*at) < TELL_INTERVAL;
        if told.len() >= MAX_TOLD {
            told.retain(|_, at| recent(at));
        }
        let source = Source::of(customer);
        let again = told.get(&source).is_some_and(recent) || told.len() >= MAX_TOLD;
        if !again {
            told.insert(source, now);
        }
        Some(Turned { text: (!again).then_some(text) })
    }

    /// A node has said who is blocked.
    pub(super) fn set(&self, node: &str, said: channel::Blocks) {
        let now = BootTime::now();
        let blocks = said.blocks.into_iter().map(|block| {
            let left = Duration::from_secs(block.seconds_left).min(MAX_DURATION);
            Block {
                prefixes: block.prefixes.iter().filter_map(|prefix| prefix.parse().ok()).collect(),
                who: one_line(&block.who, MAX_TEXT),
                until: now.after(left),
                text: one_line(&block.text, MAX_TEXT).into(),
            }
        });
        let blocks: Vec<Block> = blocks.collect();
        let mut by_node = self.lock();
        let before = by_node.insert(node.to_owned(), blocks.clone()).unwrap_or_default();
        let table = Table::new(by_node.values().flatten());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = table;
        drop(by_node);
        let is_in = |all: &[Block], who: &str| all.iter().any(|block| block.who == who);
        for block in blocks.iter().filter(|block| !is_in(&before, &block.who)) {
            let (who, prefixes, until) = (&block.who, block.prefixes.len(), time::rfc3339(block.until));
            info!(node, who, prefixes, until, text = %block.text, "blocked by a filter node: sessions end, new connections are refused");
        }
        for block in before.iter().filter(|block| !is_in(&blocks, &block.who)) {
            info!(node, who = block.who, "blocked no more by a filter node");
        }
        self.news.store(true, Ordering::Release);
        self.version.fetch_add(1, Ordering::Release);
        self.bell.ring();
    }

    /// Whether kernel and file are behind. After that they are not, unless [`Self::put_off`] is called.
    pub(super) fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::AcqRel)
    }

    pub(super) fn put_off(&self) {
        self.news.store(true, Ordering::Release);
    }

    /// For the kernel.
    pub fn rules(&self) -> Rules {
        let (current, now) = (self.current.read().unwrap_or_else(PoisonError::into_inner), BootTime::now());
        let holding = current.entries.iter().filter(|(_, (until, _))| *until > now);
        holding
            .map(|(prefix, (until, _))| (*prefix, RuleTerms { until: *until, refusal: Refusal::Tell }))
            .collect()
    }

    /// For the next start.
    pub(super) fn save(&self) -> io::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let by_node = self.lock();
        let lines = by_node.iter().flat_map(|(node, blocks)| {
            blocks.iter().map(|block| Line {
                node: node.clone(),
                who: block.who.clone(),
                prefixes: block.prefixes.clone(),
                until: time::unix(block.until),
                text: block.text.to_string(),
            })
        });
        let document = Document { version: VERSION, blocks: lines.collect() };
        drop(by_node);
        file::replace(path, &document)
    }

    /// Blocks and prefixes.
    pub fn count(&self) -> (usize, usize) {
        let blocks = self.lock().values().map(Vec::len).sum();
        (blocks, self.current.read().unwrap_or_else(PoisonError::into_inner).entries.len())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Block>>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(document: Document) -> Result<BTreeMap<String, Vec<Block>>, String> {
    if document.version != VERSION {
        return Err(format!("version {} is not known, only {VERSION} is", document.version));
    }
    let (boot, wall) = (BootTime::now(), time::unix(BootTime::now()));
    let mut by_node: BTreeMap<String, Vec<Block>> = BTreeMap::new();
    for Line { node, who, prefixes, until, text } in document.blocks {
        // A clock that was wrong when the file was written must not block anybody for longer than one may.
        let left = Duration::from_secs(until.saturating_sub(wall)).min(MAX_DURATION);
        if !left.is_zero() {
            let block = Block { who, prefixes, until: boot.after(left), text: text.into() };
            by_node.entry(node).or_default().push(block);
        }
    }
    Ok(by_node)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_on_privacy_describes_the_file() {
        crate::privacy::tests::describes::<super::Line>(super::NAME);
    }
}

//! The table that holds now: the configuration's prefixes, and those of the file as it was last read.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use ipnet::IpNet;

use super::{Owner, Table};
use crate::config::Customers as Config;

/// How often the file is looked at.
pub const READ_INTERVAL: Duration = Duration::from_secs(2);

/// By what a file is known to have changed: inode, size and time of the last change.
pub(crate) type Stamp = (u64, u64, i64, i64);

#[derive(Debug)]
pub(super) struct Watched {
    /// Without the file.
    configured: Table,
    path: PathBuf,
    read: Mutex<Read>,
    table: RwLock<Arc<Table>>,
    generation: AtomicU64,
}

/// How the file was when it was last read.
#[derive(Debug, Default)]
struct Read {
    stamp: Option<Stamp>,
    problem: Option<String>,
}

impl Watched {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let mut configured = Table::default();
        for (index, entry) in config.prefixes.iter().enumerate() {
            let metadata = entry.metadata.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
            configured
                .add(entry.prefix, entry.id.as_deref(), metadata.collect())
                .map_err(|what| anyhow!("customers.prefixes[{index}]: {what}"))?;
        }
        let path = config.file.clone();
        let (table, stamp) = if path.as_os_str().is_empty() {
            (configured.clone(), None)
        } else {
            let stamp = stamp(&path);
            (with_file(&configured, &path).context("customers.file")?, stamp)
        };
        let read = Mutex::new(Read { stamp, problem: None });
        let table = RwLock::new(Arc::new(table));
        Ok(Self { configured, path, read, table, generation: AtomicU64::new(1) })
    }

    /// Reads the file again if it has changed; one that will not do changes nothing.
    pub(super) fn refresh(&self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        // Before the file is read: what changes while it is, is seen the next time.
        let found = stamp(&self.path);
        let mut read = self.read();
        if read.stamp == found {
            return;
        }
        read.stamp = found;
        match with_file(&self.configured, &self.path) {
            Ok(table) => {
                let prefixes = table.len();
                tracing::info!(file = %self.path.display(), prefixes, "customers read again");
                *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
                self.generation.fetch_add(1, Ordering::Release);
                read.problem = None;
            }
            Err(error) => {
                let problem = format!("{error:#}");
                tracing::error!(problem, "customers not read again: the last ones stay");
                read.problem = Some(problem);
            }
        }
    }

    pub(super) fn get(&self, address: IpAddr) -> Option<Owner> {
        self.table().get(address)
    }

    pub(super) fn prefixes_of(&self, id: &str) -> Vec<IpNet> {
        self.table().prefixes_of(id)
    }

    pub(super) fn len(&self) -> usize {
        self.table().len()
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.read().problem.clone()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_file(configured: &Table, path: &Path) -> anyhow::Result<Table> {
    let mut table = configured.clone();
    let file = File::open(path).with_context(|| path.display().to_string())?;
    table.read(file).with_context(|| path.display().to_string())?;
    Ok(table)
}

pub(crate) fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

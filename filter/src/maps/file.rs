//! The file of a map, as it was last read.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use anyhow::{Context, anyhow, ensure};
use serde_json::{Value, json};

use super::map::Map;
use super::{Of, Use};
use crate::config::MapFile;
use crate::customers::{Stamp, stamp};

/// Octets of a file.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Watched {
    config: MapFile,
    read: Mutex<LastRead>,
    map: RwLock<Arc<Map>>,
}

/// How the file was when it was last read.
#[derive(Debug)]
struct LastRead {
    stamp: Option<Stamp>,
    problem: Option<String>,
}

impl Watched {
    pub(super) fn new(config: &MapFile) -> anyhow::Result<Self> {
        let stamp = stamp(&config.file);
        let map = load(config)?;
        let read = Mutex::new(LastRead { stamp, problem: None });
        Ok(Self { config: config.clone(), read, map: RwLock::new(Arc::new(map)) })
    }

    pub(super) fn of(&self) -> Of {
        self.config.of
    }

    pub(super) fn action(&self) -> Use {
        self.config.action
    }

    pub(super) fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again if it has changed; one that will not do changes nothing.
    pub(super) fn refresh(&self) {
        // Before the file is read: what changes while it is, is seen the next time.
        let found = stamp(&self.config.file);
        let mut read = self.read();
        if read.stamp == found {
            return;
        }
        read.stamp = found;
        match load(&self.config) {
            Ok(map) => {
                tracing::info!(file = %self.config.file.display(), entries = map.len(), "map read again");
                *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
                read.problem = None;
            }
            Err(error) => {
                let problem = format!("{error:#}");
                tracing::error!(problem, "map not read again: the last one stays");
                read.problem = Some(problem);
            }
        }
    }

    pub(super) fn status(&self) -> Value {
        json!({
            "file": self.config.file.display().to_string(),
            "of": self.config.of,
            "use": self.config.action,
            "entries": self.map().len(),
            "problem": self.read().problem,
        })
    }

    fn read(&self) -> MutexGuard<'_, LastRead> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(config: &MapFile) -> anyhow::Result<Map> {
    let path: &PathBuf = &config.file;
    text(path)
        .and_then(|text| Map::parse(&text, config.of, config.action).map_err(|what| anyhow!(what)))
        .with_context(|| path.display().to_string())
}

fn text(path: &Path) -> anyhow::Result<String> {
    let mut octets = Vec::new();
    File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut octets)?;
    ensure!(octets.len() as u64 <= MAX_SIZE, "larger than {MAX_SIZE} octets");
    String::from_utf8(octets).map_err(|error| {
        let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        anyhow!("line {}: is not UTF-8", before.filter(|octet| **octet == b'\n').count() + 1)
    })
}

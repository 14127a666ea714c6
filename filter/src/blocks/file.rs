//! Blocks outlive the process, in a file of JSON that is replaced whole.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Block, Who};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    blocks: BTreeMap<Who, Block>,
}

pub(super) fn load(path: &Path) -> io::Result<BTreeMap<Who, Block>> {
    let content = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        content => content?,
    };
    let invalid = |what: String| {
        let mend = "nobody knows who was blocked. Put back a copy, or remove it to begin with nobody";
        io::Error::new(ErrorKind::InvalidData, format!("{what}; {mend}"))
    };
    let document: Document = serde_json::from_slice(&content).map_err(|error| invalid(error.to_string()))?;
    if document.version != VERSION {
        return Err(invalid(format!("version {} is not known, only {VERSION} is", document.version)));
    }
    Ok(document.blocks)
}

pub(super) fn save(path: &Path, blocks: &BTreeMap<Who, Block>) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let document = Document { version: VERSION, blocks: blocks.clone() };
    file.write_all(&serde_json::to_vec_pretty(&document)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

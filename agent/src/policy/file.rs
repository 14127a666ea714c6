//! The rules in a file, for the next start.
//!
//! ```json
//! {
//!   "version": 1,
//!   "rules": [
//!     {"kind": "exempt_pair", "customer": "10.1.0.2", "destination": "192.0.2.25",
//!      "until": 1795305600, "by": "operator", "reason": "insists on TLS"}
//!   ]
//! }
//! ```
//!
//! `until` is in seconds since 1970. The file is replaced whole: a reader finds the old rules or the new ones.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, BufWriter, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::{Author, Exemption, MAX_DURATION, Pairs, time};
use crate::steer::{BootTime, Pair};

pub(super) const NAME: &str = "policy.json";

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    rules: Vec<Line>,
}

/// A rule. What is not known here (of a later version, say) makes the whole file unreadable: half a policy is
/// none.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    ExemptPair { customer: IpAddr, destination: IpAddr, until: u64, by: Author, reason: String },
}

/// The rules that are not over. A file that cannot be read is set aside.
pub(super) fn load(path: &Path) -> Pairs {
    match read(path) {
        Ok(pairs) => pairs,
        Err(cause) if cause.kind() == ErrorKind::NotFound => Pairs::new(),
        Err(cause) => {
            let (path, aside) = (path.display(), aside(path));
            match fs::rename(path.to_string(), &aside) {
                Ok(()) => error!(
                    %path, %cause, aside = %aside.display(),
                    "the rules of the last run cannot be read: the file is set aside, and nobody is exempt"
                ),
                Err(rename) => error!(
                    %path, %cause, %rename,
                    "the rules of the last run cannot be read: nobody is exempt, and the next change overwrites them"
                ),
            }
            Pairs::new()
        }
    }
}

fn read(path: &Path) -> io::Result<Pairs> {
    let document: Document = serde_json::from_reader(BufReader::new(File::open(path)?))?;
    if document.version != VERSION {
        let words = format!("version {} is not known, only {VERSION} is", document.version);
        return Err(io::Error::new(ErrorKind::InvalidData, words));
    }
    let boot = BootTime::now();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut pairs = Pairs::new();
    for line in document.rules {
        let Line::ExemptPair { customer, destination, until, by, reason } = line;
        let pair = Pair::new(customer, destination).ok_or_else(|| {
            let words = format!("{customer} and {destination} are of two families");
            io::Error::new(ErrorKind::InvalidData, words)
        })?;
        // A clock that was wrong when the file was written must not exempt anybody for longer than one may.
        let left = Duration::from_secs(until.saturating_sub(wall)).min(MAX_DURATION);
        if !left.is_zero() {
            pairs.insert(pair, Exemption { until: boot.after(left), by, reason });
        }
    }
    Ok(pairs)
}

/// Beside the file, under a name that no later one takes.
fn aside(path: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = |number: u32| match number {
        0 => path.with_extension(format!("json.unreadable-{now}")),
        _ => path.with_extension(format!("json.unreadable-{now}-{number}")),
    };
    (0..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0))
}

/// Replaces the file; when this returns, the new one is on the disk.
pub(super) fn save(path: &Path, pairs: &Pairs) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let rules = pairs.iter().map(|(pair, exemption)| Line::ExemptPair {
        customer: pair.customer(),
        destination: pair.destination(),
        until: time::unix(exemption.until),
        by: exemption.by,
        reason: exemption.reason.clone(),
    });
    let document = Document { version: VERSION, rules: rules.collect() };
    // Readable for its owner alone.
    let mut file = tempfile::Builder::new().prefix(".policy-").tempfile_in(directory)?;
    let mut writer = BufWriter::new(file.as_file_mut());
    serde_json::to_writer_pretty(&mut writer, &document)?;
    writer.write_all(b"\n")?;
    writer.flush()?;
    drop(writer);
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory).and_then(|directory| directory.sync_all()).inspect_err(|cause| {
        warn!(directory = %directory.display(), %cause, "written, but perhaps not on the disk");
    })
}

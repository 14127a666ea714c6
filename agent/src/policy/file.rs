//! What is kept for the next start: files of JSON that are replaced whole, so that a reader finds the old content or
//! the new.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, BufWriter, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{error, warn};

/// What `read` makes of the file's content. A file that cannot be read is set aside, and the answer is the same as
/// where there is none.
pub(crate) fn load<D: DeserializeOwned, T: Default>(
    path: &Path,
    read: impl FnOnce(D) -> Result<T, String>,
) -> T {
    match document(path).and_then(|document| read(document).map_err(invalid)) {
        Ok(content) => content,
        Err(cause) if cause.kind() == ErrorKind::NotFound => T::default(),
        Err(cause) => {
            set_aside(path, &cause);
            T::default()
        }
    }
}

fn document<D: DeserializeOwned>(path: &Path) -> io::Result<D> {
    Ok(serde_json::from_reader(BufReader::new(File::open(path)?))?)
}

fn invalid(words: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, words)
}

fn set_aside(path: &Path, cause: &io::Error) {
    let aside = aside(path);
    let renamed = fs::rename(path, &aside);
    let (path, aside) = (path.display(), aside.display());
    match renamed {
        Ok(()) => {
            error!(%path, %cause, %aside, "what the last run kept cannot be read: the file is set aside");
        }
        Err(rename) => {
            error!(%path, %cause, %rename, "what the last run kept cannot be read, and will be overwritten");
        }
    }
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
pub(crate) fn replace(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    // Readable for its owner alone.
    let mut file = tempfile::Builder::new().prefix(".weir-").tempfile_in(directory)?;
    let mut writer = BufWriter::new(file.as_file_mut());
    serde_json::to_writer_pretty(&mut writer, content)?;
    writer.write_all(b"\n")?;
    writer.flush()?;
    drop(writer);
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory).and_then(|directory| directory.sync_all()).inspect_err(|cause| {
        warn!(directory = %directory.display(), %cause, "written, but perhaps not on the disk");
    })
}

//! The files of samples: a line that says whose it is, and behind it the message, encrypted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use age::x25519::{Identity, Recipient};
use age::{Decryptor, Encryptor};
use serde::{Deserialize, Serialize};

/// Octets of the line in front, at most.
const MAX_LABEL: u64 = 16 * 1024;

const SUFFIX: &str = "sample";

/// While it is written.
const UNFINISHED: &str = "new";

/// What is known of a sample without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// The message's.
    pub id: String,
    /// Seconds since 1970.
    pub time: u64,
    /// His id; where customers have no names, a prefix or a source.
    pub customer: String,
    /// Why it was taken.
    pub rule: String,
}

/// A sample that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub label: Label,
    /// Octets of the file.
    pub size: u64,
    pub path: PathBuf,
}

/// What is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub samples: u64,
    pub bytes: u64,
}

/// Why a sample cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no sample {id} in {}", directory.display())]
    Missing { id: String, directory: PathBuf },
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("{}: the key is not the one of quarantine.public_key that it was encrypted to", path.display())]
    OtherKey { path: PathBuf },
    #[error("{}: damaged: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
}

/// The directory, made for its owner alone.
///
/// # Errors
/// If it cannot be.
pub fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

/// Ids come from agents, and need not be fit for a name.
pub fn path_of(directory: &Path, id: &str) -> PathBuf {
    let hash = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    let name: String = hash.as_ref().iter().take(16).map(|octet| format!("{octet:02x}")).collect();
    directory.join(format!("{name}.{SUFFIX}"))
}

/// Writes a sample; it has its name when it is whole. False: it was there already.
///
/// # Errors
/// Those of the disk; nothing is left then.
pub fn write(directory: &Path, to: &Recipient, label: &Label, message: &[u8]) -> io::Result<bool> {
    let path = path_of(directory, &label.id);
    if path.exists() {
        return Ok(false);
    }
    let beside = path.with_extension(UNFINISHED);
    let written = write_to(&beside, to, label, message).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        // What is left after this is removed at the next start.
        let _ = fs::remove_file(&beside);
    }
    written?;
    File::open(directory)?.sync_all()?;
    Ok(true)
}

fn write_to(path: &Path, to: &Recipient, label: &Label, message: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut file = BufWriter::new(file);
    writeln!(file, "{}", serde_json::to_string(label)?)?;
    let encryptor = Encryptor::with_recipients(std::iter::once(to as _)).map_err(io::Error::other)?;
    let mut sealed = encryptor.wrap_output(file)?;
    sealed.write_all(message)?;
    let file = sealed.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

/// All that is there, latest first, and files that cannot be read, with the reason.
///
/// # Errors
/// If the directory cannot be read; one that is not there is empty.
pub fn list(directory: &Path) -> io::Result<(Vec<Kept>, Vec<String>)> {
    let (mut kept, mut unread) = (Vec::new(), Vec::new());
    for path in paths(directory, SUFFIX)? {
        match open(&path) {
            Ok((label, size, _)) => kept.push(Kept { label, size, path }),
            // Its time was over just now.
            Err(_) if !path.exists() => {}
            Err(error) => unread.push(error.to_string()),
        }
    }
    kept.sort_by(|one, other| (other.label.time, &other.label.id).cmp(&(one.label.time, &one.label.id)));
    Ok((kept, unread))
}

/// The sample of the message with this id, as it is.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn find(directory: &Path, id: &str) -> Result<Kept, ReadError> {
    let path = path_of(directory, id);
    if !path.exists() {
        return Err(ReadError::Missing { id: id.to_owned(), directory: directory.to_owned() });
    }
    let (label, size, _) = open(&path)?;
    Ok(Kept { label, size, path })
}

/// The message, with the secret key.
///
/// # Errors
/// If it is another key, or the file is damaged.
pub fn decrypt(kept: &Kept, key: &Identity) -> Result<Vec<u8>, ReadError> {
    let path = || kept.path.clone();
    let damaged = |why: String| ReadError::Damaged { path: path(), why };
    let (_, _, file) = open(&kept.path)?;
    let decryptor = Decryptor::new_buffered(file).map_err(|error| damaged(error.to_string()))?;
    let mut message = Vec::new();
    match decryptor.decrypt(std::iter::once(key as _)) {
        Err(age::DecryptError::NoMatchingKeys) => Err(ReadError::OtherKey { path: path() }),
        Err(error) => Err(damaged(error.to_string())),
        Ok(mut reader) => {
            reader.read_to_end(&mut message).map_err(|error| damaged(error.to_string()))?;
            Ok(message)
        }
    }
}

/// # Errors
/// If it cannot be.
pub fn remove(kept: &Kept) -> Result<(), ReadError> {
    match fs::remove_file(&kept.path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(ReadError::File { path: kept.path.clone(), cause })
        }
        _ => Ok(()),
    }
}

/// What is encrypted of it, as text (age's armor).
///
/// # Errors
/// If it cannot be read.
pub fn armored(kept: &Kept) -> Result<String, ReadError> {
    let failed = |cause| ReadError::File { path: kept.path.clone(), cause };
    let (_, _, mut file) = open(&kept.path)?;
    let mut armor = || -> io::Result<Vec<u8>> {
        let mut out = age::armor::ArmoredWriter::wrap_output(Vec::new(), age::armor::Format::AsciiArmor)?;
        io::copy(&mut file, &mut out)?;
        out.finish()
    };
    armor().map(|text| String::from_utf8_lossy(&text).into_owned()).map_err(failed)
}

fn open(path: &Path) -> Result<(Label, u64, BufReader<File>), ReadError> {
    let failed = |cause| ReadError::File { path: path.to_owned(), cause };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    (&mut file).take(MAX_LABEL).read_until(b'\n', &mut line).map_err(failed)?;
    let label = serde_json::from_slice(&line);
    let label =
        label.map_err(|error| ReadError::Damaged { path: path.to_owned(), why: error.to_string() })?;
    Ok((label, size, file))
}

/// Removes what is older than `keep`, and the oldest of what is more than `room` bytes.
///
/// # Errors
/// If the directory cannot be read, or the first file that could not be removed.
pub fn sweep(directory: &Path, keep: Duration, room: u64) -> io::Result<Usage> {
    let now = SystemTime::now();
    let mut files = Vec::new();
    for path in paths(directory, SUFFIX)? {
        match fs::metadata(&path) {
            Ok(about) => files.push((about.modified()?, about.len(), path)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
    }
    files.sort();
    let mut usage = Usage { samples: files.len() as u64, bytes: files.iter().map(|(_, size, _)| size).sum() };
    let mut failed = Ok(());
    for (written, size, path) in files {
        let too_old = now.duration_since(written).is_ok_and(|age| age >= keep);
        if !too_old && usage.bytes <= room {
            continue;
        }
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => failed = failed.and(Err(cause)),
            _ => (usage.samples, usage.bytes) = (usage.samples - 1, usage.bytes - size),
        }
    }
    failed.map(|()| usage)
}

/// Removes what a process that was killed was writing.
///
/// # Errors
/// If the directory cannot be read, or a file not be removed.
pub fn remove_unfinished(directory: &Path) -> io::Result<()> {
    paths(directory, UNFINISHED)?.iter().try_for_each(fs::remove_file)
}

fn paths(directory: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == suffix) {
            paths.push(path);
        }
    }
    Ok(paths)
}

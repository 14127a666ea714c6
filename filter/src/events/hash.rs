//! Mail addresses as keyed hashes: the same address is the same everywhere in the store, and nobody without the key can
//! find out whose it is by trying.

use std::fmt::Write;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::hmac;
use tracing::error;
use weir_daemon::log::without_addresses;

/// Octets of the key.
const KEY: usize = 32;

/// Octets of a hash that are kept: enough to keep the addresses of any provider apart.
const KEPT: usize = 10;

/// What becomes of mail addresses before they are stored.
#[derive(Debug, Clone)]
pub enum Addresses {
    /// `store_addresses`
    Stored,
    Hashed(hmac::Key),
}

impl Addresses {
    /// With the key of this file, made if there is none: 32 octets, for its owner alone.
    ///
    /// # Errors
    /// If it can be neither read nor made.
    pub fn hashed(file: &Path) -> io::Result<Self> {
        let key = match read(file) {
            Ok(Some(key)) => key,
            Ok(None) => {
                let aside = file.with_extension("key.damaged");
                error!(
                    file = %file.display(), aside = %aside.display(),
                    "the key of mail addresses is damaged: moved aside, a new one is made, and addresses are other than before"
                );
                fs::rename(file, aside)?;
                make(file)?
            }
            Err(cause) if cause.kind() == ErrorKind::NotFound => make(file)?,
            Err(cause) => return Err(cause),
        };
        Ok(Self::keyed(&key))
    }

    pub fn keyed(key: &[u8; KEY]) -> Self {
        Self::Hashed(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// What somebody wrote, as it is stored.
    pub fn in_text(&self, text: &str) -> String {
        match self {
            Self::Stored => text.to_owned(),
            Self::Hashed(_) => without_addresses(text),
        }
    }

    /// As it is stored. Whether its letters are small or large makes no difference.
    pub fn of(&self, address: &[u8]) -> String {
        let small = address.to_ascii_lowercase();
        match self {
            Self::Stored => String::from_utf8_lossy(&small).into_owned(),
            Self::Hashed(key) => {
                let tag = hmac::sign(key, &small);
                tag.as_ref().iter().take(KEPT).fold(String::new(), |mut text, octet| {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{octet:02x}");
                    text
                })
            }
        }
    }
}

/// None: it is not of its length.
fn read(file: &Path) -> io::Result<Option<[u8; KEY]>> {
    let mut octets = Vec::new();
    fs::File::open(file)?.take(KEY as u64 + 1).read_to_end(&mut octets)?;
    Ok(octets.try_into().ok())
}

/// It has its name when it is whole.
fn make(file: &Path) -> io::Result<[u8; KEY]> {
    let key: [u8; KEY] = rand::random();
    let beside = file.with_extension("key.new");
    match fs::remove_file(&beside) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let mut made = options.write(true).create_new(true).mode(0o600).open(&beside)?;
    io::Write::write_all(&mut made, &key)?;
    made.sync_all()?;
    fs::rename(&beside, file)?;
    Ok(key)
}

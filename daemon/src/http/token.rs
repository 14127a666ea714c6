//! A secret that two daemons share, in a file each.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hyper::header::HeaderValue;

/// Octets of the shortest token: what `openssl rand -hex 16` says.
const LEAST: usize = 32;

const MOST: usize = 4096;

/// Why a file holds no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("{}: others than its owner may read or write it (mode {mode:o}): chmod 600 {}", path.display(), path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "{}: {length} octets; a token has {LEAST} to {MOST}, for example: openssl rand -hex 32 > {}",
        path.display(),
        path.display()
    )]
    Length { path: PathBuf, length: usize },
    #[error("{}: a token is one line of printable ASCII without spaces", path.display())]
    Characters { path: PathBuf },
}

/// Never shown.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The content of a file, without the line end behind it.
    ///
    /// # Errors
    /// If others may read it (but for the group), or it is no token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let failed = |cause| TokenError::File { path: path.to_owned(), cause };
        let mode = fs::metadata(path).map_err(failed)?.mode() & 0o7777;
        // A group that may read it is how a service that is not root gets it.
        if mode & 0o027 != 0 {
            return Err(TokenError::Open { path: path.to_owned(), mode });
        }
        let content = fs::read(path).map_err(failed)?;
        let token = content.trim_ascii_end();
        if !(LEAST..=MOST).contains(&token.len()) {
            return Err(TokenError::Length { path: path.to_owned(), length: token.len() });
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Characters { path: path.to_owned() });
        }
        Ok(Self(token.to_owned()))
    }

    /// `Authorization: Bearer ...` (RFC 6750 section 2.1).
    pub fn authorization(&self) -> HeaderValue {
        let words = [b"Bearer ".as_slice(), &self.0].concat();
        // Printable ASCII, as was seen to.
        let mut value =
            HeaderValue::from_bytes(&words).unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        value.set_sensitive(true);
        value
    }

    /// Whether a header is that of this token. Takes as long for every wrong one of its length.
    pub fn is_in(&self, header: Option<&HeaderValue>) -> bool {
        let said = header.and_then(|header| header.as_bytes().strip_prefix(b"Bearer "));
        let Some(said) = said.filter(|said| said.len() == self.0.len()) else { return false };
        let different = said.iter().zip(&self.0).fold(0_u8, |all, (said, own)| all | (said ^ own));
        std::hint::black_box(different) == 0
    }
}

//! The node's certificate. A file that changed counts from the next handshake on, so that certificates are renewed
//! without a restart.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

use crate::config::Tls as Config;

pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// The files when they were last read, whether they would do or not.
    read: [Option<Stamp>; 2],
}

/// By what a file is known to have changed: inode, size and time of the last change.
type Stamp = (u64, u64, i64, i64);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Tls {
    /// # Errors
    /// Which file will not do, under which key, and why.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let (certificate, key) = (config.certificate.clone(), config.key.clone());
        let read = [stamp(&certificate), stamp(&key)];
        let current = Current { config: load(&certificate, &key)?, read };
        Ok(Self { certificate, key, current: Mutex::new(current) })
    }

    /// For one handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the files are read: what changes while they are is seen the next time.
        let found = [stamp(&self.certificate), stamp(&self.key)];
        if found != current.read {
            current.read = found;
            match load(&self.certificate, &self.key) {
                Ok(config) => {
                    current.config = config;
                    info!(certificate = %self.certificate.display(), "certificate read again");
                }
                // Once for every change: the certificate may be there before its key.
                Err(error) => warn!("certificate not renewed, the last one stays: {error:#}"),
            }
        }
        TlsAcceptor::from(current.config.clone())
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

fn load(certificate: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let at = |name: &str, path: &Path| format!("smtp.tls.{name}: {}", path.display());
    let pem = fs::read(certificate).with_context(|| at("certificate", certificate))?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.with_context(|| at("certificate", certificate))?;
    ensure!(!chain.is_empty(), "{} has no certificate in PEM", at("certificate", certificate));
    let pem = fs::read(key).with_context(|| at("key", key))?;
    let private = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(io::Error::other)
        .with_context(|| format!("{} has no private key in PEM", at("key", key)))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{} does not fit {}", at("key", key), at("certificate", certificate)))?;
    Ok(Arc::new(config))
}

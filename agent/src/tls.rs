//! TLS to destinations and to filter nodes.
//!
//! To destinations it is opportunistic (RFC 7435): without it mail would go in clear, so any certificate is better than
//! none, and nothing is decided by who the certificate is for. Filter nodes are the provider's own: theirs must be signed
//! by the authority of the configuration and made out to the node.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, ensure};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::config::NodeTls;

/// With whom, and what is asked of the certificate.
#[derive(Clone)]
pub struct Peer {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Peer {
    /// # Errors
    /// If the library offers no protocol: a defect.
    pub fn destination(address: IpAddr) -> io::Result<Self> {
        static CONFIG: OnceLock<Result<Arc<ClientConfig>, Error>> = OnceLock::new();
        let config = CONFIG.get_or_init(|| any_certificate().map(Arc::new));
        // The destination is known by its address only; no name is said (SNI).
        Ok(Self { config: config.clone().map_err(io::Error::other)?, name: ServerName::from(address) })
    }

    /// # Errors
    /// If the peer breaks the handshake or the protocol, or its certificate will not do.
    pub async fn secure(self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.config).connect(self.name, stream).await
    }
}

/// How the nodes are spoken to.
#[derive(Clone)]
pub struct Nodes {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Nodes {
    /// # Errors
    /// Which file or name of the configuration will not do, and why.
    pub fn new(tls: &NodeTls) -> anyhow::Result<Self> {
        let file = tls.ca_file.display();
        let key = || format!("filter.tls.ca_file: {file}");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&tls.ca_file).with_context(key)? {
            roots.add(certificate.with_context(key)?).with_context(key)?;
        }
        ensure!(!roots.is_empty(), "filter.tls.ca_file: {file} has no certificate in PEM");
        let name = tls.server_name.clone().map(ServerName::try_from).transpose();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config), name: name.context("filter.tls.server_name")? })
    }

    /// A node's certificate is made out to `filter.tls.server_name`, else to the host name by which the node is
    /// configured, else to its address.
    pub fn peer(&self, host: Option<&str>, address: IpAddr) -> Peer {
        let configured = || ServerName::try_from(host?.to_owned()).ok();
        let name = self.name.clone().or_else(configured).unwrap_or_else(|| ServerName::from(address));
        Peer { config: self.config.clone(), name }
    }
}

/// Protocol and cipher by their registered names, for the log.
pub fn describe(stream: &TlsStream<TcpStream>) -> String {
    let (_, session) = stream.get_ref();
    let protocol = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
    let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("");
    format!("{} {}", protocol.replace('_', "."), cipher.replace("TLS13_", "TLS_"))
}

fn any_certificate() -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth())
}

/// Takes every certificate whose key signed the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

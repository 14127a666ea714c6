//! Who signs the filter nodes' certificates, made as docs/operations.md says.

use anyhow::Result;

use crate::lab::{Family, Host};

/// A certification authority of the provider, on the filter nodes' host.
pub struct Authority<'a> {
    host: &'a Host,
    directory: String,
}

impl<'a> Authority<'a> {
    pub fn new(host: &'a Host, name: &str) -> Result<Self> {
        let directory = format!("/etc/weir/{name}");
        host.sh(&format!(
            "mkdir -p {directory} && cd {directory} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
             -nodes -days 30 -subj '/CN=weir filter nodes' -keyout ca.key -out ca.pem"
        ))?;
        Ok(Self { host, directory })
    }

    /// Its certificate.
    pub fn certificate(&self) -> String {
        self.host.read(&format!("{}/ca.pem", self.directory))
    }

    /// A certificate and its key for both addresses of a node.
    pub fn issue(&self, node: u8) -> Result<[String; 2]> {
        self.issue_to(node, &Family::BOTH.map(|family| format!("IP:{}", family.filter_node(node))).join(","))
    }

    /// A certificate and its key for these names, as OpenSSL writes them.
    pub fn issue_to(&self, node: u8, names: &str) -> Result<[String; 2]> {
        let name = format!("node{node}");
        self.host.sh(&format!(
            "cd {} && openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} \
             -addext subjectAltName={names} -keyout {name}.key -out {name}.csr && \
             openssl x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -days 30 -copy_extensions copy -out {name}.pem",
            self.directory
        ))?;
        Ok(["pem", "key"].map(|kind| self.host.read(&format!("{}/{name}.{kind}", self.directory))))
    }

    /// Puts a certificate of its own where a node looks for it; the lines of `[smtp]` that say so.
    pub fn equip(&self, node: u8) -> Result<String> {
        Self::install(self.host, node, self.issue(node)?)
    }

    /// As `equip`, with a certificate and its key that were issued.
    pub fn install(host: &Host, node: u8, [certificate, key]: [String; 2]) -> Result<String> {
        let [to, key_to] = Self::files(node);
        host.write(&to, certificate)?;
        host.write(&key_to, key)?;
        Ok(format!("[smtp.tls]\ncertificate = {to:?}\nkey = {key_to:?}"))
    }

    /// Where a node's certificate and key are.
    pub fn files(node: u8) -> [String; 2] {
        ["pem", "key"].map(|kind| format!("/etc/weir/filter{node}.{kind}"))
    }
}

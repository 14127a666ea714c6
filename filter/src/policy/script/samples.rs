//! Messages on which a script is tried before it is used.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use weir_smtp::Envelope;
use weir_smtp::data::Findings;
use weir_smtp::envelope::{Mailbox, Path as Mail};

use super::live::{Counting, Live};
use super::recorded::{File, Recorded};
use super::{Context, LoadError, Replies, Script};
use crate::body::Body;
use crate::facts::Facts;
use crate::inside::Inside;
use crate::message::{Customer, Message, Transaction};
use crate::rate::{Memory, Moment};
use crate::scan::Scanners;

/// Shipped with weir: what breaks scripts is what they were not written for.
const SHIPPED: [(&str, &[u8]); 6] = [
    ("plain.eml", include_bytes!("../../../samples/plain.eml")),
    ("empty.eml", include_bytes!("../../../samples/empty.eml")),
    ("no-header.eml", include_bytes!("../../../samples/no-header.eml")),
    ("php.eml", include_bytes!("../../../samples/php.eml")),
    ("attachment.eml", include_bytes!("../../../samples/attachment.eml")),
    ("octets.eml", include_bytes!("../../../samples/octets.eml")),
];

/// Of the operator's own.
const MAX_FILES: usize = 1000;
const MAX_SIZE: u64 = 1024 * 1024;

/// 2020-09-13: nothing of a sample depends on the time.
const THEN: Moment = Moment(1_600_000_000_000);

/// Messages, and what is said of each in turn.
#[derive(Debug, Clone)]
pub struct Samples(Vec<(String, Bytes)>);

impl Samples {
    /// The shipped ones, and those in a directory.
    ///
    /// # Errors
    /// Which cannot be read, or is too large.
    pub fn new(directory: Option<&Path>) -> Result<Self, LoadError> {
        let shipped = SHIPPED.iter().map(|(name, octets)| ((*name).to_owned(), Bytes::from_static(octets)));
        let mut samples: Vec<_> = shipped.collect();
        if let Some(directory) = directory {
            let unreadable = |source| LoadError::Unreadable { path: directory.to_owned(), source };
            let entries = std::fs::read_dir(directory).map_err(unreadable)?;
            let mut paths: Vec<PathBuf> = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<_, _>>()
                .map_err(unreadable)?;
            paths.sort();
            for path in paths.into_iter().filter(|path| path.is_file()).take(MAX_FILES) {
                let octets = read(&path, MAX_SIZE)?;
                samples.push((path.display().to_string(), octets.into()));
            }
        }
        Ok(Self(samples))
    }

    /// Runs a script on all of them.
    ///
    /// # Errors
    /// The first sample on which it fails, and how.
    pub async fn try_on(&self, script: &Script, replies: &Replies) -> Result<(), LoadError> {
        for context in script.contexts() {
            if *context == Context::Data {
                for (name, octets) in &self.0 {
                    try_all(script, *context, (name, octets), &results(), replies).await?;
                }
            } else {
                let nothing = (context.name(), &Bytes::new());
                let said = [("lists away", None), ("on no list", Some(false)), ("on every list", Some(true))];
                let results = said.map(|(kind, listed)| (kind, Recorded { listed, ..Recorded::default() }));
                try_all(script, *context, nothing, &results, replies).await?;
            }
        }
        Ok(())
    }
}

/// Each kind of transaction with each kind of results.
async fn try_all(
    script: &Script,
    context: Context,
    (name, octets): (&str, &Bytes),
    results: &[(&str, Recorded)],
    replies: &Replies,
) -> Result<(), LoadError> {
    let inside = Inside::alone();
    for (kind, recorded) in results {
        for (who, transaction) in transactions(octets.len()) {
            let message = Message { transaction, body: Body::Memory(octets.clone()) };
            let scanners = Scanners::default();
            let facts = Facts::new(&message, &scanners).with_inside(&inside);
            let counting = Counting::<Memory>::Nowhere;
            let mut world = Live::new(&facts, context, counting, replies, script.name(), THEN).await;
            world.recorded = Some(recorded);
            world.silent = true;
            script.call(&mut world).await.map_err(|error| LoadError::Sample {
                name: script.name().to_owned(),
                sample: format!("{name} ({who}, {kind})"),
                error,
            })?;
        }
    }
    Ok(())
}

/// A file that is no larger than `limit`.
///
/// # Errors
/// If it cannot be read, or is larger.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    use std::io::Read;
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let mut octets = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(limit + 1).read_to_end(&mut octets).map_err(unreadable)?;
    if octets.len() as u64 > limit {
        return Err(LoadError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(octets)
}

/// What scanners say.
fn results() -> Vec<(&'static str, Recorded)> {
    let executable = File { name: "a.pdf".into(), class: "executable".into(), depth: 0 };
    vec![
        ("clean", Recorded { listed: Some(false), ..Recorded::default() }),
        ("bulk", Recorded { score: 4.5, outbreak: 50, ..Recorded::default() }),
        ("spam", Recorded { score: 12.0, outbreak: 100, listed: Some(true), ..Recorded::default() }),
        ("virus", Recorded { virus: Some("Sample".into()), ..Recorded::default() }),
        ("executable", Recorded { files: vec![executable], ..Recorded::default() }),
        (
            "scanners away",
            Recorded {
                away: super::SCANNERS.iter().map(|name| (*name).to_owned()).collect(),
                ..Recorded::default()
            },
        ),
    ]
}

/// Who sends, and to whom.
fn transactions(size: usize) -> Vec<(&'static str, Transaction)> {
    vec![
        ("one recipient", transaction("192.0.2.1".parse(), "user@example.org", 1, size)),
        ("no sender", transaction("2001:db8::1".parse(), "", 1, size)),
        ("fifty recipients", transaction("192.0.2.1".parse(), "no-domain", 50, size)),
    ]
}

fn transaction(
    address: Result<IpAddr, std::net::AddrParseError>,
    sender: &str,
    recipients: usize,
    size: usize,
) -> Transaction {
    let mailbox = |text: String| Mailbox { path: Mail::new(text.into_bytes()), parameters: Vec::new() };
    let mut envelope = Envelope::new(mailbox(sender.to_owned()));
    envelope.recipients = (0..recipients).map(|at| mailbox(format!("r{at}@example.net"))).collect();
    Transaction {
        id: "sample".into(),
        customer: Customer {
            address: address.unwrap_or(IpAddr::from([192, 0, 2, 1])),
            port: None,
            helo: None,
            protocol: None,
            destination: None,
        },
        envelope,
        findings: Findings { size: size as u64, ..Findings::default() },
    }
}

//! What can be found out from the inside of a message, on this node and without asking others: its parts, its files, whether
//! others send it too.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::config::{self, Config};
use crate::content::{self, Opened, Reader, work_on};
use crate::files::{Files, Inspector};
use crate::message::Message;
use crate::outbreak::{Engine, Finding, Memory, Nodes, Signature, Who};
use crate::rate::Moment;

/// For the signature of one message, which takes milliseconds.
const SIGNING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Inside {
    reader: Reader,
    inspector: Inspector,
    outbreaks: Option<Engine<Nodes>>,
}

impl Inside {
    /// # Errors
    /// If the address of the store that nodes share is none.
    pub fn new(config: &Config) -> Result<Self, redis::RedisError> {
        let engine = || {
            let memory = Memory::new(config.outbreak.max_messages, config.outbreak.rule());
            let store = config.counters.redis.as_deref().filter(|_| config.outbreak.shared);
            Ok::<_, redis::RedisError>(Engine::new(
                Nodes::new(memory, store)?,
                rand::random(),
                config.outbreak.exempt(),
            ))
        };
        let outbreaks = config.outbreak.enabled.then(engine).transpose()?;
        Ok(Self { outbreaks, ..Self::of(&config.content, &config.file_types) })
    }

    /// For messages that are only tried.
    pub fn alone() -> Self {
        Self::of(&config::Content::default(), &config::FileTypes::default())
    }

    fn of(section: &config::Content, file_types: &config::FileTypes) -> Self {
        let limits = content::Limits {
            octets: usize::try_from(section.max_size).unwrap_or(usize::MAX - 1),
            parts: section.max_parts,
            depth: section.max_depth,
        };
        Self {
            reader: Reader::new(limits, section.memory, Duration::from_secs(section.timeout)),
            inspector: Inspector::new(file_types),
            outbreaks: None,
        }
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    pub fn inspector(&self) -> &Inspector {
        &self.inspector
    }

    pub fn outbreaks(&self) -> Option<&Engine<Nodes>> {
        self.outbreaks.as_ref()
    }

    pub async fn read(&self, message: &Message) -> Arc<Opened> {
        let transaction = &message.transaction;
        self.reader.read(&transaction.id, &message.body, transaction.findings.size).await
    }

    pub async fn files(&self, message: &Message, content: Arc<Opened>) -> Files {
        self.inspector.look(&message.transaction.id, content).await
    }

    /// Counts the message, and says how much of an outbreak it is. None if that is not known: the engine is off, or cannot
    /// be asked now.
    pub async fn outbreak(
        &self,
        message: &Message,
        content: Arc<Opened>,
        customer: Option<&str>,
        now: Moment,
    ) -> Option<Finding> {
        let engine = self.outbreaks.as_ref()?;
        let id = &message.transaction.id;
        let (seed, text) = (engine.seed(), Arc::clone(&content));
        let signature = work_on(content.octets(), SIGNING, move |_| Signature::of(&text, seed)).await;
        let signature = signature.map_err(|cause| warn!(id, %cause, "outbreak: message not signed")).ok()?;
        let envelope = &message.transaction.envelope;
        let text = |path: &weir_smtp::envelope::Path| String::from_utf8_lossy(path.as_bytes()).into_owned();
        let recipients: Vec<String> =
            envelope.recipients.iter().map(|recipient| text(&recipient.path)).collect();
        let who = Who {
            customer,
            address: message.transaction.customer.address,
            sender: &text(&envelope.sender.path),
            recipients: &recipients.iter().map(String::as_str).collect::<Vec<_>>(),
        };
        let finding = engine.count(signature, &content, who, now).await;
        finding.map_err(|cause| warn!(id, %cause, "outbreak: message not counted")).ok()
    }
}

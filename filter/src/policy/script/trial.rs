//! `weir-filter try`: one message and one script, step by step, and nothing comes of it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use weir_smtp::Envelope;
use weir_smtp::data::Findings;
use weir_smtp::envelope::{Mailbox, Path as Mail};

use super::live::{Asked, Counting, Live};
use super::samples::read;
use super::{Answer, Bounds, Context, Recorded, Replies, Script, ScriptError};
use crate::blocks::Blocker;
use crate::body::Body;
use crate::customers::{Customer as Known, Owner};
use crate::facts::Facts;
use crate::inside::Inside;
use crate::message::{Customer, Message, Transaction};
use crate::outside::Outside;
use crate::policy::Verdict;
use crate::quarantine::Quarantine;
use crate::rate::{self, Clock, Memory, Moment, Once};
use crate::reputation::Reputation;
use crate::scan::Scanners;

/// Of the script and of the message, in bytes.
const MAX_SCRIPT: u64 = 256 * 1024;
const MAX_MESSAGE: u64 = 100 * 1024 * 1024;

/// The id of a message that is only tried.
const ID: &str = "try";

/// What is tried.
#[derive(Debug)]
pub struct Trial {
    pub script: PathBuf,
    pub message: PathBuf,
    pub from: IpAddr,
    pub customer: Option<String>,
    pub helo: Option<String>,
    pub sender: String,
    pub recipients: Vec<String>,
    /// What scanners say; none is asked.
    pub recorded: Recorded,
    pub bounds: Bounds,
    pub replies: Replies,
    /// Who is asked for names, lists and over HTTP; none: nobody.
    pub outside: Option<Outside>,
    /// Which take and block nothing.
    pub quarantine: Quarantine,
    pub blocker: Blocker,
    pub reputation: Option<Reputation>,
    /// Of a node, whose counts are read from a copy of it.
    pub counters: Option<PathBuf>,
}

/// What came of it: of each time that an agent would ask, up to the first refusal.
#[derive(Debug)]
pub struct Outcome {
    pub parts: Vec<Part>,
}

/// One call of the script.
#[derive(Debug)]
pub struct Part {
    pub context: Context,
    /// Whom it was about.
    pub recipient: Option<String>,
    pub asked: Vec<Asked>,
    /// None: the script came to its end, which accepts.
    pub result: Result<Option<Verdict>, ScriptError>,
}

impl Trial {
    /// # Errors
    /// What cannot be read, or is no script.
    pub async fn run(&self) -> anyhow::Result<Outcome> {
        let source = String::from_utf8_lossy(&read(&self.script, MAX_SCRIPT)?).into_owned();
        let name = self.script.file_name().unwrap_or_default().to_string_lossy();
        let script = Script::new(&name, &source, self.bounds)?;
        let (transaction, octets) = self.message()?;
        let now = Clock::start().now();
        let memory = Memory::new(usize::MAX);
        if let Some(file) = &self.counters {
            restore(file, &memory, now)?;
        }
        let counters = Once::new(memory, 1);
        let scanners = Scanners::default();
        let customer = self.customer.clone().map(|id| Arc::new(Known { id, metadata: Map::new() }));
        let inside = Inside::alone();
        let mut parts = Vec::new();
        for (context, message) in steps(&script, &transaction, &octets) {
            let owner = Owner { customer: customer.clone(), ..Owner::default() };
            let facts = Facts::new(&message, &scanners).with_owner(owner).with_inside(&inside);
            let facts = facts.with_quarantine(Some(&self.quarantine)).with_blocker(&self.blocker);
            let mut facts = facts.with_reputation(self.reputation.as_ref());
            if let Some(outside) = &self.outside {
                facts = facts.with_outside(outside);
            }
            let counting = Counting::Store(&counters, "");
            let mut world = Live::new(&facts, context, counting, &self.replies, script.name(), now).await;
            (world.recorded, world.shown) = (Some(&self.recorded), Some(Vec::new()));
            (world.silent, world.only_asks) = (true, true);
            let result = script.call(&mut world).await;
            let asked = message.transaction.envelope.recipients.last().filter(|_| context == Context::Rcpt);
            let recipient = asked.map(|one| String::from_utf8_lossy(one.path.as_bytes()).into_owned());
            let ends = !matches!(result, Ok(None | Some(Verdict::Accept)));
            parts.push(Part { context, recipient, asked: world.shown.unwrap_or_default(), result });
            if ends {
                break;
            }
        }
        Ok(Outcome { parts })
    }

    fn message(&self) -> anyhow::Result<(Transaction, Bytes)> {
        let octets = read(&self.message, MAX_MESSAGE)?;
        let mailbox = |text: &str| Mailbox { path: Mail::new(text.as_bytes()), parameters: Vec::new() };
        let mut envelope = Envelope::new(mailbox(&self.sender));
        envelope.recipients = self.recipients.iter().map(|one| mailbox(one)).collect();
        let customer = Customer {
            address: self.from,
            port: None,
            helo: self.helo.clone(),
            protocol: None,
            destination: None,
        };
        let findings = Findings { size: octets.len() as u64, ..Findings::default() };
        let transaction = Transaction { id: ID.into(), customer, envelope, findings };
        Ok((transaction, octets.into()))
    }
}

/// What an agent would ask of this script, with what is known by then.
fn steps(script: &Script, transaction: &Transaction, octets: &Bytes) -> Vec<(Context, Message)> {
    let mut steps = Vec::new();
    for context in script.contexts() {
        let recipients = transaction.envelope.recipients.len();
        let known = match context {
            Context::Connect => 0..=0,
            Context::Rcpt => 1..=recipients,
            Context::Data => recipients..=recipients,
        };
        for known in known {
            let mut transaction = transaction.clone();
            transaction.envelope.recipients.truncate(known);
            let octets = if *context == Context::Data { octets.clone() } else { Bytes::new() };
            steps.push((*context, Message { transaction, body: Body::Memory(octets) }));
        }
    }
    steps
}

/// The counts of a node that may be running, which holds its file.
fn restore(file: &Path, memory: &Memory, now: Moment) -> anyhow::Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let directory = std::env::temp_dir().join(format!("weir-try-{:016x}", rand::random::<u64>()));
    std::fs::create_dir(&directory).context("no room for a copy of the counts")?;
    let copied = copy(file, &directory).and_then(|copy| {
        rate::File::open(&copy, memory, now)
            .context("the counts could not be read; if the node was just writing, try again")
    });
    let removed = std::fs::remove_dir_all(&directory);
    copied?;
    removed.context("the copy of the counts is still there")
}

/// With the journal that belongs to it while it is written.
fn copy(file: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let to = directory.join("counters");
    std::fs::copy(file, &to).with_context(|| format!("{}", file.display()))?;
    let mut journal = file.as_os_str().to_owned();
    journal.push("-journal");
    if Path::new(&journal).exists() {
        std::fs::copy(&journal, directory.join("counters-journal"))
            .with_context(|| format!("{}", Path::new(&journal).display()))?;
    }
    Ok(to)
}

impl Outcome {
    pub fn to_json(&self) -> Value {
        let asked: Vec<Value> = self.parts.iter().flat_map(Part::to_json).collect();
        let (verdict, reply) = self.told();
        json!({ "asked": asked, "verdict": verdict, "reply": reply })
    }

    /// A line for each step, then the verdict.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut number = 0;
        for part in &self.parts {
            if part.context != Context::Data || self.parts.len() > 1 {
                text.push_str(&format!("{}\n", part.name()));
            }
            for asked in &part.asked {
                number += 1;
                let arguments: Vec<String> =
                    asked.arguments.iter().map(|one| one.to_json().to_string()).collect();
                let answer = match &asked.answer {
                    Ok(Answer::Nil) => String::new(),
                    Ok(answer) => format!(" = {}", answer.to_json()),
                    Err(error) => format!(" failed: {error}"),
                };
                let call = format!("{}({})", asked.function, arguments.join(", "));
                text.push_str(&format!("{number:>3}. {call}{answer}\n"));
            }
        }
        let (verdict, reply) = self.told();
        text.push_str(&format!("verdict: {verdict}: {reply}\n"));
        text
    }

    fn told(&self) -> (&'static str, String) {
        let of_preset = || ("none", "the script has nothing against it; policy.preset judges it".to_owned());
        let Some(last) = self.parts.last() else { return of_preset() };
        match &last.result {
            Ok(None | Some(Verdict::Accept)) if last.context != Context::Data => of_preset(),
            Ok(Some(verdict)) => (verdict.name(), verdict.reply(ID).to_string()),
            Ok(None) => (Verdict::Accept.name(), Verdict::Accept.reply(ID).to_string()),
            Err(error) => {
                ("none", format!("the script failed: {error}; script.on_script_error says what follows"))
            }
        }
    }
}

impl Part {
    fn name(&self) -> String {
        let recipient = self.recipient.as_ref().map(|one| format!(" {one}")).unwrap_or_default();
        format!("{}{recipient}:", self.context.name())
    }

    fn to_json(&self) -> Vec<Value> {
        let of = |asked| step(self.context, self.recipient.as_deref(), asked);
        self.asked.iter().map(of).collect()
    }
}

fn step(context: Context, recipient: Option<&str>, asked: &Asked) -> Value {
    let arguments: Vec<Value> = asked.arguments.iter().map(Answer::to_json).collect();
    let (answer, error) = match &asked.answer {
        Ok(answer) => (answer.to_json(), Value::Null),
        Err(error) => (Value::Null, json!(error)),
    };
    json!({
        "context": context.name(),
        "recipient": recipient,
        "function": asked.function,
        "arguments": arguments,
        "answer": answer,
        "error": error,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Blocker, Quarantine, Trial, rate};
    use crate::config;
    use crate::policy::script::{Bounds, Recorded, Replies};
    use crate::rate::{Ask, Clock, Memory};

    fn trial(score: f64, counters: Option<&Path>) -> Trial {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        Trial {
            script: here.join("examples/seed-000.luau"),
            message: here.join("samples/php.eml"),
            from: "10.1.0.2".parse().unwrap(),
            customer: None,
            helo: None,
            sender: "s@example.org".into(),
            recipients: vec!["r@example.net".into()],
            recorded: Recorded { score, ..Recorded::default() },
            bounds: Bounds::default(),
            replies: Replies::default(),
            outside: None,
            quarantine: Quarantine::asked_only(&config::Quarantine { enabled: true, ..Default::default() }),
            blocker: Blocker::asked_only(&config::Script::default()),
            reputation: None,
            counters: counters.map(Path::to_owned),
        }
    }

    #[tokio::test]
    async fn every_step_is_shown_with_its_answer() {
        let text = trial(7.5, None).run().await.unwrap().to_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  1. rate(\"outbound-spam\", \"10.1.0.2\", 0, 86400) = 0");
        assert!(text.contains("scan(\"spamassassin\") = {\"score\":7.5,"), "{text}");
        assert!(text.contains("rate(\"outbound-spam\", \"10.1.0.2\", 200, 28800) = true"), "{text}");
        assert_eq!(lines.last(), Some(&"verdict: accept: 250 2.0.0 accepted (try)"));
        let json = trial(0.0, None).run().await.unwrap().to_json();
        assert_eq!((&json["verdict"], &json["asked"][0]["function"]), (&"accept".into(), &"rate".into()));
    }

    #[tokio::test]
    async fn samples_blocks_and_parts_are_shown_and_nothing_comes_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("p.luau");
        let text = "function data() quarantine() block(60, 'a bot') parts() block(86401, '') end";
        std::fs::write(&script, text).unwrap();
        let message = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/attachment.eml");
        let text = Trial { script, message, ..trial(9.0, None) }.run().await.unwrap().to_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  1. quarantine() = true");
        assert_eq!(lines[1], "  2. block(60, \"a bot\") = true");
        assert!(lines[2].contains("{\"parts\":[{\"part\":\"1\",\"type\":\"text/html\""), "{text}");
        assert!(lines[2].contains("\"class\":\""), "{text}");
        assert!(lines[3].ends_with("failed: seconds must be a whole number from 0 to 86400"), "{text}");
    }

    #[tokio::test]
    async fn the_counts_of_a_node_are_read_and_stay_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("counters.sqlite");
        let memory = Memory::new(10);
        let now = Clock::start().now();
        let mut file = rate::File::open(&path, &memory, now).unwrap();
        for _ in 0..100 {
            let ask = Ask {
                namespace: "outbound-minute",
                key: "10.1.0.2",
                limit: 100,
                seconds: 60,
                weight: 1,
                message: None,
            };
            memory.ask(ask, now);
        }
        file.save(&memory, now).unwrap();
        // The node still holds its file.
        let before = std::fs::read(&path).unwrap();
        let text = trial(0.0, Some(&path)).run().await.unwrap().to_text();
        assert!(
            text.ends_with(
                "verdict: defer: 451 4.7.1 You may only send 100 messages a minute, try later (try)\n"
            ),
            "{text}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

//! Scripts that change, and those that fail.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::Value;
use weir_smtp::envelope::{Mailbox, Path as MailPath};

use super::{Context, Keeper};
use crate::config::{Config, OnScriptError};
use crate::facts::Facts;
use crate::inside::Inside;
use crate::policy::Verdict;
use crate::rate::{Ask, Counters, Memory, Moment, Once};
use crate::scan::tests::message;
use crate::scan::{Scanned, Scanners};

const NOW: Moment = Moment(1_600_000_000_000);

/// A node with scripts in a directory of its own.
struct Node {
    directory: tempfile::TempDir,
    keeper: Keeper,
    counters: Once<Memory>,
    sent: AtomicU32,
}

fn config(script: Option<PathBuf>, candidate: Option<PathBuf>) -> Config {
    let text = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n";
    let mut config: Config = weir_daemon::config::parse("filter.toml", text).unwrap();
    (config.script.file, config.script.candidate) = (script, candidate);
    config
}

fn write(path: &Path, source: &str) {
    std::fs::write(path, source).unwrap();
}

impl Node {
    async fn new(script: &str, candidate: Option<&str>, on_error: OnScriptError) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        write(&path("script.luau"), script);
        if let Some(candidate) = candidate {
            write(&path("candidate.luau"), candidate);
        }
        let mut config = config(Some(path("script.luau")), candidate.map(|_| path("candidate.luau")));
        config.script.on_script_error = on_error;
        let keeper = Keeper::new(&config, &Scanners::default()).await.unwrap();
        Self { directory, keeper, counters: Once::new(Memory::new(1000), 1000), sent: AtomicU32::new(0) }
    }

    async fn change(&self, script: &str) {
        write(&self.directory.path().join("script.luau"), script);
        self.keeper.look_again(true).await;
    }

    async fn send(&self) -> Verdict {
        let mut message = message();
        message.transaction.id = format!("m{}", self.sent.fetch_add(1, Relaxed));
        let scanners = Scanners::default();
        let facts = Facts::new(&message, &scanners)
            .with_spamassassin(Scanned::Unscanned(crate::scan::Cause::NotConfigured));
        let preset = async {
            let ask = Ask { namespace: "n", key: "k", limit: 100, seconds: 60, weight: 1, message: None };
            self.counters.rate(&message.transaction.id, ask, NOW).await.unwrap();
            Verdict::Accept
        };
        let verdict = self.keeper.judge(Context::Data, &facts, &self.counters, NOW, preset).await;
        self.keeper.compare(Context::Data, &facts, &self.counters, NOW, &verdict).await;
        verdict
    }

    /// What is said to a recipient, or before there is one.
    async fn early(&self, context: Context, id: &str, recipients: &[&str]) -> String {
        let mut message = message();
        message.transaction.id = id.into();
        let mailbox = |path: &&str| Mailbox { path: MailPath::new(path.as_bytes()), parameters: Vec::new() };
        message.transaction.envelope.recipients = recipients.iter().map(mailbox).collect();
        let scanners = Scanners::default();
        let facts = Facts::new(&message, &scanners);
        let preset = std::future::ready(Verdict::Accept);
        self.keeper.judge(context, &facts, &self.counters, NOW, preset).await.reply("ID").to_string()
    }

    async fn replies(&self) -> String {
        self.send().await.reply("ID").to_string()
    }

    async fn sum(&self, namespace: &str) -> u64 {
        let ask = Ask { namespace, key: "k", limit: 0, seconds: 60, weight: 1, message: None };
        self.counters.counters().rate(ask, NOW).await.unwrap().sum
    }

    fn status(&self, of: &str) -> Value {
        self.keeper.status()[of].clone()
    }
}

/// Connections by the agent's ids, recipients one by one; what an agent asks again counts once.
#[tokio::test]
async fn connections_and_recipients_are_asked_about() {
    let script = "function connect(message)
        if message.sender or message.recipients then reject('too early') end
        if not rate('connections', 'k', 2, 60) then defer('connections') end
    end
    function rcpt(message)
        if message.recipient_domain == 'closed.test' then reject('no ' .. message.recipient) end
        if not rate('n', 'k', 2, 60) then defer(#message.recipients .. ' before') end
    end";
    let node = Node::new(script, None, OnScriptError::Preset).await;
    assert!(node.keeper.is_asked(Context::Rcpt) && !node.keeper.is_asked(Context::Data));
    let accepted = "250 2.0.0 accepted (ID)";
    for id in ["a-1", "a-2", "b-1", "a-3", "b-1"] {
        assert_eq!(node.early(Context::Connect, id, &[]).await, accepted, "{id}");
    }
    assert_eq!(node.early(Context::Connect, "c-1", &[]).await, "451 4.7.1 connections (ID)");
    for recipients in [["r@a.test"].as_slice(), &["r@a.test", "s@a.test"], &["r@a.test"]] {
        assert_eq!(node.early(Context::Rcpt, "a-1", recipients).await, accepted, "{recipients:?}");
    }
    let third = ["r@a.test", "s@a.test", "t@a.test"];
    assert_eq!(node.early(Context::Rcpt, "a-1", &third).await, "451 4.7.1 2 before (ID)");
    let closed = node.early(Context::Rcpt, "a-2", &["x@closed.test"]).await;
    assert_eq!(closed, "550 5.7.1 no x@closed.test (ID)");
    // At the end of data, of which this script says nothing, the preset judges.
    assert_eq!((node.replies().await.as_str(), node.sum("n").await), (accepted, 3));
}

/// However many recipients it lets pass.
#[tokio::test]
async fn a_script_that_fails_in_one_context_is_taken_out() {
    let node = Node::new(FIRST, None, OnScriptError::Preset).await;
    node.change(
        "function rcpt() end function data(message) if message.id:sub(1, 1) == 'm' then error('no') end end",
    )
    .await;
    assert_eq!(node.status("active")["refused"], Value::Null);
    for number in 0..300 {
        node.early(Context::Rcpt, &format!("x-{number}"), &["r@a.test"]).await;
    }
    for _ in 0..11 {
        node.send().await;
    }
    assert_eq!(node.replies().await, "550 5.7.1 first (ID)");
    assert!(node.status("active")["alarm"].is_string());
}

#[tokio::test]
async fn what_needs_the_message_is_refused_before_there_is_one() {
    let node = Node::new(FIRST, None, OnScriptError::Preset).await;
    node.change("function rcpt() if has('spamassassin') then scan('spamassassin') end end").await;
    let refused = node.status("active")["refused"].as_str().unwrap_or_default().to_owned();
    let expected = "script.luau: sample rcpt (one recipient, lists away): script.luau:1: scan: can be called in data only";
    assert!(refused.starts_with(expected), "{refused}");
}

const FIRST: &str = "function data() reject('first') end";

#[tokio::test]
async fn a_changed_script_is_taken_and_a_broken_one_is_not() {
    let node = Node::new(FIRST, None, OnScriptError::Preset).await;
    assert_eq!(node.replies().await, "550 5.7.1 first (ID)");
    node.change("function data() reject('second') end").await;
    assert_eq!(node.replies().await, "550 5.7.1 second (ID)");

    let broken = [
        ("function data(", "script.luau:1: "),
        ("x = 1", "script.luau has no function connect"),
        (
            "function data(message) return message.sender_domain:lower() end",
            "script.luau: sample plain.eml (no sender, clean): script.luau:1: attempt to index nil",
        ),
        ("function data() return scan('icap').infected end", "script.luau:1: scan: icap is not on this node"),
        (
            "function data() while true do end end",
            "script.luau: sample plain.eml (one recipient, clean): used more than 100 ms",
        ),
    ];
    for (source, expected) in broken {
        node.change(source).await;
        let refused = node.status("active")["refused"].as_str().unwrap_or_default().to_owned();
        assert!(refused.starts_with(expected), "{refused}");
        assert_eq!(node.replies().await, "550 5.7.1 second (ID)", "{source}");
    }
    std::fs::remove_file(node.directory.path().join("script.luau")).unwrap();
    node.keeper.look_again(false).await;
    assert!(node.status("active")["refused"].as_str().unwrap().contains("script.luau: No such file"));
    assert_eq!(node.replies().await, "550 5.7.1 second (ID)");

    node.change("function data() reject('third') end").await;
    assert_eq!(node.replies().await, "550 5.7.1 third (ID)");
    assert_eq!(node.status("active")["refused"], Value::Null);
}

#[tokio::test]
async fn samples_count_nothing() {
    let node =
        Node::new("function data() rate('n', 'k', 1000, 60) stat('a', 'b') end", None, OnScriptError::Preset)
            .await;
    assert_eq!((node.sum("n").await, node.status("stat")), (0, serde_json::json!({})));
    node.send().await;
    assert_eq!((node.sum("n").await, node.status("stat")), (1, serde_json::json!({"a/b": 1})));
}

/// Fails on live messages only: no sample has this id.
const FAILS: &str =
    "function data(message)\nrate('n', 'k', 100, 60)\nif message.id ~= 'sample' then error('live') end\nend";

#[tokio::test]
async fn one_that_fails_on_live_messages_goes_and_the_one_before_returns() {
    let node = Node::new(FIRST, None, OnScriptError::Defer).await;
    node.change(FAILS).await;
    for _ in 0..11 {
        assert_eq!(
            node.replies().await,
            "451 4.7.1 Temporarily unable to judge your message, try later (ID)"
        );
    }
    assert_eq!(node.replies().await, "550 5.7.1 first (ID)");
    let alarm = node.status("active")["alarm"].as_str().unwrap().to_owned();
    assert_eq!(
        alarm,
        "11 of its first 11 messages failed (script.luau:3: live): the script before is in use again"
    );
    // Nor does the same file return by itself.
    node.keeper.look_again(true).await;
    assert_eq!(node.replies().await, "550 5.7.1 first (ID)");
}

#[tokio::test]
async fn with_preset_what_a_failed_script_counted_is_not_counted_again() {
    let node = Node::new(FAILS, None, OnScriptError::Preset).await;
    for number in 1..=15 {
        assert_eq!(node.send().await, Verdict::Accept);
        assert_eq!(node.sum("n").await, number);
    }
    assert!(node.status("active")["alarm"].as_str().unwrap().ends_with("and there is no script before it"));
    assert_eq!(node.status("active")["errors"], 15);
}

#[tokio::test]
async fn a_candidate_is_compared_and_counts_for_itself() {
    let candidate = "function data()\nif not rate('n', 'k', 2, 60) then defer('too many') end\nend";
    let active = "function data() rate('n', 'k', 100, 60) accept() end";
    let node = Node::new(active, Some(candidate), OnScriptError::Preset).await;
    for _ in 0..5 {
        assert_eq!(node.send().await, Verdict::Accept);
    }
    assert_eq!((node.sum("n").await, node.sum("candidate:n").await), (5, 2));
    assert_eq!((node.status("compared"), node.status("differing")), (5.into(), 3.into()));
    assert_eq!(node.status("candidate")["calls"], 5);
}

/// Its sighting would count against the customer, also of a message that a limit refused.
#[tokio::test]
async fn a_candidate_counts_no_message_for_outbreaks() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let candidate = "function data() if scan('outbreak').cause == 'not-asked' then reject('x') end end";
    write(&path("candidate.luau"), candidate);
    // The verdicts are the same where the candidate is told what is expected.
    for (active, known) in
        [("function data() reject('a limit') end", false), ("function data() scan('outbreak') end", true)]
    {
        write(&path("script.luau"), active);
        let mut config = config(Some(path("script.luau")), Some(path("candidate.luau")));
        config.outbreak.enabled = true;
        let (scanners, inside) = (Scanners::default(), Inside::new(&config).unwrap());
        let keeper = Keeper::new(&config, &scanners).await.unwrap();
        let (message, counters) = (message(), Once::new(Memory::new(100), 100));
        let facts = Facts::new(&message, &scanners).with_inside(&inside);
        let preset = std::future::ready(Verdict::Accept);
        let verdict = keeper.judge(Context::Data, &facts, &counters, NOW, preset).await;
        keeper.compare(Context::Data, &facts, &counters, NOW, &verdict).await;
        let status = keeper.status();
        assert_eq!((&status["compared"], &status["differing"]), (&1.into(), &0.into()), "{active}: {status}");
        assert_eq!(facts.outbreak_if_known().is_some(), known, "{active}");
    }
}

#[tokio::test]
async fn a_key_that_is_asked_twice_is_counted_twice_and_a_replay_is_not() {
    let source = "function data() rate('n', 'k', 3, 60) if not rate('n', 'k', 3, 60) then defer('x') end end";
    let node = Node::new(source, None, OnScriptError::Preset).await;
    assert_eq!(node.send().await, Verdict::Accept);
    assert_eq!(node.sum("n").await, 2);
    node.sent.store(0, Relaxed);
    assert_eq!(node.send().await, Verdict::Accept);
    assert_eq!(node.sum("n").await, 2);
    assert_eq!(node.replies().await, "451 4.7.1 x (ID)");
    assert_eq!(node.sum("n").await, 3);
}

#[tokio::test]
async fn a_script_that_will_not_do_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("script.luau");
    let load = || async { Keeper::new(&config(Some(path.clone()), None), &Scanners::default()).await };
    assert!(load().await.unwrap_err().to_string().contains("script.luau: No such file"));
    write(&path, "function data() error('x') end");
    assert_eq!(
        load().await.unwrap_err().to_string(),
        "script.luau: sample plain.eml (one recipient, clean): script.luau:1: x"
    );
    write(&path, &format!("function data() end --{}", "x".repeat(300_000)));
    assert!(load().await.unwrap_err().to_string().ends_with("is larger than 262144 bytes"));
}

#[tokio::test]
async fn the_examples_are_taken_by_a_node_without_scanners() {
    for name in ["seed-000.luau", "seed-001.luau", "seed-003.luau"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
        Keeper::new(&config(Some(path), None), &Scanners::default()).await.unwrap();
    }
}

//! Counts in a real Redis against those in memory: whatever is asked when, both say the same. (That those in memory are
//! right is tested against a log of every message.)

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use proptest::prelude::*;
use tokio::runtime::Runtime;
use weir_filter::rate::{Answer, Ask, Memory, Moment, Shared};

const PATIENCE: Duration = Duration::from_secs(30);

/// Ended when it is dropped.
struct Redis {
    process: Child,
    directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> anyhow::Result<Self> {
        let packages = build_directory().join("packages/redis");
        let program = packages.join("usr/bin/redis-server");
        ensure!(program.exists(), "{} is missing: run `scripts/install-deps lab`", program.display());
        let directory = tempfile::tempdir()?;
        let process = Command::new(program)
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "socket", "--dir"])
            .arg(directory.path())
            .current_dir(directory.path())
            .env("LD_LIBRARY_PATH", packages.join("usr/lib/x86_64-linux-gnu"))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { process, directory })
    }

    async fn counts(&self) -> anyhow::Result<Arc<Shared>> {
        let socket = self.directory.path().join("socket");
        let shared = Shared::new(&format!("unix://{}", socket.display()))?;
        tokio::spawn(Arc::clone(&shared).stay_connected());
        let until = Instant::now() + PATIENCE;
        while !shared.state().here {
            ensure!(Instant::now() < until, "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(shared)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn build_directory() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(beside, PathBuf::from)
}

/// One call of `rate`.
#[derive(Debug, Clone)]
struct Step {
    namespace: u8,
    key: u8,
    limit: u64,
    seconds: u64,
    weight: u64,
    /// Of a message that may have been told to another node before.
    message: Option<u8>,
    /// Milliseconds since the one before.
    after: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let seconds = prop_oneof![Just(60), Just(61), Just(3600), Just(28_800), Just(86_400), 60u64..100_000];
    let after = prop_oneof![0u64..3000, 0u64..100_000, 0u64..40_000_000];
    let message = proptest::option::of(0u8..10);
    (0u8..2, 0u8..3, 0u64..12, seconds, 1u64..5, message, after).prop_map(
        |(namespace, key, limit, seconds, weight, message, after)| Step {
            namespace,
            key,
            limit,
            seconds,
            weight,
            message,
            after,
        },
    )
}

/// What memory says of a message: the node remembers those that it has counted, as the store does.
struct Model {
    memory: Memory,
    counted: Vec<(u8, u8, u8)>,
}

impl Model {
    fn ask(&mut self, step: &Step, ask: Ask<'_>, now: Moment) -> Answer {
        let name = step.message.map(|message| (step.namespace, step.key, message));
        if ask.limit > 0 && name.is_some_and(|name| self.counted.contains(&name)) {
            return Answer { within: true, sum: self.memory.ask(Ask { limit: 0, ..ask }, now).sum };
        }
        let answer = self.memory.ask(ask, now);
        if answer.within {
            self.counted.extend(name);
        }
        answer
    }
}

async fn agree(shared: &Shared, case: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Model { memory: Memory::new(1000), counted: Vec::new() };
    let mut now = Moment(1_600_000_000_000);
    for step in steps {
        now.0 += step.after;
        let namespace = format!("{case}-{}", step.namespace);
        let key = format!("10.1.0.{}", step.key);
        let Step { limit, seconds, weight, .. } = *step;
        let message = step.message.map(|message| format!("{case}-{message}"));
        let ask = Ask { namespace: &namespace, key: &key, limit, seconds, weight, message: None };
        let expected = model.ask(step, ask, now);
        let said = shared.rate(Ask { message: message.as_deref(), ..ask }, Some(now)).await;
        prop_assert_eq!(said, Ok(expected), "{:?}", step);
    }
    Ok(())
}

#[test]
fn redis_counts_as_memory_does() {
    let runtime = Runtime::new().unwrap();
    let redis = Redis::start().unwrap();
    let shared = runtime.block_on(redis.counts()).unwrap();
    let case = AtomicU64::new(0);
    proptest!(|(steps in prop::collection::vec(step(), 1..80))| {
        let case = case.fetch_add(1, Ordering::Relaxed);
        runtime.block_on(agree(&shared, case, &steps))?;
    });
}

/// What is beneath a key goes with it, and nothing else: not even of a key that would match as a pattern.
#[test]
fn a_key_is_forgotten_with_what_is_beneath_it() {
    let runtime = Runtime::new().unwrap();
    let redis = Redis::start().unwrap();
    runtime.block_on(async {
        let shared = redis.counts().await.unwrap();
        let now = Some(Moment(1_600_000_000_000));
        let ask =
            |namespace, key, limit| Ask { namespace, key, limit, seconds: 3600, weight: 1, message: None };
        let keys = [
            "10.1.0.1",
            "10.1.0.1 example.net",
            "10.1.0.1 [*]",
            "10.1.0.10",
            "10.1.0.10 example.net",
            "* example.net",
        ];
        let sums = async || {
            let mut sums = Vec::new();
            for namespace in ["hour", "domain"] {
                for key in keys {
                    sums.push(shared.rate(ask(namespace, key, 0), now).await.unwrap().sum);
                }
            }
            sums
        };
        for namespace in ["hour", "domain"] {
            for key in keys {
                assert!(shared.rate(ask(namespace, key, 9), now).await.unwrap().within);
            }
        }
        let shown = async |keys: &[&str], most| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let shown = shared.show(&keys, most, now).await.unwrap();
            shown.into_iter().map(|one| format!("{} {}", one.namespace, one.key)).collect::<Vec<_>>()
        };
        assert_eq!(shown(&["*"], 10).await, ["domain * example.net", "hour * example.net"]);
        let six = [keys[0], keys[2], keys[1]].map(|key| ["domain", "hour"].map(|of| format!("{of} {key}")));
        assert_eq!(shown(&["10.1.0.1", "10.1.0.3"], 10).await, six.concat());
        assert_eq!(shown(&["10.1.0.1"], 2).await, six.concat()[..2]);
        shared.forget(Some("domain"), "10.1.0.1").await.unwrap();
        assert_eq!(sums().await, [1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1]);
        shared.forget(None, "10.1.0.1").await.unwrap();
        assert_eq!(sums().await, [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]);
        shared.forget(None, "*").await.unwrap();
        assert_eq!(sums().await, [0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0]);
    });
}

use std::sync::Arc;

use weir_daemon::audit::Audit;

use super::*;
use crate::config::{Config, Customers as CustomersConfig, Script};
use crate::facts::Facts;
use crate::rate::{Memory, Moment, Once};
use crate::scan::Scanners;
use crate::scan::tests::message;
use crate::together::together;

fn customers() -> Customers {
    let text = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n\
                [[customers.prefixes]]\nprefix = \"10.1.7.0/24\"\nid = \"a\"\n\
                [[customers.prefixes]]\nprefix = \"10.1.7.9/32\"\nid = \"b\"\n";
    let config: CustomersConfig = weir_daemon::config::parse::<Config>("f", text).unwrap().customers;
    Customers::new(&config).unwrap()
}

fn who(text: &str) -> Who {
    Who::try_from(text.to_owned()).unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_customer_is_blocked_with_all_his_addresses() {
    let (customers, directory) = (customers(), tempfile::tempdir().unwrap());
    let path = directory.path().join("blocks.json");
    let blocks = Blocks::open(Some(&path), "abuse@example.net").unwrap();
    let version = *blocks.watch().borrow();
    blocks.block(&customers, &who("a"), HOUR, "a bot", "operator").unwrap();
    assert!(*blocks.watch().borrow() > version);
    let told = blocks.for_agents(&customers).blocks.remove(0);
    assert!(told.prefixes.contains(&"10.1.7.128/25".to_owned()), "{told:?}");
    assert!(!told.prefixes.contains(&"10.1.7.9/32".to_owned()) && (3599..=3600).contains(&told.seconds_left));
    let owner = customers.of(address("10.1.7.1")).await.owner;
    let text = blocks.of(address("10.1.7.1"), &owner).unwrap();
    assert_eq!(text, "Your mail is blocked by your provider: a bot; contact abuse@example.net");
    let other = customers.of(address("10.1.7.9")).await.owner;
    assert_eq!(blocks.of(address("10.1.7.9"), &other), None);
    // An address that only a service knows is stopped from the first message on.
    let elsewhere = Owner { prefix: None, ..owner };
    let version = *blocks.watch().borrow();
    assert!(blocks.of(address("fd01::7"), &elsewhere).is_some() && *blocks.watch().borrow() > version);
    let prefixes = blocks.for_agents(&customers).blocks.remove(0).prefixes;
    assert!(prefixes.contains(&"fd01::/64".to_owned()), "{prefixes:?}");
    blocks.forget(address("fd01::8"));
    assert!(!blocks.for_agents(&customers).blocks.remove(0).prefixes.contains(&"fd01::/64".to_owned()));
    // They outlive the process.
    let again = Blocks::open(Some(&path), "").unwrap();
    assert_eq!((again.len(), again.list(&customers)[0]["by"].as_str()), (1, Some("operator")));
    again.unblock(&who("a")).unwrap();
    assert!(Blocks::open(Some(&path), "").unwrap().is_empty());
    std::fs::write(&path, "{").unwrap();
    assert!(Blocks::open(Some(&path), "").unwrap_err().to_string().contains("nobody knows who was blocked"));
}

#[tokio::test]
async fn a_prefix_is_blocked_whoever_it_is() {
    let (customers, blocks) = (customers(), Blocks::open(None, "").unwrap());
    let nobody = Owner::default();
    blocks.block(&customers, &who("10.2.0.0/16"), HOUR, "", "operator").unwrap();
    blocks.block(&customers, &who("10.3.0.1"), Duration::from_secs(1), "", "policy").unwrap();
    assert!(blocks.of(address("10.2.255.255"), &nobody).unwrap().contains("no reason is given"));
    assert!(blocks.of(address("10.4.0.1"), &nobody).is_none());
    std::thread::sleep(Duration::from_millis(1100));
    assert!(blocks.of(address("10.3.0.1"), &nobody).is_none() && blocks.len() == 2);
    blocks.sweep();
    assert_eq!(blocks.len(), 1);
    // A new owner of one address ends blocks of that address, not those around it.
    blocks.forget(address("10.2.0.1"));
    assert_eq!(blocks.len(), 1);
}

#[test]
fn what_cannot_be_blocked() {
    for (text, words) in [
        ("10.1.7.1/24", "bits behind its length"),
        ("0.0.0.0/0", "too much for a block"),
        ("fd00::/8", "too much for a block"),
        ("", "1 to 128 characters"),
    ] {
        let error = Who::try_from(text.to_owned()).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(who("fd01::7").to_string(), "fd01::/64");
    let (customers, blocks) = (customers(), Blocks::open(None, "").unwrap());
    let block = |seconds, reason: &str| {
        let duration = Duration::from_secs(seconds);
        blocks.block(&customers, &who("a"), duration, reason, "operator").map_err(|error| error.to_string())
    };
    assert!(block(0, "").unwrap_err().contains("accepted: 1 to"));
    assert!(block(60, "two\nlines").unwrap_err().contains("one line"));
    assert!(blocks.unblock(&who("a")).unwrap_err().to_string().contains("a is not blocked"));
}

/// Scripts that block, and what is left of it.
struct Scripts {
    blocker: Blocker,
    blocks: Arc<Blocks>,
    customers: Arc<Customers>,
    counters: Once<Memory>,
    directory: tempfile::TempDir,
}

impl Scripts {
    fn new(max_blocks_per_hour: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (blocks, customers) = (Arc::new(Blocks::open(None, "").unwrap()), Arc::new(customers()));
        let audit = Audit::new("weir-filter", &directory.path().join("audit"));
        let config = Script { max_blocks_per_hour, ..Script::default() };
        let blocker = Blocker::new(&config, blocks.clone(), customers.clone(), audit);
        Self { blocker, blocks, customers, counters: Once::new(Memory::new(100), 100), directory }
    }

    async fn block(&self, id: &str, from: &str, only_asks: bool) -> bool {
        let mut message = message();
        id.clone_into(&mut message.transaction.id);
        message.transaction.customer.address = address(from);
        let owner = self.customers.of(address(from)).await.owner;
        let scanners = Scanners::default();
        let facts = Facts::new(&message, &scanners).with_owner(owner);
        let (script, reason, before) = ("p.luau", "a bot", if only_asks { "candidate:" } else { "" });
        let order = Order { script, duration: HOUR, reason, before, now: Moment(1_000_000), only_asks };
        self.blocker.block(&facts, &self.counters, order).await
    }

    fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("audit")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_script_blocks_whoever_sends_and_not_too_many() {
    let scripts = Scripts::new(2);
    assert!(scripts.block("m0", "10.1.7.1", true).await, "a candidate would");
    assert!(scripts.blocks.is_empty() && scripts.audit().is_empty());
    assert!(scripts.block("m1", "10.1.7.1", false).await);
    let list = scripts.blocks.list(&scripts.customers);
    assert_eq!(
        (&list[0]["who"], &list[0]["by"], &list[0]["reason"]),
        (&"a".into(), &"p.luau".into(), &"a bot".into())
    );
    let line = &scripts.audit()[0];
    assert_eq!((&line["action"], &line["arguments"]["who"]), (&"block".into(), &"a".into()), "{line}");
    assert_eq!(
        (&line["arguments"]["script"], &line["arguments"]["message"]),
        (&"p.luau".into(), &"m1".into())
    );
    // Another address of his: he is blocked already, which counts for nothing.
    assert!(scripts.block("m2", "10.1.7.2", false).await);
    assert!(scripts.block("m3", "fd01::7", false).await);
    assert!(scripts.blocks.has(&who("fd01::/64")) && scripts.blocks.len() == 2);
    assert!(!scripts.block("m4", "10.9.0.1", false).await, "a third in this hour");
    assert_eq!((scripts.blocks.len(), scripts.audit().len()), (2, 2));
    let status = scripts.blocker.status();
    assert_eq!((&status["blocked"], &status["refused"]), (&2.into(), &1.into()), "{status}");
    assert!(status["alarm"].as_str().unwrap().contains("more than 2 customers in an hour"), "{status}");
}

/// As a bot's messages are, which come all at once.
#[tokio::test]
async fn many_messages_of_one_customer_leave_the_blocks_of_others_to_them() {
    let scripts = Scripts::new(2);
    let ids: Vec<String> = (0..10).map(|number| format!("m{number}")).collect();
    let done = together(ids.iter().map(|id| scripts.block(id, "10.1.7.1", false))).await;
    assert_eq!((done, scripts.blocks.len(), scripts.audit().len()), (vec![true; 10], 1, 1));
    // Nor does it count again if he is blocked anew in this hour.
    scripts.blocks.unblock(&who("a")).unwrap();
    assert!(scripts.block("m10", "10.1.7.2", false).await);
    assert!(scripts.block("m11", "fd01::7", false).await, "the second customer of two");
    assert!(!scripts.block("m12", "10.9.0.1", false).await);
    let status = scripts.blocker.status();
    assert_eq!((&status["blocked"], &status["refused"]), (&3.into(), &1.into()), "{status}");
    let asked = together(ids.iter().map(|id| scripts.block(id, "10.8.0.1", true))).await;
    assert_eq!(asked, [true; 10], "a candidate's are counted in the same way");
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_done_and_none_is_none() {
    let scripts = Scripts::new(0);
    assert!(!scripts.block("m1", "10.1.7.1", false).await);
    let mut scripts = Scripts::new(2);
    let nowhere = Audit::new("weir-filter", Path::new("/proc/none/audit"));
    scripts.blocker =
        Blocker::new(&Script::default(), scripts.blocks.clone(), scripts.customers.clone(), nowhere);
    assert!(!scripts.block("m1", "10.1.7.1", false).await);
    assert!(scripts.blocks.is_empty() && scripts.blocker.status()["failed"] == 1);
}

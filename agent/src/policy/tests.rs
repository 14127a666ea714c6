//! Rules, on steering that can be told to fail.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use tempfile::TempDir;

use super::{Author, Policy, PolicyError, Refusals, Release, Steering};
use crate::source::Source;
use crate::steer::{BootTime, Connections, Pair, Refusal, RuleKind, Rules, SteerError, Tables, Terms};

const HOUR: Duration = Duration::from_secs(3600);
const DESTINATION: &str = "192.0.2.25";

/// What the kernel would have, and whether it takes changes.
#[derive(Debug, Default)]
struct Kernel {
    exempt: BTreeMap<Pair, Terms>,
    rules: BTreeMap<RuleKind, Rules>,
    released: Option<BootTime>,
    fails: bool,
}

struct Recorded(Arc<Mutex<Kernel>>);

impl Recorded {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<Pair, Terms>)) -> Result<(), SteerError> {
        let mut kernel = self.0.lock().unwrap();
        if kernel.fails {
            return Err(SteerError::OwnRules("say so"));
        }
        change(&mut kernel.exempt);
        Ok(())
    }
}

impl Steering for Recorded {
    fn withdraw(&mut self) -> Result<(), SteerError> {
        Ok(())
    }
    fn remove(&mut self) -> Result<(), SteerError> {
        Ok(())
    }
    fn exempt(&mut self, pairs: &[(Pair, Terms)]) -> Result<(), SteerError> {
        self.change(|exempt| exempt.extend(pairs.iter().copied()))
    }
    fn unexempt(&mut self, pairs: &[Pair]) -> Result<(), SteerError> {
        self.change(|exempt| exempt.retain(|pair, _| !pairs.contains(pair)))
    }
    fn release(&mut self, until: Option<BootTime>) -> Result<(), SteerError> {
        self.change(|_| {})?;
        self.0.lock().unwrap().released = until;
        Ok(())
    }
    fn set_tables(&mut self, _: &Tables) -> Result<(), SteerError> {
        self.change(|_| {})
    }
    fn set_rules(&mut self, kind: RuleKind, rules: &Rules) -> Result<(), SteerError> {
        self.change(|_| {})?;
        self.0.lock().unwrap().rules.insert(kind, rules.clone());
        Ok(())
    }
    fn applied(&mut self, _: RuleKind) -> Result<BTreeMap<IpNet, u64>, SteerError> {
        Ok(BTreeMap::new())
    }
    fn passed(&mut self, _: &[Pair]) -> Result<BTreeMap<Pair, u64>, SteerError> {
        Ok(BTreeMap::new())
    }
    fn connections(&mut self) -> Result<Option<Box<dyn Connections>>, SteerError> {
        Ok(None)
    }
    fn counters(&mut self) -> Result<BTreeMap<String, u64>, SteerError> {
        Ok(BTreeMap::new())
    }
    fn problems(&mut self) -> Vec<String> {
        Vec::new()
    }
}

struct World {
    directory: TempDir,
    policy: Policy,
    steering: Mutex<Box<dyn Steering>>,
    kernel: Arc<Mutex<Kernel>>,
    refusals: Refusals,
}

fn open(directory: &Path) -> Policy {
    Policy::open(
        directory,
        &["10.1.0.0/16", "10.3.0.0/16", "fd01::/32"].map(|prefix| prefix.parse().unwrap()),
    )
}

fn world() -> World {
    let directory = TempDir::new().unwrap();
    let kernel = Arc::<Mutex<Kernel>>::default();
    World {
        policy: open(&directory.path().join("weir")),
        refusals: Refusals::open(directory.path()),
        directory,
        steering: Mutex::new(Box::new(Recorded(kernel.clone()))),
        kernel,
    }
}

impl World {
    fn exempt(&self, pair: Pair) -> Result<super::Exemption, PolicyError> {
        self.policy.exempt(&self.steering, pair, HOUR, "why")
    }

    fn wants(&self, pairs: &[Pair]) {
        self.policy.exempt_wanting(&self.steering, &self.refusals, pairs);
    }

    fn refused(&self, customer: &str) {
        self.refusals.add(Source::of(address(customer)), BootTime::now());
    }

    fn sweep(&self) {
        self.policy.sweep(&self.steering, &self.refusals);
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("weir/policy.json")
    }

    /// The next agent, on the same files.
    fn restart(&mut self) {
        self.policy = open(&self.directory.path().join("weir"));
        self.kernel.lock().unwrap().exempt = self.policy.in_force().into_iter().collect();
    }

    /// Customers that are exempt, as the list and the kernel have it, which must be the same.
    #[track_caller]
    fn exempt_customers(&self) -> Vec<String> {
        let listed: Vec<Pair> = self.policy.list().into_iter().map(|(pair, _)| pair).collect();
        let kernel: Vec<Pair> = self.kernel.lock().unwrap().exempt.keys().copied().collect();
        assert_eq!(listed, kernel);
        listed.iter().map(|pair| pair.customer().to_string()).collect()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pair(customer: &str, destination: &str) -> Pair {
    Pair::new(address(customer), address(destination)).unwrap()
}

#[test]
fn what_the_operator_says_holds_until_it_is_over_and_survives_restarts() {
    let mut world = world();
    let (v4, v6) = (pair("10.1.0.2", DESTINATION), pair("fd01::2", "2001:db8::25"));
    assert!(!world.file().exists(), "nothing to keep, nothing on the disk");
    for pair in [v4, v6] {
        world.exempt(pair).unwrap();
    }
    assert_eq!(world.exempt_customers(), ["10.1.0.2", "fd01::2"]);
    assert!(world.kernel.lock().unwrap().exempt.values().all(|terms| !terms.limited));
    assert_eq!(fs::metadata(world.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let before = world.policy.list();
    world.restart();
    let after = world.policy.list();
    assert_eq!(world.exempt_customers(), ["10.1.0.2", "fd01::2"]);
    for ((_, before), (_, after)) in before.iter().zip(&after) {
        assert_eq!((before.by, &before.reason), (after.by, &after.reason));
        let apart = before.until.since(after.until) + after.until.since(before.until);
        assert!(apart <= Duration::from_secs(2), "{apart:?}");
    }
    world.policy.unexempt(&world.steering, v4).unwrap();
    assert_eq!(world.exempt_customers(), ["fd01::2"]);
    assert!(matches!(world.policy.unexempt(&world.steering, v4), Err(PolicyError::NotExempt { .. })));
    world.restart();
    assert_eq!(world.exempt_customers(), ["fd01::2"]);
}

#[test]
fn what_is_over_goes() {
    let mut world = world();
    let second = Duration::from_secs(1);
    world.policy.exempt(&world.steering, pair("10.1.0.2", DESTINATION), second, "").unwrap();
    world.exempt(pair("10.1.0.3", DESTINATION)).unwrap();
    world.sweep();
    assert_eq!(world.exempt_customers(), ["10.1.0.2", "10.1.0.3"]);
    std::thread::sleep(second);
    assert_eq!(world.policy.list().len(), 1, "listed is what holds");
    world.sweep();
    assert_eq!(world.exempt_customers(), ["10.1.0.3"]);
    assert!(!fs::read_to_string(world.file()).unwrap().contains("10.1.0.2"));
    world.restart();
    assert_eq!(world.exempt_customers(), ["10.1.0.3"]);
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let world = world();
    let ask = |pair, duration, reason| {
        world.policy.exempt(&world.steering, pair, duration, reason).unwrap_err().to_string()
    };
    let good = pair("10.1.0.2", DESTINATION);
    for (error, words) in [
        (ask(pair("10.2.0.2", DESTINATION), HOUR, ""), "customers.prefixes"),
        (ask(pair("fd02::2", "fd01::2"), HOUR, ""), "customers.prefixes"),
        (ask(good, Duration::ZERO, ""), "1 s to 365 d"),
        (ask(good, Duration::from_secs(365 * 86_400 + 1), ""), "1 s to 365 d"),
        (ask(good, HOUR, "two\nlines"), "one line"),
        (ask(good, HOUR, &"x".repeat(201)), "200 characters"),
    ] {
        assert!(error.contains(words), "{error}");
    }
    assert!(Pair::new(address("10.1.0.2"), address("fd02::2")).is_none());
    assert_eq!(pair("::ffff:10.1.0.2", DESTINATION), good);
    assert_eq!(world.exempt_customers(), Vec::<String>::new());
}

#[test]
fn what_fails_half_way_is_taken_back() {
    let world = world();
    world.kernel.lock().unwrap().fails = true;
    assert!(matches!(world.exempt(pair("10.1.0.2", DESTINATION)), Err(PolicyError::Steering(_))));
    world.kernel.lock().unwrap().fails = false;
    assert_eq!(world.exempt_customers(), Vec::<String>::new());

    // A directory where the file should be: it cannot be replaced.
    fs::create_dir_all(world.file().join("in the way")).unwrap();
    let error = world.exempt(pair("10.1.0.2", DESTINATION)).unwrap_err();
    assert!(error.to_string().contains("policy.json"), "{error}");
    assert_eq!(world.exempt_customers(), Vec::<String>::new());
    // By itself a pair is exempted none the less, and written down when that works again.
    world.wants(&[pair("10.1.0.3", DESTINATION)]);
    assert_eq!(world.exempt_customers(), ["10.1.0.3"]);
    fs::remove_dir_all(world.file()).unwrap();
    world.sweep();
    assert!(fs::read_to_string(world.file()).unwrap().contains("10.1.0.3"));
}

#[test]
fn a_file_that_cannot_be_read_is_set_aside() {
    let rule = |more: &str| format!("{{\"version\": 1, \"rules\": [{{\"kind\": \"exempt_pair\", {more}}}]}}");
    let cut = "{\"version\": 1, \"rules\": [{\"kind\": \"exempt_pair\", \"custo";
    let mixed = rule(
        "\"customer\": \"10.1.0.2\", \"destination\": \"fd02::2\", \"until\": 9999999999, \"by\": \"operator\", \"reason\": \"\"",
    );
    for content in [
        "".as_bytes(),
        b"\0\0\0\0",
        cut.as_bytes(),
        b"[]",
        mixed.as_bytes(),
        b"{\"version\": 2, \"rules\": []}",
        b"{\"version\": 1, \"rules\": [{\"kind\": \"exempt_moon\"}]}",
        b"{\"version\": 1, \"rules\": [], \"more\": 1}",
        b"\xff\xfe",
    ] {
        let mut world = world();
        fs::create_dir_all(world.file().parent().unwrap()).unwrap();
        for _ in 0..2 {
            fs::write(world.file(), content).unwrap();
            world.restart();
            assert_eq!(world.exempt_customers(), Vec::<String>::new());
        }
        let kept = fs::read_dir(world.file().parent().unwrap()).unwrap();
        let kept: Vec<_> = kept.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
        assert_eq!(kept, [content, content], "both are kept, and not in the place of the next");
        world.exempt(pair("10.1.0.2", DESTINATION)).unwrap();
        world.restart();
        assert_eq!(world.exempt_customers(), ["10.1.0.2"]);
    }
}

#[test]
fn rules_of_no_customer_are_dropped_and_times_bounded() {
    let mut world = world();
    fs::create_dir_all(world.file().parent().unwrap()).unwrap();
    let rule = |customer: &str, until: u64| {
        format!(
            "{{\"kind\": \"exempt_pair\", \"customer\": \"{customer}\", \"destination\": \"{DESTINATION}\", \
             \"until\": {until}, \"by\": \"wanted_tls\", \"reason\": \"\"}}"
        )
    };
    let rules = [rule("10.1.0.2", u64::MAX), rule("10.2.0.2", u64::MAX), rule("10.1.0.3", 1)].join(", ");
    fs::write(world.file(), format!("{{\"version\": 1, \"rules\": [{rules}]}}")).unwrap();
    world.restart();
    assert_eq!(world.exempt_customers(), ["10.1.0.2"]);
    let (_, exemption) = &world.policy.list()[0];
    assert!(exemption.until.since(BootTime::now()) <= super::MAX_DURATION);
    assert_eq!(exemption.by, Author::WantedTls);
}

#[test]
fn by_itself_only_whose_mail_was_not_refused() {
    let world = world();
    world.refused("10.1.0.3");
    world.refused("fd01::2");
    world.wants(&[
        pair("10.1.0.2", DESTINATION),
        pair("10.1.0.3", DESTINATION),
        pair("fd01::ffff", "fd02::2"),
        pair("10.2.0.2", DESTINATION),
    ]);
    assert_eq!(world.exempt_customers(), ["10.1.0.2"]);
    assert!(world.kernel.lock().unwrap().exempt.values().all(|terms| terms.limited));
    assert_eq!(world.policy.list()[0].1.by, Author::WantedTls);
    // The operator may know better; his word has no limit, and no refusal ends it.
    world.exempt(pair("10.1.0.3", DESTINATION)).unwrap();
    world.refused("10.1.0.2");
    world.refused("10.1.0.3");
    world.sweep();
    assert_eq!(world.exempt_customers(), ["10.1.0.3"]);
    world.wants(&[pair("10.1.0.3", DESTINATION)]);
    assert_eq!(world.policy.list()[0].1.by, Author::Operator);
}

#[test]
fn what_could_not_be_ended_is_ended_later() {
    let world = world();
    world.wants(&[pair("10.1.0.2", DESTINATION)]);
    world.refused("10.1.0.2");
    world.kernel.lock().unwrap().fails = true;
    world.sweep();
    assert_eq!(world.exempt_customers(), ["10.1.0.2"]);
    world.kernel.lock().unwrap().fails = false;
    world.sweep();
    assert_eq!(world.exempt_customers(), Vec::<String>::new());
}

#[test]
fn by_itself_only_so_many_destinations_of_a_customer() {
    let world = world();
    for number in 0..30 {
        world.wants(&[pair("10.1.0.2", &format!("192.0.2.{number}"))]);
        world.wants(&[pair(&format!("fd01::{number:x}"), "fd02::2")]);
    }
    assert_eq!(world.exempt_customers().len(), 40);
    // The others are not affected, nor is the operator.
    world.wants(&[pair("10.1.0.1", DESTINATION), pair("fd01:0:0:1::1", "fd02::2")]);
    world.exempt(pair("10.1.0.2", "192.0.2.99")).unwrap();
    assert_eq!(world.exempt_customers().len(), 43);
}

#[test]
fn a_release_is_kept_for_the_next_start_until_it_ends() {
    let world = world();
    let (directory, steering) = (world.directory.path().join("weir"), &world.steering);
    let kernel = || world.kernel.lock().unwrap().released;
    let release = Release::open(&directory);
    assert_eq!(release.until(), None);
    assert!(matches!(release.end(steering), Err(PolicyError::NotReleased)));
    for wrong in [Duration::ZERO, Duration::from_secs(8 * 86_400)] {
        assert!(matches!(release.begin(steering, wrong), Err(PolicyError::ReleaseDuration { .. })));
    }
    release.begin(steering, HOUR).unwrap();
    release.sweep(steering);
    assert!(kernel().is_some() && kernel() == release.until());

    let next = Release::open(&directory);
    let left = next.until().unwrap().since(BootTime::now());
    assert!(left <= HOUR && left > HOUR.checked_sub(Duration::from_secs(5)).unwrap(), "{left:?}");
    world.kernel.lock().unwrap().fails = true;
    assert!(next.end(steering).is_err() && next.until().is_some(), "it goes on where the kernel goes on");
    world.kernel.lock().unwrap().fails = false;
    next.end(steering).unwrap();
    assert_eq!((kernel(), next.until()), (None, None));
    assert_eq!(Release::open(&directory).until(), None);
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl World {
    fn add(&self, kind: RuleKind, prefix: &str, refusal: Refusal) -> Result<super::PrefixRule, PolicyError> {
        self.policy.add_rule(&self.steering, kind, net(prefix), (HOUR, refusal, "why"))
    }

    /// The rules of a kind, as the list and the kernel have them, which must be the same.
    #[track_caller]
    fn prefixes(&self, kind: RuleKind) -> Vec<String> {
        let listed = self.policy.list_rules(&self.steering).into_iter().filter(|rule| rule.kind == kind);
        let listed: Vec<IpNet> = listed.map(|rule| rule.prefix).collect();
        let kernel = self.kernel.lock().unwrap();
        let kernel: Vec<IpNet> = kernel.rules.get(&kind).into_iter().flatten().map(|(net, _)| *net).collect();
        assert_eq!(listed, kernel);
        listed.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn rules_for_prefixes_survive_restarts_and_end() {
    let mut world = world();
    for (prefix, refusal) in [("10.1.7.0/24", Refusal::Reset), ("10.0.0.0/8", Refusal::Drop)] {
        world.add(RuleKind::Blocked, prefix, refusal).unwrap();
    }
    world.add(RuleKind::ExemptCustomer, "fd01::/48", Refusal::Drop).unwrap();
    world.add(RuleKind::ExemptDestination, "192.0.2.0/24", Refusal::Drop).unwrap();
    let all = |world: &World| RuleKind::ALL.map(|kind| world.prefixes(kind).join(" "));
    let expected = ["10.0.0.0/8 10.1.7.0/24", "fd01::/48", "192.0.2.0/24"];
    assert_eq!(all(&world), expected);
    let before = world.policy.list_rules(&world.steering);
    world.policy = open(&world.directory.path().join("weir"));
    world.kernel.lock().unwrap().rules = world.policy.rules_in_force();
    assert_eq!(all(&world), expected);
    for (before, after) in before.iter().zip(&world.policy.list_rules(&world.steering)) {
        assert_eq!((before.rule.refusal, &before.rule.reason), (after.rule.refusal, &after.rule.reason));
        let apart = before.rule.until.since(after.rule.until) + after.rule.until.since(before.rule.until);
        assert!(apart <= Duration::from_secs(2), "{apart:?}");
    }
    // Again, for a second: it replaces the earlier one.
    let second = (Duration::from_secs(1), Refusal::Drop, "");
    world.policy.add_rule(&world.steering, RuleKind::Blocked, net("10.1.7.0/24"), second).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    world.sweep();
    assert_eq!(world.prefixes(RuleKind::Blocked), ["10.0.0.0/8"]);
    world.policy.remove_rule(&world.steering, RuleKind::Blocked, net("10.0.0.0/8")).unwrap();
    let again = world.policy.remove_rule(&world.steering, RuleKind::Blocked, net("10.0.0.0/8"));
    assert!(matches!(again, Err(PolicyError::NoRule { .. })));
    assert_eq!(all(&world), ["", "fd01::/48", "192.0.2.0/24"]);
}

#[test]
fn rules_for_prefixes_that_make_no_sense_are_refused_and_change_nothing() {
    let world = world();
    for (kind, prefix, words) in [
        (RuleKind::Blocked, "10.2.0.0/16", "nothing in common with customers.prefixes"),
        (RuleKind::ExemptCustomer, "fd02::/32", "nothing in common with customers.prefixes"),
        (RuleKind::Blocked, "10.1.0.1/16", "10.1.0.0/16 is meant?"),
        (RuleKind::ExemptCustomer, "0.0.0.0/0", "everybody"),
        (RuleKind::ExemptDestination, "::/0", "everybody"),
    ] {
        let error = world.add(kind, prefix, Refusal::Drop).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let ask = |duration, reason: &str| {
        let words = (duration, Refusal::Drop, reason);
        world.policy.add_rule(&world.steering, RuleKind::Blocked, net("10.1.0.0/16"), words).unwrap_err()
    };
    assert!(ask(Duration::ZERO, "").to_string().contains("1 s to 365 d"));
    assert!(ask(HOUR, "two\nlines").to_string().contains("one line"));
    world.kernel.lock().unwrap().fails = true;
    assert!(matches!(ask(HOUR, ""), PolicyError::Steering(_)));
    world.kernel.lock().unwrap().fails = false;
    // The file cannot be written: then the kernel is told to forget it.
    fs::write(world.directory.path().join("weir"), "a file where the directory should be").unwrap();
    assert!(matches!(ask(HOUR, ""), PolicyError::File { .. }));
    assert_eq!(world.prefixes(RuleKind::Blocked), [""; 0]);
}

/// Whoever was blocked is not any more, and that is not a secret.
#[test]
fn a_file_that_cannot_be_read_is_said_as_long_as_the_agent_runs() {
    let mut world = world();
    world.add(RuleKind::Blocked, "10.1.7.0/24", Refusal::Reset).unwrap();
    assert_eq!(world.policy.problem(), None);
    let text = fs::read_to_string(world.file()).unwrap();
    for broken in [
        text.replace("\"reset\"", "\"bounce\""),
        text.replace("10.1.7.0/24", "10.1.7.0/33"),
        text[..50].into(),
    ] {
        fs::write(world.file(), broken).unwrap();
        world.policy = open(&world.directory.path().join("weir"));
        assert!(world.policy.list_rules(&world.steering).is_empty());
        assert!(world.policy.problem().unwrap().contains("who was blocked is not"));
    }
    world.policy = open(&world.directory.path().join("weir"));
    assert_eq!(world.policy.problem(), None);
}

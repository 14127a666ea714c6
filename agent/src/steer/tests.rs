//! What is on the host after starts, stops and failures. That mail flows is tested in tests/.

use std::fmt::Debug;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::umount;

use super::test_host::{ip, on_a_host, output, plan, traces};
use super::{
    BootTime, Claim, Known, Pair, Plan, Refusal, RuleKind, RuleTerms, Rules, SteerError, Steering, Terms,
    cleanup, install_blocking,
};
use crate::config::{Backend, WhenAgentDies};
use crate::prefixes::Prefixes;

const NOTHING: Vec<String> = Vec::new();
/// Seconds by which times are longer than what is looked for, as a machine may be slow.
const SLACK: u64 = 45;
const BACKENDS: [Backend; 2] = [Backend::Ebpf, Backend::Tproxy];

fn install(plan: &Plan) -> Result<Box<dyn Steering>, SteerError> {
    let listener = TcpListener::bind("[::]:0").unwrap();
    install_with(plan.clone(), Known::default(), OwnedFd::from(listener))
}

fn install_with(plan: Plan, known: Known, listener: OwnedFd) -> Result<Box<dyn Steering>, SteerError> {
    let claim = Claim::take(&plan)?;
    install_blocking(plan, known, listener, Arc::default(), claim)
}

fn clean() {
    cleanup::remove_all(Path::new("/sys/fs/bpf/weir")).unwrap();
    assert_traces(&NOTHING);
}

/// What an agent that blocks nobody leaves.
fn left_by(plan: &Plan) -> &'static [&'static str] {
    match (plan.when_agent_dies, plan.backend) {
        (WhenAgentDies::Closed, Backend::Ebpf) => {
            &["/sys/fs/bpf/weir", "program on cust0", "program on inet0"]
        }
        (WhenAgentDies::Closed, Backend::Tproxy) => &["table inet weir"],
        (WhenAgentDies::Open, _) | (_, Backend::External) => &[],
    }
}

/// A moment may pass: a child that another test is starting has copies of our descriptors until it runs.
#[track_caller]
fn assert_traces<T: PartialEq + Debug>(expected: &[T])
where
    String: PartialEq<T>,
{
    let deadline = Instant::now() + Duration::from_secs(2);
    while traces() != expected && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(traces(), expected);
}

#[test]
fn open_leaves_nothing_however_it_ends() {
    on_a_host(|| {
        for backend in BACKENDS {
            let plan = plan(backend, WhenAgentDies::Open);
            let mut steering = install(&plan).unwrap();
            assert_ne!(traces(), NOTHING);
            assert_eq!(steering.problems(), NOTHING);
            assert!(steering.counters().unwrap().contains_key("new_connection"));
            steering.withdraw().unwrap();
            steering.withdraw().unwrap();
            assert_eq!(steering.problems(), NOTHING);
            steering.remove().unwrap();
            assert_traces(&NOTHING);
            steering.remove().unwrap();
            drop(steering);

            let steering = install(&plan).unwrap();
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _steering = steering;
                panic!("on purpose");
            }));
            assert!(panic.is_err());
            assert_traces(&NOTHING);
        }
    });
}

#[test]
fn closed_leaves_what_drops_and_cleanup_removes_it() {
    on_a_host(|| {
        for backend in BACKENDS {
            let plan = plan(backend, WhenAgentDies::Closed);
            for _ in 0..3 {
                install(&plan).unwrap().remove().unwrap();
                assert_traces(left_by(&plan));
            }
            clean();
        }
    });
}

#[test]
fn a_new_start_takes_over_from_any_other() {
    on_a_host(|| {
        let mut plans = Vec::new();
        for backend in BACKENDS {
            plans.extend([WhenAgentDies::Open, WhenAgentDies::Closed].map(|policy| plan(backend, policy)));
        }
        for earlier in &plans {
            for later in &plans {
                install(earlier).unwrap().remove().unwrap();
                install(later).unwrap().remove().unwrap();
                assert_traces(left_by(later));
                clean();
            }
        }
    });
}

/// Where the kernel has no links, a filter of a dead agent would go on dropping there.
#[test]
fn interfaces_that_are_left_out_are_free_again() {
    on_a_host(|| {
        for backend in BACKENDS {
            let mut plan = plan(Backend::Ebpf, WhenAgentDies::Closed);
            install(&plan).unwrap().remove().unwrap();
            assert_traces(left_by(&plan));
            plan.internet_interfaces = vec!["cust0".to_owned()];
            plan.backend = backend;
            install(&plan).unwrap().remove().unwrap();
            assert_traces(match backend {
                Backend::Ebpf => &["/sys/fs/bpf/weir", "program on cust0"],
                _ => left_by(&plan),
            });
            clean();
        }
    });
}

#[test]
fn leftovers_of_a_dead_agent_with_another_configuration_go() {
    on_a_host(|| {
        for backend in BACKENDS {
            ip("rule add pref 99 iif eth7 fwmark 0x4d580000/0xffff0000 lookup 77 proto 87");
            ip("route add local default dev lo table 77 proto 87");
            install(&plan(backend, WhenAgentDies::Open)).unwrap().remove().unwrap();
            assert_traces(&NOTHING);
        }
    });
}

#[test]
fn a_failed_start_leaves_the_host_as_it_was() {
    type Spoil = fn(&mut Plan);
    let at_the_check: [(Spoil, &str); 5] = [
        (|plan| plan.internet_interfaces.push("eth7".to_owned()), "eth7"),
        (|plan| plan.table = 254, "table 254"),
        (|plan| plan.table = 0, "table 0"),
        (|plan| plan.mark = 0, "steering.mark"),
        (|_| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "0").unwrap(), "forwarding"),
    ];
    for backend in BACKENDS {
        for (spoil, words) in at_the_check {
            fails_without_a_trace(backend, spoil, words);
        }
    }
    // With rules and routes in place already.
    let pin_nowhere: Spoil = |plan| {
        plan.when_agent_dies = WhenAgentDies::Closed;
        plan.pin_directory = "/nowhere/weir".into();
    };
    fails_without_a_trace(Backend::Ebpf, pin_nowhere, "steering.pin_directory");
    let overlapping: Spoil = |plan| {
        let prefixes = ["10.1.0.0/16", "10.1.2.0/24"].map(|prefix| prefix.parse().unwrap());
        plan.tables.prefixes = Prefixes::as_they_are(prefixes.into());
    };
    fails_without_a_trace(Backend::Tproxy, overlapping, "nft refused");
}

fn fails_without_a_trace(backend: Backend, spoil: fn(&mut Plan), words: &'static str) {
    on_a_host(move || {
        ip("route add 198.51.100.0/24 dev inet0");
        let mut plan = plan(backend, WhenAgentDies::Open);
        spoil(&mut plan);
        match install(&plan) {
            Ok(_) => panic!("{backend:?} started in spite of {words}"),
            Err(error) => assert!(error.to_string().contains(words), "{error}"),
        }
        assert_traces(&NOTHING);
    });
}

#[test]
fn what_somebody_removes_is_put_back() {
    on_a_host(|| {
        for backend in BACKENDS {
            let mut steering = install(&plan(backend, WhenAgentDies::Open)).unwrap();
            let whole = sorted(traces());
            ip("rule del pref 99");
            ip("-6 route flush table 100");
            if backend == Backend::Tproxy {
                output("nft", "delete table inet weir");
            }
            let problems = steering.problems();
            assert!(problems.iter().all(|problem| problem.contains("put back")), "{problems:?}");
            assert!(problems.len() >= 2, "{problems:?}");
            assert_eq!(sorted(traces()), whole);
            assert_eq!(steering.problems(), NOTHING);
        }
    });
}

/// Changed while it runs, kept when the table is put back, known from the start; and it leaves nothing.
#[test]
fn pairs_are_exempted_and_intercepted_again() {
    on_a_host(|| {
        let pair = |customer: &str, destination: &str| {
            Pair::new(customer.parse().unwrap(), destination.parse().unwrap()).unwrap()
        };
        let (v4, v6) = (pair("10.1.0.2", "192.0.2.25"), pair("fd01::2", "2001:db8::25"));
        let terms = |limited| Terms {
            until: BootTime::now().after(Duration::from_secs(31_536_000 + SLACK)),
            limited,
        };
        for backend in BACKENDS {
            let plan = plan(backend, WhenAgentDies::Open);
            let listener = TcpListener::bind("[::]:0").unwrap();
            let known = Known { exempt: vec![(v4, terms(false)), (v6, terms(true))], ..Known::default() };
            let mut steering = install_with(plan, known, OwnedFd::from(listener)).unwrap();
            for change in [true, false, true] {
                steering.exempt(&[(v4, terms(change)), (v6, terms(!change))]).unwrap();
            }
            steering.unexempt(&[v4]).unwrap();
            steering.unexempt(&[v4]).unwrap();
            if backend == Backend::Tproxy {
                let sets = || output("nft", "list table inet weir").replace([' ', '\t', '\n'], "");
                let exempt = |sets: &str| {
                    assert!(sets.contains("fd01::2.2001:db8::25timeout365d"), "{sets}");
                    assert!(!sets.contains("10.1.0.2.192.0.2.25"), "{sets}");
                };
                exempt(&sets());
                output("nft", "delete table inet weir");
                assert!(!steering.problems().is_empty());
                exempt(&sets());
            }
            steering.unexempt(&[v6]).unwrap();
            assert_eq!(steering.problems(), NOTHING);
            steering.remove().unwrap();
            assert_traces(&NOTHING);
        }
    });
}

/// Rules that lie within each other, known from the start, changed while it runs, kept when the table is put back.
#[test]
fn prefixes_are_blocked_and_exempted() {
    on_a_host(|| {
        let terms = |seconds, refusal| RuleTerms {
            until: BootTime::now().after(Duration::from_secs(seconds + SLACK)),
            refusal,
        };
        let blocked = || -> Rules {
            [
                ("10.1.0.0/16", terms(3600, Refusal::Reset)),
                ("10.1.7.0/24", terms(60, Refusal::Drop)),
                ("fd01:0:7::/48", terms(60, Refusal::Drop)),
            ]
            .map(|(prefix, terms)| (prefix.parse().unwrap(), terms))
            .into()
        };
        for backend in BACKENDS {
            let mut plan = plan(backend, WhenAgentDies::Open);
            plan.tables.exempt = Prefixes::new(&["10.1.9.0/24".parse().unwrap()]);
            let known = Known { rules: [(RuleKind::Blocked, blocked())].into(), ..Known::default() };
            let listener = TcpListener::bind("[::]:0").unwrap();
            let mut steering = install_with(plan.clone(), known, OwnedFd::from(listener)).unwrap();
            let exempt: Rules = [("192.0.2.0/24".parse().unwrap(), terms(60, Refusal::Drop))].into();
            steering.set_rules(RuleKind::ExemptDestination, &exempt).unwrap();
            let shown = || output("nft", "list table inet weir").replace(['\t', '\n'], " ");
            let all_there = |table: &str| {
                for part in [
                    "10.1.0.0-10.1.6.255 timeout 1h",
                    "10.1.7.0/24 timeout 1h",
                    "10.1.8.0-10.1.255.255 timeout 1h",
                    "fd01:0:7::/48 timeout 1m",
                    "elements = { 10.1.9.0/24 }",
                    "192.0.2.0/24 timeout 1m",
                ] {
                    assert!(table.contains(part), "{part} is not in {table}");
                }
            };
            if backend == Backend::Tproxy {
                all_there(&shown());
                output("nft", "delete table inet weir");
                assert!(!steering.problems().is_empty());
                all_there(&shown());
            }
            // What is configured is changed, and what is said stays.
            let mut tables = plan.tables.clone();
            tables.exempt = Prefixes::default();
            tables.prefixes = Prefixes::new(&["10.4.0.0/16".parse().unwrap()]);
            steering.set_tables(&tables).unwrap();
            steering.set_rules(RuleKind::ExemptDestination, &Rules::new()).unwrap();
            if backend == Backend::Tproxy {
                let table = shown();
                assert!(table.contains("10.4.0.0/16") && !table.contains("10.1.9.0/24"), "{table}");
                assert!(
                    table.contains("10.1.7.0/24 timeout 1h") && !table.contains("192.0.2.0/24"),
                    "{table}"
                );
            }
            steering.set_rules(RuleKind::Blocked, &Rules::new()).unwrap();
            assert_eq!(steering.problems(), NOTHING);
            for name in ["blocked_dropped", "blocked_reset", "exempt_customer", "exempt_destination"] {
                assert!(steering.counters().unwrap().contains_key(name), "{name}");
            }
            steering.remove().unwrap();
            assert_traces(&NOTHING);
        }
    });
}

/// In `open` too; and it goes with the last block, with a start without one, and with `cleanup`.
#[test]
fn what_blocks_outlives_the_agent() {
    on_a_host(|| {
        let until = BootTime::now().after(Duration::from_secs(3600));
        let terms = RuleTerms { until, refusal: Refusal::Drop };
        let blocked: Rules = [("10.1.7.0/24".parse().unwrap(), terms)].into();
        let known = || Known { rules: [(RuleKind::Blocked, blocked.clone())].into(), ..Known::default() };
        for (backend, left) in [
            (Backend::Ebpf, vec!["/sys/fs/bpf/weir", "program on cust0", "program on inet0"]),
            (Backend::Tproxy, vec!["table inet weir"]),
        ] {
            let plan = plan(backend, WhenAgentDies::Open);
            let mut steering = install(&plan).unwrap();
            for _ in 0..2 {
                steering.set_rules(RuleKind::Blocked, &blocked).unwrap();
                steering.set_rules(RuleKind::Blocked, &Rules::new()).unwrap();
            }
            drop(steering);
            assert_traces(&NOTHING);
            // Blocked while it runs, and known from the start.
            let mut steering = install(&plan).unwrap();
            steering.set_rules(RuleKind::Blocked, &blocked).unwrap();
            assert_eq!(steering.problems(), NOTHING);
            steering.remove().unwrap();
            drop(steering);
            assert_traces(&left);
            for _ in 0..2 {
                let listener = TcpListener::bind("[::]:0").unwrap();
                install_with(plan.clone(), known(), OwnedFd::from(listener)).unwrap().remove().unwrap();
                assert_traces(&left);
            }
            install(&plan).unwrap().remove().unwrap();
            assert_traces(&NOTHING);
            install(&plan).unwrap().set_rules(RuleKind::Blocked, &blocked).unwrap();
            assert_traces(&left);
            clean();
        }
    });
}

#[test]
fn a_start_mounts_what_blocking_needs() {
    on_a_host(|| {
        umount("/sys/fs/bpf").unwrap();
        let mut steering = install(&plan(Backend::Ebpf, WhenAgentDies::Open)).unwrap();
        // Whoever runs may not mount any more.
        let mounted = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
        assert!(mounted.contains(" /sys/fs/bpf bpf "), "{mounted}");
        let until = BootTime::now().after(Duration::from_secs(3600));
        let terms = RuleTerms { until, refusal: Refusal::Drop };
        steering.set_rules(RuleKind::Blocked, &[("10.1.7.0/24".parse().unwrap(), terms)].into()).unwrap();
        steering.set_rules(RuleKind::Blocked, &Rules::new()).unwrap();
        steering.remove().unwrap();
        drop(steering);
        assert_traces(&NOTHING);
    });
}

#[test]
fn an_address_family_that_is_new_needs_a_restart() {
    on_a_host(|| {
        for backend in BACKENDS {
            let v4_only = super::test_host::tables(&["10.1.0.0/16"]);
            let both = super::test_host::tables(&["10.1.0.0/16", "fd01::/32"]);
            let plan = Plan {
                tables: v4_only.clone(),
                families: vec![super::routing::Family::V4],
                ..plan(backend, WhenAgentDies::Open)
            };
            let mut steering = install(&plan).unwrap();
            let error = steering.set_tables(&both).unwrap_err().to_string();
            assert!(error.contains("IPv6 needs a restart"), "{error}");
            steering.set_tables(&v4_only).unwrap();
        }
    });
}

/// Known from the start, changed while it runs, kept when the table is put back; and it leaves nothing.
#[test]
fn all_are_released_and_intercepted_again() {
    on_a_host(|| {
        let later = |seconds| Some(BootTime::now().after(Duration::from_secs(seconds)));
        for backend in BACKENDS {
            let plan = plan(backend, WhenAgentDies::Open);
            let listener = TcpListener::bind("[::]:0").unwrap();
            let known = Known { released: later(1000), ..Known::default() };
            let mut steering = install_with(plan, known, OwnedFd::from(listener)).unwrap();
            let set = || output("nft", "list set inet weir released_protocols");
            if backend == Backend::Tproxy {
                assert!(set().contains("tcp timeout 16m"), "{}", set());
            }
            steering.release(None).unwrap();
            steering.release(None).unwrap();
            if backend == Backend::Tproxy {
                assert!(!set().contains("elements"), "{}", set());
            }
            steering.release(later(3600)).unwrap();
            steering.release(later(7200)).unwrap();
            assert!(steering.counters().unwrap().contains_key("released"));
            if backend == Backend::Tproxy {
                output("nft", "delete table inet weir");
                assert!(!steering.problems().is_empty());
                assert!(set().contains("tcp timeout 2h") || set().contains("tcp timeout 1h59m"), "{}", set());
            }
            assert_eq!(steering.problems(), NOTHING);
            steering.remove().unwrap();
            assert_traces(&NOTHING);
        }
    });
}

#[test]
fn others_rules_stay() {
    on_a_host(|| {
        // The same as ours but for who made it.
        ip("rule add pref 99 iif cust0 fwmark 0x4d580000/0xffff0000 lookup 100");
        output("nft", "add table inet firewall");
        let before = traces();
        for backend in BACKENDS {
            install(&plan(backend, WhenAgentDies::Open)).unwrap().remove().unwrap();
            assert_traces(&before);
        }
    });
}

#[test]
fn one_agent_at_a_time() {
    on_a_host(|| {
        let steering = install(&plan(Backend::Tproxy, WhenAgentDies::Open)).unwrap();
        assert!(matches!(install(&plan(Backend::Ebpf, WhenAgentDies::Open)), Err(SteerError::AgentRunning)));
        let cleanup = cleanup::remove_all(Path::new("/sys/fs/bpf/weir"));
        assert!(matches!(cleanup, Err(SteerError::AgentRunning)));
        drop(steering);
        install(&plan(Backend::Ebpf, WhenAgentDies::Open)).unwrap();
    });
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

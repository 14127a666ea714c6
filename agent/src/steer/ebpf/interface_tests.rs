//! Interfaces that come and go while the agent steers, and programs that others take off. Needs root.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_ebpf_common::Side;

use super::attach::{self, Attachment};
use super::{Ebpf, link, query};
use crate::config::{Backend, WhenAgentDies};
use crate::steer::Claim;
use crate::steer::host::interface_index;
use crate::steer::test_host::{ip, on_a_host, output, plan};
use crate::steer::{BootTime, Known, Plan, Refusal, RuleKind, RuleTerms, Steering};

const NOTHING: Vec<String> = Vec::new();

fn install(plan: Plan) -> Ebpf {
    let listener = OwnedFd::from(TcpListener::bind("[::]:0").unwrap());
    let claim = Claim::take(&plan).unwrap();
    Ebpf::install(plan, &Known::default(), listener, Arc::default(), claim).unwrap()
}

/// What a check finds when it has had the time that it takes.
fn settled(steering: &mut Ebpf) -> Vec<String> {
    loop {
        let found = steering.problems();
        if !steering.is_unfinished() {
            return found;
        }
    }
}

/// Kernels before 6.6 have filters, which need no file to outlive a process.
fn has_links() -> bool {
    query::programs(interface_index("lo").unwrap()).is_ok()
}

/// Programs on an interface.
fn attached(interface: &str) -> usize {
    match query::programs(interface_index(interface).unwrap()) {
        Ok(programs) => programs.len(),
        Err(_) => output("tc", &format!("filter show dev {interface} ingress")).matches("0x4d58").count(),
    }
}

/// So many programs are on the interface; a moment later, when a child of another test had a copy of a link's descriptor.
fn assert_attached(interface: &str, count: usize) {
    let end = Instant::now() + Duration::from_secs(10);
    while attached(interface) != count && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(attached(interface), count, "{interface}");
}

/// As an operator's hand does.
fn take_off(interface: &str) {
    if has_links() {
        let attached = query::attached(interface_index(interface).unwrap()).unwrap();
        attached.into_iter().for_each(|(_, link)| link::detach(link).unwrap());
    } else {
        output("tc", &format!("filter del dev {interface} ingress"));
    }
}

/// The pinned links.
fn pinned() -> Vec<String> {
    let entries = fs::read_dir("/sys/fs/bpf/weir").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let mut links: Vec<String> = names.filter(|name| name.starts_with("link_")).collect();
    links.sort();
    links
}

/// The files of the links of these, on these sides.
fn link_files(places: &[(&str, &str)]) -> Vec<String> {
    let places = places.iter().filter(|_| has_links());
    let files =
        places.map(|(interface, side)| format!("link_{}_{side}", interface_index(interface).unwrap()));
    let mut files: Vec<String> = files.collect();
    files.sort();
    files
}

fn block(steering: &mut Ebpf) {
    let until = BootTime::now().after(Duration::from_secs(3600));
    let terms = RuleTerms { until, refusal: Refusal::Drop };
    steering.set_rules(RuleKind::Blocked, &[("10.1.7.0/24".parse().unwrap(), terms)].into()).unwrap();
}

/// As an agent that has handed over, and drains, holds links of one that has died.
#[test]
fn programs_that_another_agent_holds_are_taken_off() {
    on_a_host(|| {
        if !has_links() {
            println!("lacks: TCX links: a filter is nobody's, and is replaced");
            return;
        }
        let plan = plan(Backend::Ebpf, WhenAgentDies::Open);
        let mut dead = super::Program::load(&plan).unwrap();
        let mut hold = || {
            [("cust0", Side::Customer), ("inet0", Side::Internet)]
                .map(|(interface, side)| attach::attach(&mut dead, interface, side).unwrap())
        };
        let _held = hold();
        let mut steering = install(plan.clone());
        ["cust0", "inet0"].iter().for_each(|interface| assert_attached(interface, 1));
        assert_eq!(settled(&mut steering), NOTHING);
        steering.remove().unwrap();
        drop(steering);
        ["cust0", "inet0"].iter().for_each(|interface| assert_attached(interface, 0));
        let _held = hold();
        let report = crate::steer::cleanup::remove_all(&plan.pin_directory).unwrap();
        ["cust0", "inet0"].iter().for_each(|interface| assert_attached(interface, 0));
        assert_eq!(report.removed.len(), 2, "{report}");
    });
}

#[test]
fn a_program_that_somebody_takes_off_is_put_back() {
    on_a_host(|| {
        for (policy, blocks) in
            [(WhenAgentDies::Open, false), (WhenAgentDies::Open, true), (WhenAgentDies::Closed, false)]
        {
            let mut steering = install(plan(Backend::Ebpf, policy));
            if blocks {
                block(&mut steering);
            }
            let files = pinned();
            for interface in ["cust0", "inet0"] {
                take_off(interface);
                assert_attached(interface, 0);
                let problems = settled(&mut steering);
                assert!(problems[0].contains("detached") && problems[0].contains("put back"), "{problems:?}");
                assert_attached(interface, 1);
                assert_eq!(problems.len(), 1);
                assert_eq!(settled(&mut steering), NOTHING);
            }
            assert_eq!(pinned(), files);
            let outlives = blocks || policy == WhenAgentDies::Closed;
            assert_eq!(files.len(), if outlives && has_links() { 2 } else { 0 });
            steering.remove().unwrap();
            drop(steering);
            assert_attached("cust0", usize::from(outlives));
            super::remove_pins("/sys/fs/bpf/weir".as_ref()).unwrap();
        }
    });
}

/// On kernels without TCX.
#[test]
fn a_filter_that_somebody_removes_is_missed() {
    on_a_host(|| {
        let mut steering = install(plan(Backend::Ebpf, WhenAgentDies::Open));
        for removal in ["filter del dev cust0 ingress", "qdisc del dev cust0 clsact"] {
            let filter = attach::attach_lasting_filter(&mut steering.program, "cust0", Side::Customer);
            let filter = filter.unwrap();
            assert!(filter.is_in_place(None));
            output("tc", removal);
            assert!(!filter.is_in_place(None), "{removal}");
            steering.attachments.retain(|other| other.index() != filter.index());
            steering.attachments.push(filter);
            let problems = settled(&mut steering);
            if problems[0].contains("File exists") {
                // The kernel takes a filter away in its own time, and may say that the place is taken still.
                let until = Instant::now() + Duration::from_secs(30);
                while settled(&mut steering) != NOTHING {
                    assert!(Instant::now() < until, "{problems:?}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            } else {
                assert!(problems[0].contains("detached from cust0"), "{problems:?}");
            }
            assert_attached("cust0", 1);
            assert_eq!(settled(&mut steering), NOTHING);
        }
    });
}

#[test]
fn an_interface_that_is_made_anew_is_steered_again() {
    on_a_host(|| {
        for policy in [WhenAgentDies::Open, WhenAgentDies::Closed] {
            let mut steering = install(plan(Backend::Ebpf, policy));
            ip("link del cust0");
            for _ in 0..2 {
                let problems = settled(&mut steering);
                assert_eq!(problems, ["steering.customer_interfaces: interface cust0 is gone"]);
            }
            if policy == WhenAgentDies::Closed {
                assert_eq!(pinned(), link_files(&[("inet0", "internet")]));
            }
            // At once, and after a while.
            for _ in 0..2 {
                ip("link add cust0 type veth peer name cust0-peer");
                ip("link set cust0 up");
                assert_eq!(settled(&mut steering), ["interface cust0 was made anew: steered again"]);
                assert_attached("cust0", 1);
                assert_eq!(settled(&mut steering), NOTHING);
                if policy == WhenAgentDies::Closed {
                    assert_eq!(pinned(), link_files(&[("inet0", "internet"), ("cust0", "customer")]));
                }
                ip("link del cust0");
            }
            ip("link add cust0 type veth peer name cust0-peer");
            settled(&mut steering);
            steering.remove().unwrap();
            drop(steering);
            assert_attached("cust0", usize::from(policy == WhenAgentDies::Closed));
            super::remove_pins("/sys/fs/bpf/weir".as_ref()).unwrap();
        }
    });
}

#[test]
fn patterns_stand_for_what_comes_and_goes() {
    on_a_host(|| {
        let plan = Plan {
            customer_interfaces: vec!["tap*".to_owned(), "cust0".to_owned()],
            internet_interfaces: vec!["*0".to_owned(), "up*".to_owned()],
            ..plan(Backend::Ebpf, WhenAgentDies::Closed)
        };
        let mut steering = install(plan);
        let side = |steering: &Ebpf, name: &str| {
            let index = interface_index(name).unwrap();
            let found = steering.attachments.iter().find(|attachment| attachment.index() == index);
            assert_attached(name, usize::from(found.is_some()));
            found.map(Attachment::side)
        };
        use weir_ebpf_common::Side::{Customer, Internet};
        assert_eq!(settled(&mut steering), NOTHING);
        assert_eq!(
            steering.warnings(),
            [
                "steering.customer_interfaces: no interface fits tap*",
                "steering.internet_interfaces: no interface fits up*"
            ]
        );
        // Three for each family, however many interfaces there are.
        assert_eq!(
            ["-4", "-6"].map(|family| ip(&format!("{family} rule")).matches("proto 87").count()),
            [3, 3]
        );
        for name in ["tap0", "tap7", "up7", "other7"] {
            ip(&format!("tuntap add {name} mode tap"));
        }
        assert_eq!((settled(&mut steering), steering.warnings()), (NOTHING, NOTHING));
        let expected = [
            ("lo", None),
            ("cust0", Some(Customer)),
            ("inet0", Some(Internet)),
            // On both sides.
            ("tap0", Some(Customer)),
            ("tap7", Some(Customer)),
            ("up7", Some(Internet)),
            ("other7", None),
        ];
        for (name, on) in expected {
            assert_eq!(side(&steering, name), on, "{name}");
        }
        for (from, to, on) in [
            ("tap7", "tap8", Some(Customer)),
            ("tap8", "up8", Some(Internet)),
            ("up8", "other8", None),
            ("other8", "tap7", Some(Customer)),
        ] {
            ip(&format!("link set {from} name {to}"));
            assert_eq!(settled(&mut steering), NOTHING);
            assert_eq!(side(&steering, to), on, "{from} is {to}");
        }
        ip("link add bridge type bridge");
        ip("link set tap7 master bridge");
        assert_eq!((settled(&mut steering), side(&steering, "tap7")), (NOTHING, None));
        ip("link set tap7 nomaster");
        assert_eq!((settled(&mut steering), side(&steering, "tap7")), (NOTHING, Some(Customer)));
        ip("link del tap0");
        assert_eq!(settled(&mut steering), NOTHING);
        let places =
            [("inet0", "internet"), ("up7", "internet"), ("cust0", "customer"), ("tap7", "customer")];
        assert_eq!(pinned(), link_files(&places));
        // One that is named is warned of, and steered all the same.
        ip("link set cust0 master bridge");
        assert_eq!(settled(&mut steering), NOTHING);
        assert!(steering.warnings()[0].contains("cust0 is a port of a bridge"), "{:?}", steering.warnings());
    });
}

/// Rules of all interfaces and of single ones follow each other.
#[test]
fn patterns_and_names_follow_each_other() {
    on_a_host(|| {
        let named = plan(Backend::Ebpf, WhenAgentDies::Open);
        let patterns = Plan { customer_interfaces: vec!["cust*".to_owned()], ..named.clone() };
        let rules = || ["-4", "-6"].map(|family| ip(&format!("{family} rule")));
        for (plan, count) in [(&named, 2), (&patterns, 3), (&named, 2)] {
            // As a dead agent leaves them.
            plan.routing().install().unwrap();
            let found = rules().map(|rules| rules.matches("proto 87").count());
            assert_eq!(found, [count; 2], "{:?}", rules());
        }
        let mut steering = install(patterns);
        for pref in [98, 99, 100] {
            ip(&format!("rule del pref {pref}"));
            let problems = settled(&mut steering);
            assert!(problems.len() == 1 && problems[0].contains("put back: ip -4 rule"), "{problems:?}");
            assert_eq!(settled(&mut steering), NOTHING);
        }
        let before = Instant::now();
        steering.remove().unwrap();
        assert!(before.elapsed() < Duration::from_secs(5));
        assert!(!rules().concat().contains("proto 87"), "{:?}", rules());
    });
}

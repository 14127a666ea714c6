//! What is on the host while one agent takes over from another. That no mail is lost is tested in tests/.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::ebpf::WITHOUT_TCX;
use super::test_host::{on_a_host, output, plan, traces};
use super::{
    Bequest, BootTime, Claim, Known, Plan, Refusal, RuleKind, RuleTerms, Rules, SteerError, Steering,
    install_blocking, prepare_blocking,
};
use crate::config::{Backend, WhenAgentDies};

const NOTHING: Vec<String> = Vec::new();

fn blocked() -> Known {
    let terms = RuleTerms {
        until: BootTime::now().after(std::time::Duration::from_secs(600)),
        refusal: Refusal::Reset,
    };
    let rules = Rules::from([("10.1.7.0/24".parse().unwrap(), terms)]);
    Known { rules: [(RuleKind::Blocked, rules)].into(), ..Known::default() }
}

struct Pair {
    plan: Plan,
    known: Known,
    listener: TcpListener,
    claim: Claim,
    owner: Box<dyn Steering>,
}

impl Pair {
    fn new(plan: Plan, known: Known) -> Self {
        let (claim, listener) = (Claim::take(&plan).unwrap(), TcpListener::bind("[::]:0").unwrap());
        let socket = OwnedFd::from(listener.try_clone().unwrap());
        let owner =
            install_blocking(plan.clone(), known.clone(), socket, Arc::default(), claim.clone()).unwrap();
        Self { plan, known, listener, claim, owner }
    }

    fn heir(&mut self) -> Result<Box<dyn Steering>, SteerError> {
        let parts = self.owner.bequeath().unwrap();
        let bequest = Bequest { parts, proven: true, same_layout: true };
        let socket = OwnedFd::from(self.listener.try_clone().unwrap());
        prepare_blocking(self.plan.clone(), self.known.clone(), socket, Arc::default(), bequest)
    }
}

/// The tc filters, by the numbers of their programs.
fn filters() -> Vec<String> {
    let shown = ["cust0", "inet0"].map(|name| output("tc", &format!("filter show dev {name} ingress")));
    let numbers = shown.iter().flat_map(|text| text.lines()).filter(|line| line.contains(" id "));
    numbers.map(str::to_owned).collect()
}

/// Every back end (`ebpf` with filters as well), open and closed, with and without somebody who is blocked.
fn each(test: fn(Pair)) {
    on_a_host(move || {
        for (backend, without_tcx) in
            [(Backend::Ebpf, false), (Backend::Ebpf, true), (Backend::Tproxy, false)]
        {
            WITHOUT_TCX.set(without_tcx);
            for when in [WhenAgentDies::Open, WhenAgentDies::Closed] {
                for known in [Known::default(), blocked()] {
                    test(Pair::new(plan(backend, when), known));
                    super::cleanup::remove_all(std::path::Path::new("/sys/fs/bpf/weir")).unwrap();
                    assert_eq!((traces(), filters()), (NOTHING, NOTHING));
                }
            }
        }
    });
}

#[test]
fn an_heir_that_is_ready_has_changed_nothing() {
    each(|mut pair| {
        let (before, own) = (traces(), filters());
        let heir = pair.heir().unwrap();
        assert_eq!((traces(), filters()), (before.clone(), own.clone()));
        drop(heir);
        assert_eq!((traces(), filters(), pair.owner.problems()), (before, own, NOTHING));
        // A plan that the host cannot do.
        pair.plan.internet_interfaces = vec!["nowhere0".into()];
        assert!(pair.heir().is_err());
        assert_eq!(pair.owner.problems(), NOTHING);
    });
}

#[test]
fn an_heir_in_charge_has_all_and_the_owner_leaves_without_a_trace() {
    each(|mut pair| {
        let (before, own) = (traces(), filters());
        let mut heir = pair.heir().unwrap();
        pair.owner.pause().unwrap();
        heir.take_charge(pair.claim.clone()).unwrap();
        let others = filters();
        assert!(own.is_empty() || own != others, "the same program");
        let kept = pair.owner.leave();
        assert_eq!((traces(), filters(), heir.problems()), (before.clone(), others.clone(), NOTHING));
        drop(kept);
        assert_eq!((traces(), filters(), heir.problems()), (before, others, NOTHING));
        assert!(heir.counters().unwrap().contains_key("new_connection"));
        // And the next.
        let Pair { plan, known, listener, claim, .. } = pair;
        let mut next = Pair { plan, known, listener, claim, owner: heir };
        let mut heir = next.heir().unwrap();
        heir.take_charge(next.claim.clone()).unwrap();
        drop(next.owner.leave());
        assert_eq!(heir.problems(), NOTHING);
        heir.remove().unwrap();
    });
}

#[test]
fn what_an_heir_that_died_has_changed_is_put_back() {
    each(|mut pair| {
        let (before, own) = (traces(), filters());
        let mut heir = pair.heir().unwrap();
        pair.owner.pause().unwrap();
        heir.take_charge(pair.claim.clone()).unwrap();
        // As if it had been killed: its descriptors close, and nothing else is taken back.
        drop(heir.leave());
        pair.owner.reclaim(true).unwrap();
        assert_eq!((traces(), filters(), pair.owner.problems()), (before.clone(), own, NOTHING));
        // Called off before it touched anything.
        drop(pair.heir().unwrap());
        pair.owner.pause().unwrap();
        pair.owner.reclaim(false).unwrap();
        assert_eq!((traces(), pair.owner.problems()), (before, NOTHING));
        pair.owner.remove().unwrap();
    });
}

use super::*;
use crate::config::Backend;
use crate::steer::test_host::{on_a_host, plan};

/// A table that is there is not replaced: in the moment of that, rules of the old one would find its sets empty.
#[test]
fn a_table_that_is_there_is_filled_anew() {
    on_a_host(|| {
        let plan = plan(Backend::Tproxy, WhenAgentDies::Closed);
        for _ in 0..2 {
            let names = Names::beside(&sets().unwrap());
            let customers = [vec![ruleset::add_table()], ruleset::customers(&plan, &names)];
            let none = ruleset::sets_of_prefixes(&RuleKind::ALL, &names);
            nft::apply(&[customers.concat(), none].concat()).unwrap();
            nft::apply(&ruleset::refill_table(&plan, &names, remembers(&sets().unwrap()))).unwrap();
        }
        assert!(remembers(&sets().unwrap()));
    });
}

/// Those of prefixes are others each time, and there are no more of them than the rules ask.
#[test]
fn sets_that_were_replaced_are_gone() {
    on_a_host(|| {
        let plan = plan(Backend::Tproxy, WhenAgentDies::Open);
        let state = State {
            exempt: BTreeMap::new(),
            rules: BTreeMap::new(),
            tables: plan.tables.clone(),
            released: None,
        };
        let of_prefixes = |names: &Names| {
            let mut sets = sets().unwrap();
            sets.retain(|name| names.all().contains(name));
            assert!(names.replaced(&super::sets().unwrap()).is_empty());
            sets.len()
        };
        let first = make_table(&plan, &state).unwrap();
        assert_eq!(of_prefixes(&first), first.all().len());
        // A table of an agent that was killed before it deleted what it had replaced.
        nft::apply(&ruleset::customers(&plan, &first.with_new([CUSTOMERS]))).unwrap();
        let second = make_table(&plan, &state).unwrap();
        assert_eq!(of_prefixes(&second), second.all().len());
        assert!(first.all().iter().all(|name| !second.all().contains(name)), "{first:?} {second:?}");
    });
}

/// In messages of the kernel's own, without nft.
#[test]
fn beats_rules_and_counters() {
    on_a_host(|| {
        let beats = Beats::default();
        let missing = beats.say(ruleset::SILENCE).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound, "{missing}");
        assert_eq!(beats.ask(|kernel| kernel.rules(CHAIN)).unwrap(), 0);
        assert_eq!(beats.ask(Kernel::counters).unwrap(), []);

        let plan = plan(Backend::Tproxy, WhenAgentDies::Open);
        let state = State {
            exempt: BTreeMap::new(),
            rules: BTreeMap::new(),
            tables: plan.tables.clone(),
            released: None,
        };
        make_table(&plan, &state).unwrap();
        // nft shows what is left of it in whole seconds.
        let left = || {
            let mut nft = nft::program();
            let set = nft.args(["list", "set", FAMILY, TABLE, ruleset::ALIVE]);
            String::from_utf8(set.output().unwrap().stdout).unwrap()
        };
        for (silence, shown) in
            [(ruleset::LONG_SILENCE, "timeout 1m"), (ruleset::SHORT_SILENCE, "timeout 3s")]
        {
            beats.say(silence).unwrap();
            assert!(left().contains(shown), "{}", left());
        }
        let held = beats.hold_for_long().unwrap();
        // The heart's waits for nothing, and says nothing while somebody changes the table.
        beats.beat();
        assert!(left().contains("timeout 1m"), "{}", left());
        drop(held);
        beats.beat();
        assert!(!left().contains("timeout 1m"), "{}", left());
        assert!(beats.ask(|kernel| kernel.rules(CHAIN)).unwrap() > 5);
        let counters = beats.ask(Kernel::counters).unwrap();
        assert!(
            ruleset::COUNTERS.iter().all(|name| counters.contains(&((*name).to_owned(), 0))),
            "{counters:?}"
        );
    });
}

//! Policies, rules and the keys of both.

use proptest::prelude::*;
use std::vec::Vec;

use super::packets::*;
use crate::{IpVersion, Policy, Refusal, Rule, RuleKind, Table, parse, source_key};

const SECOND: u64 = 1_000_000_000;

#[test]
fn they_are_in_the_map_as_their_words() {
    assert_eq!(size_of::<Policy>(), size_of_val(&Policy::STEERED.words()));
    assert_eq!(Policy::limited(7, 4, 9, true).words(), [0, 7, 250_000_000, 9, 1]);
    let rule = Rule::new(77, Refusal::Reset);
    rule.count();
    rule.count();
    assert_eq!((rule.words(), size_of::<Rule>()), ([77, 1, 2], size_of_val(&rule.words())));
    assert_eq!(Rule::applied(rule.words()), 2);
    assert!(rule.holds(76) && !rule.holds(77) && !Rule::new(0, Refusal::Drop).holds(0));
}

/// A word begins a key, so no table holds what another does, in whichever generation.
#[test]
fn words_are_distinct() {
    let generations = [0, 1, 2, 255, 256, 65_535];
    let mut words: Vec<u32> = generations
        .into_iter()
        .flat_map(|generation| {
            [Table::Customers, Table::ExemptDestinations].map(|table| table.word(generation))
        })
        .collect();
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), count);
    assert_eq!(RuleKind::ALL.map(|kind| u32::from_be(kind.word())), [0, 1, 2]);
}

#[test]
fn a_source_is_an_address_or_a_64() {
    let octets = |key: [u32; 4]| -> Vec<u8> { key.into_iter().flat_map(u32::to_ne_bytes).collect() };
    let v4 = parse(&v4(CUSTOMER_V4, SERVER_V4, 6, 0, &tcp(1, 25, SYN)), IpVersion::V4);
    assert_eq!(octets(source_key(&v4.flow)), [&[0; 10][..], &[0xff; 2], &CUSTOMER_V4].concat());
    let v6 = parse(&v6(CUSTOMER_V6, SERVER_V6, 6, &tcp(1, 25, SYN)), IpVersion::V6);
    assert_eq!(octets(source_key(&v6.flow)), [&CUSTOMER_V6[..8], &[0; 8]].concat());
}

#[test]
fn a_full_bucket_and_then_one_each_interval() {
    let policy = Policy::limited(0, 10, 3, false);
    let (mut full, start) = (0, 7 * SECOND);
    let taken: Vec<bool> = (0..5).map(|_| policy.take_token(&mut full, start)).collect();
    assert_eq!(taken, [true, true, true, false, false]);
    assert!(!policy.take_token(&mut full, start + SECOND / 10 - 1));
    assert!(policy.take_token(&mut full, start + SECOND / 10));
    assert!(!policy.take_token(&mut full, start + SECOND / 10));
}

proptest! {
    /// Whenever they come: within any time no more than the burst and what has dripped in since, and never fewer.
    #[test]
    fn tokens(
        per_second in 1u32..50,
        burst in 1u32..20,
        pauses in prop::collection::vec(0u64..300_000_000, 1..200),
    ) {
        let policy = Policy::limited(0, per_second, burst, false);
        let interval = u64::from(1_000_000_000 / per_second);
        let (mut now, mut full, mut passed) = (SECOND, 0, Vec::new());
        for pause in pauses {
            now += pause;
            if policy.take_token(&mut full, now) {
                passed.push(now);
            } else {
                // Refused only when the bucket is empty: then the last `burst` came within the time it takes to fill.
                prop_assert!(passed.len() >= burst as usize);
                let earliest = passed[passed.len() - burst as usize];
                prop_assert!(now - earliest < interval * u64::from(burst));
            }
            for (index, first) in passed.iter().enumerate() {
                let within = (passed.len() - index) as u64;
                prop_assert!(within <= u64::from(burst) + (now - first) / interval);
            }
        }
    }
}

//! Exemptions: how long they hold, and how often.

use proptest::prelude::*;
use std::vec::Vec;

use super::packets::*;
use crate::{Exemption, IpVersion, pair_v4, pair_v6, parse};

const HOUR: u32 = 3600;

#[test]
fn it_ends_at_its_second() {
    let mut exemption = Exemption::new(1000, 0);
    assert!((0..1000).all(|now| exemption.admit(now)));
    assert!(!exemption.admit(1000));
    assert!(!exemption.admit(u32::MAX));
}

#[test]
fn the_sixty_first_in_an_hour_does_not_pass() {
    let mut exemption = Exemption::new(u32::MAX, 60);
    let start = 7 * HOUR + 1;
    assert!((0..60).all(|number| exemption.admit(start + number)));
    assert!((60..HOUR).all(|number| !exemption.admit(start + number)));
    // What did not pass does not count.
    assert!(exemption.admit(start + 80 * 60));
}

#[test]
fn it_is_in_the_map_as_its_words() {
    let mut exemption = Exemption::new(9000, 60);
    assert!(exemption.admit(1300));
    assert_eq!(exemption.words(), [9000, 60, 1, 1, 0, 0, 0, 1]);
    assert_eq!(size_of::<Exemption>(), size_of_val(&exemption.words()));
}

#[test]
fn keys_are_the_addresses_as_they_are_in_the_packet() {
    let v4 = parse(&v4(CUSTOMER_V4, SERVER_V4, 6, 0, &tcp(1, 25, SYN)), IpVersion::V4);
    assert_eq!(pair_v4(&v4.flow).map(u32::to_ne_bytes), [CUSTOMER_V4, SERVER_V4]);
    let v6 = parse(&v6(CUSTOMER_V6, SERVER_V6, 6, &tcp(1, 25, SYN)), IpVersion::V6);
    let octets: Vec<u8> = pair_v6(&v6.flow).into_iter().flat_map(u32::to_ne_bytes).collect();
    assert_eq!(octets, [CUSTOMER_V6, SERVER_V6].concat());
}

proptest! {
    /// Whenever they come: in no hour do more pass than the limit, and in none that is quiet enough fewer.
    #[test]
    fn never_more_than_the_limit_in_any_hour(
        per_hour in 1u32..20,
        start in 0u32..1_000_000,
        pauses in prop::collection::vec(0u32..900, 1..200),
    ) {
        let mut exemption = Exemption::new(u32::MAX, per_hour);
        let mut now = start;
        let mut passed: Vec<u32> = Vec::new();
        for pause in pauses {
            now += pause;
            let within = |seconds: u32| passed.iter().filter(|then| now - **then < seconds).count();
            let (hour, longer) = (within(HOUR), within(80 * 60));
            let admitted = exemption.admit(now);
            prop_assert!(!admitted || hour < per_hour as usize);
            prop_assert!(admitted || longer >= per_hour as usize);
            if admitted {
                passed.push(now);
            }
        }
    }
}

//! Blocks, exemptions, limits and tables in the kernel program, by test runs as in `tests`.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions};
use ipnet::IpNet;
use weir_ebpf_common::{RuleKind, Side, Verdict};

use super::program::Program;
use super::tests::{
    CUSTOMER_V4, Loaded, NEXT, REDIRECT, SERVER_V4, SYN, assert_verdict, in_namespace, load, run, segment_v4,
    tcp, v4, v6,
};
use crate::config::{Limit, WhenAgentDies, WhenBeyond};
use crate::prefixes::Prefixes;
use crate::source::Source;
use crate::steer::test_host::tables;
use crate::steer::{BootTime, Limits, Refusal, RuleTerms, Rules, Tables};

const LATER: Duration = Duration::from_secs(1000);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn rules(prefixes: &[(&str, Duration, Refusal)]) -> Rules {
    let now = BootTime::now();
    let rule = |(prefix, left, refusal): &(&str, Duration, Refusal)| {
        (net(prefix), RuleTerms { until: now.after(*left), refusal: *refusal })
    };
    prefixes.iter().map(rule).collect()
}

fn syn_v4() -> Vec<u8> {
    segment_v4(CUSTOMER_V4, 40_000, 25, SYN)
}

fn syn_v6() -> Vec<u8> {
    v6(6, &tcp(40_000, 25, SYN))
}

/// A policy program, with what is in its tables.
struct Steered {
    program: Loaded,
    tables: Tables,
}

impl Steered {
    fn new(when_agent_dies: WhenAgentDies) -> Self {
        Self { program: load(when_agent_dies), tables: tables(&["10.1.0.0/16", "fd01::/32"]) }
    }

    fn set(&mut self, tables: Tables) {
        self.program.set_tables(&self.tables, &tables).unwrap();
        self.tables = tables;
    }

    #[track_caller]
    fn assert(&mut self, frame: &[u8], expected: Verdict) {
        assert_verdict(&mut self.program, Side::Customer, frame, expected);
    }
}

#[test]
fn blocked_customers_are_refused_with_and_without_a_listener() {
    in_namespace(|| {
        for policy in [WhenAgentDies::Open, WhenAgentDies::Closed] {
            let mut steered = Steered::new(policy);
            let listener = TcpListener::bind("[::]:0").unwrap();
            let blocked =
                rules(&[("10.1.0.0/24", LATER, Refusal::Reset), ("fd01::/64", LATER, Refusal::Drop)]);
            steered.program.set_rules(RuleKind::Blocked, &blocked).unwrap();
            for listening in [false, true] {
                if listening {
                    steered.program.set_listener(&listener.as_fd()).unwrap();
                }
                steered.assert(&syn_v4(), Verdict::BlockedReset);
                steered.assert(&syn_v6(), Verdict::BlockedDropped);
            }
            steered.program.clear_listener().unwrap();
            let applied = steered.program.applied(RuleKind::Blocked).unwrap();
            assert_eq!(applied, BTreeMap::from([(net("10.1.0.0/24"), 2), (net("fd01::/64"), 2)]));
            let neighbour = segment_v4([10, 1, 1, 2], 40_000, 25, SYN);
            let without = match policy {
                WhenAgentDies::Open => Verdict::NoListenerPassed,
                WhenAgentDies::Closed => Verdict::NoListenerDropped,
            };
            steered.assert(&neighbour, without);
            // A rule that stays keeps its count, one that goes is gone.
            let fewer = rules(&[("10.1.0.0/25", LATER, Refusal::Drop)]);
            let kept: Rules =
                blocked.into_iter().filter(|(prefix, _)| prefix.prefix_len() == 24).chain(fewer).collect();
            steered.program.set_rules(RuleKind::Blocked, &kept).unwrap();
            steered.assert(&syn_v4(), Verdict::BlockedDropped);
            steered.assert(&syn_v6(), without);
            let applied = steered.program.applied(RuleKind::Blocked).unwrap();
            assert_eq!(applied, BTreeMap::from([(net("10.1.0.0/24"), 2), (net("10.1.0.0/25"), 1)]));
            steered.program.set_rules(RuleKind::Blocked, &Rules::new()).unwrap();
            steered.assert(&syn_v4(), without);
        }
    });
}

/// The kernel ends it; and a shorter rule that ends first opens no hole in a longer one.
#[test]
fn rules_end_by_themselves() {
    in_namespace(|| {
        let mut steered = Steered::new(WhenAgentDies::Closed);
        let second = Duration::from_secs(1);
        let blocked = [("10.1.0.0/16", LATER, Refusal::Drop), ("10.1.0.2/32", second, Refusal::Reset)];
        steered.program.set_rules(RuleKind::Blocked, &rules(&blocked)).unwrap();
        let exempt = [("fd01::/64", second, Refusal::Drop)];
        steered.program.set_rules(RuleKind::ExemptCustomer, &rules(&exempt)).unwrap();
        steered.assert(&syn_v4(), Verdict::BlockedReset);
        steered.assert(&syn_v6(), Verdict::ExemptCustomer);
        std::thread::sleep(2 * second);
        steered.assert(&syn_v4(), Verdict::BlockedReset);
        steered.assert(&syn_v6(), Verdict::NoListenerDropped);
    });
}

#[test]
fn exempt_prefixes_go_straight() {
    in_namespace(|| {
        let mut steered = Steered::new(WhenAgentDies::Closed);
        for (kind, v4, v6, verdict) in [
            (RuleKind::ExemptCustomer, "10.1.0.0/25", "fd01::2/128", Verdict::ExemptCustomer),
            (RuleKind::ExemptDestination, "192.0.2.0/24", "fd02::/16", Verdict::ExemptDestination),
        ] {
            let exempt = rules(&[(v4, LATER, Refusal::Drop), (v6, LATER, Refusal::Drop)]);
            steered.program.set_rules(kind, &exempt).unwrap();
            steered.assert(&syn_v4(), verdict);
            steered.assert(&syn_v6(), verdict);
            steered.program.set_rules(kind, &Rules::new()).unwrap();
            steered.assert(&syn_v4(), Verdict::NoListenerDropped);
            steered.assert(&syn_v6(), Verdict::NoListenerDropped);
            // The same, configured.
            let nets = |prefix: &str| Prefixes::new(&[net(prefix)]);
            let mut configured = tables(&["10.1.0.0/16", "fd01::/32"]);
            match kind {
                RuleKind::ExemptDestination => configured.exempt_destinations = nets(v4),
                _ => configured.exempt = nets(v4),
            }
            steered.set(configured);
            steered.assert(&syn_v4(), verdict);
            steered.assert(&syn_v6(), Verdict::NoListenerDropped);
            steered.set(tables(&["10.1.0.0/16", "fd01::/32"]));
            steered.assert(&syn_v4(), Verdict::NoListenerDropped);
        }
    });
}

#[test]
fn limits_of_connections_and_of_their_rate() {
    in_namespace(|| {
        let mut steered = Steered::new(WhenAgentDies::Open);
        let listener = TcpListener::bind("[::]:0").unwrap();
        let limits = |connections, new_per_second, beyond| Limits {
            general: Limit { connections, new_per_second, burst: 3 },
            // The whole of IPv6 is without limits.
            overrides: vec![(vec![net("fd01::/32")], Limit::default())],
            beyond,
        };
        let base = tables(&["10.1.0.0/16", "fd01::/32"]);
        let mut counts = steered.program.connections().unwrap();
        let source = Source::of(CUSTOMER_V4.into());
        for (beyond, many, fast) in [
            (WhenBeyond::Drop, Verdict::TooManyDropped, Verdict::TooFastDropped),
            (WhenBeyond::Reset, Verdict::TooManyReset, Verdict::TooFastReset),
        ] {
            steered.program.set_listener(&listener.as_fd()).unwrap();
            steered.set(Tables { limits: limits(2, 0, beyond), ..base.clone() });
            // Refused is as far as a test run comes.
            for (count, verdict) in
                [(0, Verdict::RefusedPassed), (1, Verdict::RefusedPassed), (2, many), (9, many)]
            {
                counts.set(source, count);
                steered.assert(&syn_v4(), verdict);
            }
            counts.set(Source::of("fd01::9".parse().unwrap()), 9);
            steered.assert(&syn_v6(), Verdict::RefusedPassed);
            counts.set(source, 0);
            counts.set(source, 0);
            steered.assert(&syn_v4(), Verdict::RefusedPassed);
            // Of another source each time, so that its bucket is full.
            let other = match beyond {
                WhenBeyond::Drop => [10, 1, 0, 77],
                WhenBeyond::Reset => [10, 1, 0, 78],
            };
            steered.set(Tables { limits: limits(0, 1, beyond), ..base.clone() });
            for _ in 0..3 {
                steered.assert(&segment_v4(other, 40_000, 25, SYN), Verdict::RefusedPassed);
            }
            for _ in 0..3 {
                steered.assert(&segment_v4(other, 40_000, 25, SYN), fast);
            }
            steered.assert(&syn_v4(), Verdict::RefusedPassed);
            // One a second drips in.
            let deadline = std::time::Instant::now() + Duration::from_secs(5);
            let passed = |program: &mut Program| program.counters().unwrap()["refused_passed"];
            let before = passed(&mut steered.program);
            while passed(&mut steered.program) == before && std::time::Instant::now() < deadline {
                run(&mut steered.program, Side::Customer, &segment_v4(other, 40_000, 25, SYN));
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(passed(&mut steered.program), before + 1);
            // Without an agent nobody is limited.
            steered.program.clear_listener().unwrap();
            for _ in 0..9 {
                steered.assert(&segment_v4(other, 40_000, 25, SYN), Verdict::NoListenerPassed);
            }
        }
    });
}

/// The frame that a test run leaves.
fn answer(program: &mut Program, frame: &[u8]) -> (i32, Vec<u8>) {
    let mut out = vec![0; 256];
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result = program.classifier(Side::Customer).unwrap().test_run(options).unwrap();
    (result.return_value.cast_signed(), out)
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

/// A TCP header with a checksum that fits the addresses.
fn summed(mut header: Vec<u8>, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(header.len()).unwrap();
    let pseudo = [addresses, &[0, 0, 0, 6], &[0, 0], &length.to_be_bytes()].concat();
    let checksum = !sum(&[&pseudo[..], &header].concat());
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
    header
}

#[test]
fn a_reset_is_a_packet_that_the_customer_believes() {
    in_namespace(|| {
        let mut program = load(WhenAgentDies::Open);
        let all = rules(&[("10.1.0.0/16", LATER, Refusal::Reset), ("fd01::/32", LATER, Refusal::Reset)]);
        program.set_rules(RuleKind::Blocked, &all).unwrap();
        // With options, as all have them.
        let mut header = tcp(40_000, 25, SYN);
        header[4..8].copy_from_slice(&0xffff_fffe_u32.to_be_bytes());
        header[12] = 0x70;
        header.extend([2, 4, 5, 180, 1, 1, 4, 2]);
        let addresses_v4 = [CUSTOMER_V4, SERVER_V4].concat();
        let mut frame = v4(CUSTOMER_V4, SERVER_V4, 6, 0x4000, &summed(header.clone(), &addresses_v4));
        // To the loopback interface's address: what is not for this host alone gets no answer.
        frame[6..12].copy_from_slice(&[2, 8, 9, 10, 11, 12]);
        let (returned, out) = answer(&mut program, &frame);
        assert_eq!(returned, REDIRECT);
        assert_eq!(out[..12], [2, 8, 9, 10, 11, 12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out[12..18], [8, 0, 0x45, 0, 0, 40]);
        assert_eq!(sum(&out[14..34]), 0xffff, "the IP header's checksum");
        assert_eq!(out[26..34], [SERVER_V4, CUSTOMER_V4].concat());
        assert_eq!(out[34..50], [0, 25, 0x9c, 0x40, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x50, 0x14, 0, 0]);
        let pseudo = [&out[26..34], &[0, 6, 0, 20]].concat();
        assert_eq!(sum(&[&pseudo, &out[34..54]].concat()), 0xffff, "the TCP checksum");
        assert_eq!(out[54..], [0; 202], "nothing behind it");

        let mut frame = v6(6, &header);
        let addresses = frame[22..54].to_vec();
        let summed = summed(header, &addresses);
        frame[54..].copy_from_slice(&summed);
        let (returned, out) = answer(&mut program, &frame);
        assert_eq!(returned, REDIRECT);
        assert_eq!(out[22..54], [&addresses[16..], &addresses[..16]].concat());
        let pseudo = [&out[22..54], &[0, 6, 0, 20]].concat();
        assert_eq!(sum(&[&pseudo, &out[54..74]].concat()), 0xffff, "the TCP checksum");

        let mut to_all = v4(CUSTOMER_V4, SERVER_V4, 6, 0, &tcp(40_000, 25, SYN));
        to_all[..6].copy_from_slice(&[0xff; 6]);
        assert_eq!(answer(&mut program, &to_all).0, 2);
        // Data in a SYN: no answer, and no way.
        let data = v4(CUSTOMER_V4, SERVER_V4, 6, 0, &[tcp(40_000, 25, SYN), b"EHLO".to_vec()].concat());
        assert_eq!(answer(&mut program, &data).0, 2);
    });
}

/// A million different ones, no two of which are neighbours.
pub(super) fn v4_net(number: u32) -> IpNet {
    IpNet::new((0x2000_0000 + number * 512).to_be_bytes().into(), 24).unwrap()
}

pub(super) fn v6_net(number: u32) -> IpNet {
    let address = (0x2400_0000_u128 << 96) | (u128::from(number) << 81);
    IpNet::new(std::net::Ipv6Addr::from_bits(address).into(), 48).unwrap()
}

/// 100,000 prefixes of each family, each with its neighbours that are none.
#[test]
fn a_hundred_thousand_prefixes() {
    in_namespace(|| {
        let mut steered = Steered::new(WhenAgentDies::Closed);
        let all: Vec<IpNet> = (0..100_000).flat_map(|number| [v4_net(number), v6_net(number)]).collect();
        let exempt: Vec<IpNet> = (0..100_000).step_by(10).map(v4_net).collect();
        steered.set(Tables {
            prefixes: Prefixes::new(&all),
            exempt: Prefixes::new(&exempt),
            ..Tables::default()
        });
        assert_eq!(steered.tables.prefixes.all().len(), 200_000);
        for number in (0..100_000u32).step_by(997).chain([99_999]) {
            let exempt = number % 10 == 0;
            let inside = (0x2000_0000 + number * 512 + 255).to_be_bytes();
            let expected = if exempt { Verdict::ExemptCustomer } else { Verdict::NoListenerDropped };
            steered.assert(&segment_v4(inside, 40_000, 25, SYN), expected);
            let outside = (0x2000_0000 + number * 512 + 256).to_be_bytes();
            steered.assert(&segment_v4(outside, 40_000, 25, SYN), Verdict::OutsidePrefixes);
        }
        let mut frame = syn_v6();
        frame[22..38].copy_from_slice(&(0x2400_0000_u128 << 96 | 77 << 81 | 5).to_be_bytes());
        steered.assert(&frame, Verdict::NoListenerDropped);
        frame[22..38].copy_from_slice(&(0x2400_0000_u128 << 96 | 77 << 81 | 1 << 80).to_be_bytes());
        steered.assert(&frame, Verdict::OutsidePrefixes);
        // Gone, all of them, and none of what was before.
        steered.set(tables(&["10.1.0.0/16"]));
        steered.assert(&syn_v4(), Verdict::NoListenerDropped);
        steered.assert(&segment_v4([32, 0, 0, 1], 40_000, 25, SYN), Verdict::OutsidePrefixes);
        steered.assert(&syn_v6(), Verdict::OutsidePrefixes);
    });
}

/// Whatever is tried, the tables that hold stay as they were.
#[test]
fn tables_that_do_not_fit_change_nothing() {
    in_namespace(|| {
        let mut steered = Steered::new(WhenAgentDies::Closed);
        let overrides = vec![(vec![net("10.1.0.0/24")], Limit::default()); 2000];
        let limits = Limits { overrides, ..Limits::default() };
        let too_many = Tables { limits, ..tables(&["10.2.0.0/16"]) };
        for _ in 0..3 {
            let error = steered.program.set_tables(&steered.tables, &too_many).unwrap_err().to_string();
            assert!(error.contains("limits.overrides"), "{error}");
            steered.assert(&syn_v4(), Verdict::NoListenerDropped);
            steered.assert(&segment_v4([10, 2, 0, 2], 40_000, 25, SYN), Verdict::OutsidePrefixes);
        }
        let other = segment_v4(CUSTOMER_V4, 40_000, 443, SYN);
        assert_eq!(run(&mut steered.program, Side::Customer, &other).0, NEXT);
        steered.set(tables(&["10.2.0.0/16"]));
        steered.assert(&syn_v4(), Verdict::OutsidePrefixes);
    });
}

//! The program in the kernel, run on packets made up here (`BPF_PROG_TEST_RUN`). Needs root; each test has a
//! network namespace of its own.
//!
//! There is no `bpf_sk_assign` in a test run: a connection that would be given to the listener counts as
//! refused. That packets do arrive is tested with real ones, in tests/.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use weir_ebpf_common::{Side, Verdict};

use super::program::Program;
use crate::config::{Backend, WhenAgentDies};
use crate::pulse::{BEAT, Heart};
use crate::steer::test_host::plan;
use crate::steer::{BootTime, PER_HOUR, Pair, Plan, Terms};

pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;
const MARK: u32 = 0x4d58_0000;
/// TCX_NEXT: other programs run on.
pub(super) const NEXT: i32 = -1;
const DROP: i32 = 2;
pub(super) const REDIRECT: i32 = 7;

pub(super) const CUSTOMER_V4: [u8; 4] = [10, 1, 0, 2];
const STRANGER_V4: [u8; 4] = [10, 9, 0, 2];
pub(super) const SERVER_V4: [u8; 4] = [192, 0, 2, 2];
const CUSTOMER_V6: [u8; 16] = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const SERVER_V6: [u8; 16] = [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Runs the test in a network namespace, with the loopback interface up.
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "this test loads a kernel program: run it as root");
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        test();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// A program, and an agent that lives.
pub(super) struct Loaded {
    program: Program,
    _heart: Heart,
}

impl Deref for Loaded {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Loaded {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

pub(super) fn load(when_agent_dies: WhenAgentDies) -> Loaded {
    let mut program = load_without_agent(when_agent_dies);
    let heart = Heart::start(Arc::default(), BEAT, program.beat().unwrap()).unwrap();
    Loaded { program, _heart: heart }
}

fn load_without_agent(when_agent_dies: WhenAgentDies) -> Program {
    let plan = Plan {
        customer_interfaces: Vec::new(),
        internet_interfaces: Vec::new(),
        ..plan(Backend::Ebpf, when_agent_dies)
    };
    Program::load(&plan).unwrap()
}

/// What the program returned, and the packet's mark.
pub(super) fn run(program: &mut Program, side: Side, frame: &[u8]) -> (i32, u32) {
    let mut context = [0u8; 192];
    let options =
        TestRunOptions { data_in: Some(frame), ctx_out: Some(&mut context), ..TestRunOptions::default() };
    let result = program.classifier(side).unwrap().test_run(options).unwrap();
    let mark = u32::from_ne_bytes(context[8..12].try_into().unwrap());
    (result.return_value.cast_signed(), mark)
}

/// Asserts the verdict on a packet, by its counter, and what follows from the verdict.
#[track_caller]
pub(super) fn assert_verdict(program: &mut Program, side: Side, frame: &[u8], expected: Verdict) {
    use weir_ebpf_common::Action;

    let before = program.counters().unwrap();
    let outcome = run(program, side, frame);
    let after = program.counters().unwrap();
    let changed: Vec<_> = after.iter().filter(|(name, count)| before[*name] != **count).collect();
    assert_eq!(changed, [(&expected.name().to_owned(), &(before[expected.name()] + 1))]);
    let follows = match expected.action() {
        Action::Pass => (NEXT, 0),
        Action::Steer => (NEXT, MARK),
        Action::Drop => (DROP, 0),
        Action::Reset => (REDIRECT, 0),
    };
    assert_eq!(outcome, follows, "{expected:?}");
}

/// A moment may pass until a socket that was closed is gone: a child that another test is starting has a copy
/// until it runs.
fn wait_for(program: &mut Program, frame: &[u8], expected: Verdict) {
    for _ in 0..100 {
        if is_verdict(program, frame, expected) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_verdict(program: &mut Program, frame: &[u8], expected: Verdict) -> bool {
    let before = program.counters().unwrap();
    run(program, Side::Customer, frame);
    program.counters().unwrap()[expected.name()] != before[expected.name()]
}

fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

pub(super) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[0..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&destination.to_be_bytes());
    (header[12], header[13]) = (0x50, flags);
    header
}

fn packet_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, fragment[0], fragment[1], 64, protocol, 0, 0];
    packet.extend([source, destination].concat());
    packet.extend_from_slice(payload);
    packet
}

pub(super) fn v4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    frame(0x0800, &packet_v4(source, destination, protocol, fragment, payload))
}

pub(super) fn segment_v4(source: [u8; 4], source_port: u16, destination_port: u16, flags: u8) -> Vec<u8> {
    v4(source, SERVER_V4, 6, 0, &tcp(source_port, destination_port, flags))
}

pub(super) fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    packet.extend([CUSTOMER_V6, SERVER_V6].concat());
    packet.extend_from_slice(payload);
    frame(0x86dd, &packet)
}

/// A TCP header to port 25 behind `count` destination options headers.
fn behind_headers(count: usize) -> Vec<u8> {
    let headers = (0..count).map(|at| if at + 1 == count { 6 } else { 60 });
    let mut payload: Vec<u8> = headers.flat_map(|next| [next, 0, 1, 4, 0, 0, 0, 0]).collect();
    payload.extend(tcp(40_000, 25, SYN));
    v6(60, &payload)
}

#[test]
fn what_is_not_a_customers_mail_passes() {
    in_namespace(|| {
        let mut program = load(WhenAgentDies::Closed);
        for side in Side::BOTH {
            let https = segment_v4(CUSTOMER_V4, 40_000, 443, SYN);
            assert_verdict(&mut program, side, &https, Verdict::Unrelated);
            let udp = v4(CUSTOMER_V4, SERVER_V4, 17, 0, &tcp(40_000, 25, SYN));
            assert_verdict(&mut program, side, &udp, Verdict::Unrelated);
            let arp = frame(0x0806, &[0; 28]);
            assert_verdict(&mut program, side, &arp, Verdict::Unrelated);
            let older = segment_v4(CUSTOMER_V4, 40_000, 25, ACK);
            assert_verdict(&mut program, side, &older, Verdict::NotOurs);
        }
        let stranger = segment_v4(STRANGER_V4, 40_000, 25, SYN);
        assert_verdict(&mut program, Side::Customer, &stranger, Verdict::OutsidePrefixes);
        let from_outside = segment_v4(CUSTOMER_V4, 40_000, 25, SYN);
        assert_verdict(&mut program, Side::Internet, &from_outside, Verdict::NotOurs);
    });
}

#[test]
fn new_connections_with_and_without_a_listener() {
    in_namespace(|| {
        for (policy, without, refused) in [
            (WhenAgentDies::Open, Verdict::NoListenerPassed, Verdict::RefusedPassed),
            (WhenAgentDies::Closed, Verdict::NoListenerDropped, Verdict::RefusedDropped),
        ] {
            let mut program = load(policy);
            let listener = TcpListener::bind("[::]:0").unwrap();
            for syn in [segment_v4(CUSTOMER_V4, 40_000, 25, SYN), v6(6, &tcp(40_000, 25, SYN))] {
                assert_verdict(&mut program, Side::Customer, &syn, without);
                program.set_listener(&listener.as_fd()).unwrap();
                assert_verdict(&mut program, Side::Customer, &syn, refused);
                program.clear_listener().unwrap();
                assert_verdict(&mut program, Side::Customer, &syn, without);
            }
            program.set_listener(&listener.as_fd()).unwrap();
            drop(listener);
            let syn = segment_v4(CUSTOMER_V4, 40_000, 25, SYN);
            wait_for(&mut program, &syn, without);
            assert_verdict(&mut program, Side::Customer, &syn, without);
            program.clear_listener().unwrap();
        }
    });
}

#[test]
fn exempt_pairs_go_straight() {
    in_namespace(|| {
        // In `closed` without a listener, so that nothing else passes.
        let mut program = load(WhenAgentDies::Closed);
        let pairs = [
            Pair::new(CUSTOMER_V4.into(), SERVER_V4.into()).unwrap(),
            Pair::new(CUSTOMER_V6.into(), SERVER_V6.into()).unwrap(),
        ];
        let syns = [segment_v4(CUSTOMER_V4, 40_000, 25, SYN), v6(6, &tcp(40_000, 25, SYN))];
        let terms =
            |seconds| Terms { until: BootTime::now().after(Duration::from_secs(seconds)), limited: false };
        for (pair, syn) in pairs.into_iter().zip(&syns) {
            assert_verdict(&mut program, Side::Customer, syn, Verdict::NoListenerDropped);
            program.exempt(&[(pair, terms(1000))]).unwrap();
            for _ in 0..=PER_HOUR {
                assert_verdict(&mut program, Side::Customer, syn, Verdict::Exempt);
            }
            // With other terms: over already.
            program.exempt(&[(pair, terms(0))]).unwrap();
            thread::sleep(Duration::from_secs(1));
            assert_verdict(&mut program, Side::Customer, syn, Verdict::NoListenerDropped);
            program.exempt(&[(pair, terms(1000))]).unwrap();
            assert_verdict(&mut program, Side::Customer, syn, Verdict::Exempt);
        }
        // What is no SYN goes the way it went, whatever is said of the pair meanwhile.
        for flags in [ACK, ACK | 1, 0x04] {
            let later = segment_v4(CUSTOMER_V4, 40_000, 25, flags);
            assert_verdict(&mut program, Side::Customer, &later, Verdict::NotOurs);
        }
        // The same customer to others, others to the same destination, and a fragment of his.
        let elsewhere = v4(CUSTOMER_V4, [192, 0, 2, 3], 6, 0, &tcp(40_000, 25, SYN));
        assert_verdict(&mut program, Side::Customer, &elsewhere, Verdict::NoListenerDropped);
        let neighbour = segment_v4([10, 1, 0, 3], 40_000, 25, SYN);
        assert_verdict(&mut program, Side::Customer, &neighbour, Verdict::NoListenerDropped);
        let fragment = v4(CUSTOMER_V4, SERVER_V4, 6, 0x2000, &tcp(40_000, 25, SYN));
        assert_verdict(&mut program, Side::Customer, &fragment, Verdict::FragmentDropped);
        program.unexempt(&pairs).unwrap();
        program.unexempt(&pairs).unwrap();
        for syn in &syns {
            assert_verdict(&mut program, Side::Customer, syn, Verdict::NoListenerDropped);
        }
    });
}

#[test]
fn exempt_pairs_with_a_limit_are_intercepted_beyond_it() {
    in_namespace(|| {
        let mut program = load(WhenAgentDies::Closed);
        let terms = Terms { until: BootTime::now().after(Duration::from_secs(1000)), limited: true };
        let v4 = Pair::new(CUSTOMER_V4.into(), SERVER_V4.into()).unwrap();
        let v6_pair = Pair::new(CUSTOMER_V6.into(), SERVER_V6.into()).unwrap();
        program.exempt(&[(v4, terms), (v6_pair, terms)]).unwrap();
        for syn in [segment_v4(CUSTOMER_V4, 40_000, 25, SYN), v6(6, &tcp(40_000, 25, SYN))] {
            for _ in 0..PER_HOUR {
                assert_verdict(&mut program, Side::Customer, &syn, Verdict::Exempt);
            }
            for _ in 0..3 {
                assert_verdict(&mut program, Side::Customer, &syn, Verdict::NoListenerDropped);
            }
        }
    });
}

#[test]
fn a_release_lets_all_pass_until_it_ends() {
    in_namespace(|| {
        // In `closed` without a listener, so that nothing else passes.
        let mut program = load(WhenAgentDies::Closed);
        let syns = [segment_v4(CUSTOMER_V4, 40_000, 25, SYN), v6(6, &tcp(40_000, 25, SYN))];
        let fragment = v4(CUSTOMER_V4, SERVER_V4, 6, 0x2000, &tcp(40_000, 25, SYN));
        let intercepted = |program: &mut Program| {
            for syn in &syns {
                assert_verdict(program, Side::Customer, syn, Verdict::NoListenerDropped);
            }
            assert_verdict(program, Side::Customer, &fragment, Verdict::FragmentDropped);
        };
        let later = |seconds| Some(BootTime::now().after(Duration::from_secs(seconds)));
        intercepted(&mut program);
        program.release(later(1000)).unwrap();
        for syn in &syns {
            assert_verdict(&mut program, Side::Customer, syn, Verdict::Released);
            assert_verdict(&mut program, Side::Internet, syn, Verdict::NotOurs);
        }
        assert_verdict(&mut program, Side::Customer, &fragment, Verdict::Unrelated);
        let stranger = segment_v4(STRANGER_V4, 40_000, 25, SYN);
        assert_verdict(&mut program, Side::Customer, &stranger, Verdict::OutsidePrefixes);
        let older = segment_v4(CUSTOMER_V4, 40_000, 25, ACK);
        assert_verdict(&mut program, Side::Customer, &older, Verdict::NotOurs);
        program.release(None).unwrap();
        intercepted(&mut program);
        // By itself.
        program.release(later(1)).unwrap();
        wait_for(&mut program, &syns[0], Verdict::NoListenerDropped);
        intercepted(&mut program);
    });
}

#[test]
fn mail_to_the_gateway_or_to_nowhere_passes() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1").unwrap();
        let mut program = load(WhenAgentDies::Closed);
        let syn = segment_v4(CUSTOMER_V4, 40_000, 25, SYN);
        assert_verdict(&mut program, Side::Customer, &syn, Verdict::LocalOrUnroutable);
        let local = v4(CUSTOMER_V4, [127, 0, 0, 1], 6, 0, &tcp(40_000, 25, SYN));
        assert_verdict(&mut program, Side::Customer, &local, Verdict::LocalOrUnroutable);
        ip("route add blackhole 192.0.2.0/24");
        assert_verdict(&mut program, Side::Customer, &syn, Verdict::LocalOrUnroutable);
        ip("route replace 192.0.2.0/24 dev lo");
        assert_verdict(&mut program, Side::Customer, &syn, Verdict::NoListenerDropped);
    });
}

#[test]
fn ways_around_are_dropped() {
    const MORE: u16 = 0x2000;
    in_namespace(|| {
        let mut program = load(WhenAgentDies::Closed);
        let first = v4(CUSTOMER_V4, SERVER_V4, 6, MORE, &tcp(40_000, 25, SYN));
        assert_verdict(&mut program, Side::Customer, &first, Verdict::FragmentDropped);
        assert_verdict(&mut program, Side::Internet, &first, Verdict::Unrelated);
        let later = v4(CUSTOMER_V4, SERVER_V4, 6, MORE | 3, &tcp(40_000, 25, SYN));
        assert_verdict(&mut program, Side::Customer, &later, Verdict::Unrelated);
        let short = v4(CUSTOMER_V4, SERVER_V4, 6, MORE, &[]);
        assert_verdict(&mut program, Side::Customer, &short, Verdict::ShortFragmentDropped);
        let strangers = v4(STRANGER_V4, SERVER_V4, 6, MORE, &tcp(40_000, 25, SYN));
        assert_verdict(&mut program, Side::Customer, &strangers, Verdict::Unrelated);
        let mut fragment_v6 = vec![6, 0, 0, 1, 0, 0, 0, 0];
        fragment_v6.extend(tcp(40_000, 25, SYN));
        assert_verdict(&mut program, Side::Customer, &v6(44, &fragment_v6), Verdict::FragmentDropped);
        for count in 1..=6 {
            let seen = behind_headers(count);
            assert_verdict(&mut program, Side::Customer, &seen, Verdict::NoListenerDropped);
        }
        for count in [7, 8, 20] {
            let hidden = behind_headers(count);
            assert_verdict(&mut program, Side::Customer, &hidden, Verdict::ExtensionHeadersDropped);
        }

        let mut open = load(WhenAgentDies::Open);
        assert_verdict(&mut open, Side::Customer, &first, Verdict::Unrelated);
        let listener = TcpListener::bind("[::]:0").unwrap();
        open.set_listener(&listener.as_fd()).unwrap();
        assert_verdict(&mut open, Side::Customer, &first, Verdict::FragmentDropped);
    });
}

#[test]
fn connections_of_this_host_are_marked() {
    in_namespace(|| {
        let mut program = load(WhenAgentDies::Open);
        let local = [127, 0, 0, 1];
        let segment = |source, destination, flags| v4(local, local, 6, 0, &tcp(source, destination, flags));
        // A server of the gateway's own, listening: its new connections are none of ours.
        let server = TcpListener::bind("127.0.0.1:25").unwrap();
        assert_verdict(&mut program, Side::Customer, &segment(40_000, 25, SYN), Verdict::OutsidePrefixes);
        let client = TcpStream::connect("127.0.0.1:25").unwrap();
        let (_accepted, _) = server.accept().unwrap();
        let port = client.local_addr().unwrap().port();
        for side in Side::BOTH {
            assert_verdict(&mut program, side, &segment(port, 25, ACK), Verdict::Established);
            assert_verdict(&mut program, side, &segment(25, port, ACK), Verdict::Established);
        }
        let quote = |port| {
            let quoted = packet_v4(local, local, 6, 0, &tcp(port, 25, ACK));
            v4(SERVER_V4, local, 1, 0, &[&[3, 4, 0, 0, 0, 0, 5, 20], &quoted[..28]].concat())
        };
        assert_verdict(&mut program, Side::Internet, &quote(port), Verdict::IcmpError);
        assert_verdict(&mut program, Side::Internet, &quote(port ^ 1), Verdict::Unrelated);
    });
}

#[test]
fn our_own_syn_sent_back_is_dropped() {
    in_namespace(|| {
        ip("route add 192.0.2.0/24 dev lo");
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        socket.set_ip_transparent_v4(true).unwrap();
        socket.bind(&SocketAddr::from((CUSTOMER_V4, 20_000)).into()).unwrap();
        let _ = socket.connect(&SocketAddr::from((SERVER_V4, 25)).into());
        let mut program = load(WhenAgentDies::Open);
        for side in Side::BOTH {
            let own = segment_v4(CUSTOMER_V4, 20_000, 25, SYN);
            assert_verdict(&mut program, side, &own, Verdict::LoopedBackDropped);
        }
        let customers = segment_v4(CUSTOMER_V4, 20_001, 25, SYN);
        assert_verdict(&mut program, Side::Customer, &customers, Verdict::NoListenerPassed);
    });
}

#[test]
fn an_agent_that_is_silent_is_hung_until_it_beats_again() {
    in_namespace(|| {
        for (policy, hung, refused) in [
            (WhenAgentDies::Open, Verdict::HungPassed, Verdict::RefusedPassed),
            (WhenAgentDies::Closed, Verdict::HungDropped, Verdict::RefusedDropped),
        ] {
            let mut program = load_without_agent(policy);
            let listener = TcpListener::bind("[::]:0").unwrap();
            program.set_listener(&listener.as_fd()).unwrap();
            let syn = segment_v4(CUSTOMER_V4, 40_000, 25, SYN);
            assert_verdict(&mut program, Side::Customer, &syn, hung);
            let mut beat = program.beat().unwrap();
            wait_for(&mut program, &syn, hung);
            assert_verdict(&mut program, Side::Customer, &syn, hung);
            let alive = (0..100).any(|_| {
                beat();
                is_verdict(&mut program, &syn, refused)
            });
            assert!(alive, "a beat is not seen");
        }
    });
}

#[test]
fn where_answers_are_in_doubt_so_many_are_taken_and_no_more() {
    in_namespace(|| {
        let mut program = load(WhenAgentDies::Open);
        let listener = TcpListener::bind("[::]:0").unwrap();
        program.set_listener(&listener.as_fd()).unwrap();
        let syn = segment_v4(CUSTOMER_V4, 40_000, 25, SYN);
        program.admit(Some(2)).unwrap();
        for expected in [Verdict::RefusedPassed, Verdict::RefusedPassed, Verdict::UnprovenPassed] {
            assert_verdict(&mut program, Side::Customer, &syn, expected);
        }
        program.admit(None).unwrap();
        assert_verdict(&mut program, Side::Customer, &syn, Verdict::RefusedPassed);
    });
}

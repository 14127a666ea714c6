//! What prefixes cost (`make measure-prefixes`), and what interfaces do. The results are in docs/.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::Map;
use aya::programs::{TestRun, TestRunOptions};
use ipnet::IpNet;
use weir_ebpf_common::Side;

use super::Ebpf;
use super::interfaces::known_links;
use super::policy_tests::{v4_net, v6_net};
use super::program::Program;
use super::tests::{ACK, SYN, in_namespace, load, segment_v4, tcp, v4, v6};
use crate::config::{Backend, WhenAgentDies};
use crate::prefixes::Prefixes;
use crate::steer::Claim;
use crate::steer::test_host::{ip, on_a_host, plan, tables};
use crate::steer::{Known, Plan, Steering, Tables};

/// Runs of each of the packets that are warm.
const REPEAT: u32 = 100_000;

/// Packets of different customers, in turn.
const CUSTOMERS: u32 = 20_000;

/// Nanoseconds of one run.
fn cost(program: &mut Program, frame: &[u8], repeat: u32) -> u128 {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
    program.classifier(Side::Customer).unwrap().test_run(options).unwrap().duration.as_nanos()
}

/// The kernel's own word, as bpftool has it.
fn bytes(program: &Program, wanted: &[&str]) -> u64 {
    let maps = program.maps().filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
    maps.map(|(_, map)| memory(map)).sum()
}

fn memory(map: &Map) -> u64 {
    let (Map::LpmTrie(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::SockMap(data)) = map
    else {
        return 0;
    };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd())).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
    line.trim().parse().unwrap()
}

fn filled(count: u32, from: u32) -> Tables {
    let all: Vec<IpNet> = (from..from + count).flat_map(|number| [v4_net(number), v6_net(number)]).collect();
    Tables { prefixes: Prefixes::new(&all), ..Tables::default() }
}

/// A SYN of the customer with this number.
fn syns(number: u32) -> [Vec<u8>; 2] {
    let v4 = segment_v4((0x2000_0000 + number * 512 + 7).to_be_bytes(), 40_000, 25, SYN);
    let mut frame = v6(6, &tcp(40_000, 25, SYN));
    frame[22..38].copy_from_slice(&(0x2400_0000_u128 << 96 | u128::from(number) << 81 | 7).to_be_bytes());
    [v4, frame]
}

/// A packet of a connection that this host has.
fn of_a_connection(program: &mut Program) -> u128 {
    let server = TcpListener::bind("127.0.0.1:25").unwrap();
    let client = TcpStream::connect("127.0.0.1:25").unwrap();
    let (_accepted, _) = server.accept().unwrap();
    let (local, port) = ([127, 0, 0, 1], client.local_addr().unwrap().port());
    cost(program, &v4(local, local, 6, 0, &tcp(port, 25, ACK)), REPEAT)
}

fn mean(costs: impl Iterator<Item = u128>) -> u128 {
    let (sum, count) = costs.fold((0, 0), |(sum, count), cost| (sum + cost, count + 1));
    sum / count
}

fn line(count: u32) -> String {
    let mut program = load(WhenAgentDies::Closed);
    let (first, second) = (filled(count, 0), filled(count, 0));
    let took = |start: Instant| -> Duration { start.elapsed() };
    let start = Instant::now();
    program.set_tables(&tables(&["10.1.0.0/16", "fd01::/32"]), &first).unwrap();
    let load_time = took(start);
    let start = Instant::now();
    program.set_tables(&first, &second).unwrap();
    let reload_time = took(start);
    let step = (count / CUSTOMERS).max(1);
    // A step that has nothing in common with the numbers, so that customers come from all over the table.
    let numbers: Vec<u32> =
        (0..CUSTOMERS).map(|index| index.wrapping_mul(7919) % count.min(CUSTOMERS) * step).collect();
    let warm = |program: &mut Program, family: usize| {
        mean(numbers.iter().take(20).map(|number| cost(program, &syns(*number)[family], REPEAT)))
    };
    let (v4, v6) = (warm(&mut program, 0), warm(&mut program, 1));
    let in_turn = |program: &mut Program, family: usize| {
        mean(numbers.iter().map(|number| cost(program, &syns(*number)[family], 1)))
    };
    let (v4_in_turn, v6_in_turn) = (in_turn(&mut program, 0), in_turn(&mut program, 1));
    let https = cost(&mut program, &segment_v4([32, 0, 0, 7], 40_000, 443, SYN), REPEAT);
    let later = cost(&mut program, &segment_v4([32, 0, 0, 7], 40_000, 25, ACK), REPEAT);
    let established = of_a_connection(&mut program);
    let outside = cost(&mut program, &segment_v4([10, 1, 0, 7], 40_000, 25, SYN), REPEAT);
    let mib = |bytes: u64| format!("{}.{}", bytes >> 20, (bytes >> 10 & 1023) * 10 / 1024);
    let tries = mib(bytes(&program, &["PREFIXES_V4", "PREFIXES_V6"]));
    format!(
        "| {count} | {https} | {established} | {later} | {outside} | {v4} / {v6} | {v4_in_turn} / {v6_in_turn} | {} ms | {} ms | {tries} \
         MiB | {} MiB |",
        load_time.as_millis(),
        reload_time.as_millis(),
        mib(bytes(&program, &[]))
    )
}

#[test]
#[ignore = "takes a minute, and what it finds is for reading: make measure-prefixes"]
fn prefixes() {
    in_namespace(|| {
        println!(
            "| prefixes of each family | ns: not port 25 | of a connection | ACK, no connection of the gateway's | SYN from no prefix | SYN of a \
             customer, IPv4 / IPv6 | of {CUSTOMERS} customers in turn | to load | to replace by as many | tries | all maps |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
        for count in [10, 100_000, 1_000_000] {
            println!("{}", line(count));
        }
    });
}

/// Interfaces at once, as a host of virtual machines has them.
const INTERFACES: usize = 1000;

#[test]
#[ignore = "takes a minute, and what it finds is for reading"]
fn interfaces() {
    on_a_host(|| {
        let taps: String = (0..INTERFACES)
            .map(|number| format!("tuntap add tap{number} mode tap\nlink set tap{number} up\n"))
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), taps).unwrap();
        ip(&format!("-batch {}", file.path().display()));
        let plan = Plan {
            customer_interfaces: vec!["cust0".to_owned(), "tap*".to_owned()],
            ..plan(Backend::Ebpf, WhenAgentDies::Open)
        };
        let took = |what: &str, start: Instant| println!("{what}: {:?}", start.elapsed());
        let start = Instant::now();
        let listener = OwnedFd::from(TcpListener::bind("[::]:0").unwrap());
        let claim = Claim::take(&plan).unwrap();
        let mut steering = Ebpf::install(plan, &Known::default(), listener, Arc::default(), claim).unwrap();
        took("start", start);
        let start = Instant::now();
        known_links().unwrap();
        took("list of interfaces", start);
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(steering.problems(), Vec::<String>::new());
            took("check", start);
        }
        let start = Instant::now();
        steering.remove().unwrap();
        took("stop", start);
    });
}

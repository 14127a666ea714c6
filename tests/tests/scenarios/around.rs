//! Ways around the filter, tried by a customer with packets of his own making: no connection that he opens to a
//! destination's port 25 is answered by the destination, and each packet is counted.
//!
//! Each is tried without weir first: one that the destination does not answer then proves nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use weir_tests::components::{AgentConfig, Backend, WeirAgent, WeirFilter};
use weir_tests::crafted::{
    ACK, AUTHENTICATION, Cable, DESTINATION_OPTIONS, FIN, FRAGMENT, GRE, HOP_BY_HOP, IPIP, IPV6_IN_IP, Ip,
    MORE, PROVIDER_VLAN, PSH, ROUTING, RST, SYN, TCP, URG, VLAN, extension, fragment, routing,
    segment_routing, source_route, tcp,
};
use weir_tests::lab::{CUSTOMER_INTERFACE, Family, Lab, NarrowLink};
use weir_tests::probe::{Way, way};
use weir_tests::smtp::{Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(plain_packets, options_and_headers, fragments, tags, source_routes, tunnels);

/// The customer's ports: no other program of the lab has them. One of them is 25.
const FIRST_PORT: u16 = 45_000;
const BARRIER_PORT: u16 = 44_000;

type Frame = (Vec<(u16, u16)>, Vec<u8>);

/// One attempt.
struct Attempt {
    name: String,
    /// The customer's port, by which the destination's answer is known.
    port: u16,
    frames: Vec<Frame>,
    /// What becomes of it without weir: whether the destination answers.
    answered: bool,
    /// The counter of the tc program that grows, once for each attempt.
    counter: &'static str,
}

/// Attempts to open a connection from a customer's address, each from a port of its own.
struct Attempts {
    family: Family,
    all: Vec<Attempt>,
}

impl Attempts {
    fn new(family: Family) -> Self {
        Self { family, all: Vec::new() }
    }

    fn from(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.family.customer(), port)
    }

    fn to(&self) -> SocketAddr {
        SocketAddr::new(self.family.destination(), 25)
    }

    fn ip(&self) -> Ip<'static> {
        Ip::new(self.family.customer(), self.family.destination())
    }

    fn next_port(&self) -> u16 {
        FIRST_PORT + u16::try_from(self.all.len()).unwrap_or_default()
    }

    /// The SYN of the next attempt.
    fn syn(&self) -> Vec<u8> {
        self.segment(SYN, b"")
    }

    fn segment(&self, flags: u8, data: &[u8]) -> Vec<u8> {
        tcp(self.from(self.next_port()), self.to(), flags, data)
    }

    fn add(&mut self, name: &str, answered: bool, counter: &'static str, packets: &[Vec<u8>]) {
        self.add_tagged(name, answered, counter, &[], packets);
    }

    fn add_tagged(
        &mut self,
        name: &str,
        answered: bool,
        counter: &'static str,
        tags: &[(u16, u16)],
        packets: &[Vec<u8>],
    ) {
        let name = format!("{:?}: {name}", self.family);
        let frames = packets.iter().map(|packet| (tags.to_vec(), packet.clone())).collect();
        self.all.push(Attempt { name, port: self.next_port(), frames, answered, counter });
    }
}

/// The customer with his cable, and the destination that answers or not.
struct Field<'a> {
    lab: &'a Lab,
    cable: Cable,
    _servers: Vec<Server>,
}

impl<'a> Field<'a> {
    fn prepare(lab: &'a Lab) -> Result<Self> {
        let start = |family: Family| Server::start(&lab.internet, family.destination(), Script::default());
        let servers = Family::BOTH.into_iter().map(start).collect::<Result<Vec<_>>>()?;
        // Before anything else looks at them: what the destination itself answers.
        lab.internet.sh("nft 'add table inet seen
                add set inet seen answered { type inet_service; }
                add chain inet seen out { type filter hook output priority -500; }
                add rule inet seen out tcp sport 25 tcp flags & (syn | ack) == syn | ack \
                    add @answered { tcp dport }'")?;
        // Neighbours know each other before packets are counted.
        for family in Family::BOTH {
            ensure!(way(&lab.customer, family.customer(), family.destination())? == Way::Straight);
        }
        let cable = Cable::between(&lab.customer, &lab.gateway, CUSTOMER_INTERFACE)?;
        Ok(Self { lab, cable, _servers: servers })
    }

    fn answered(&self) -> Result<Vec<u16>> {
        let set = self.lab.internet.sh("nft list set inet seen answered")?;
        let elements = set.split_once("elements = {").map_or("", |(_, rest)| rest);
        Ok(elements.split([',', '}', ' ', '\n']).filter_map(|word| word.trim().parse().ok()).collect())
    }

    /// Sends the attempt, and behind it what is not weir's to take: when that is answered, the attempt was seen by all.
    fn make(&self, attempt: &Attempt) -> Result<bool> {
        self.lab.internet.sh("nft flush set inet seen answered")?;
        for (tags, packet) in &attempt.frames {
            self.cable.send_tagged(tags, packet)?;
        }
        let (from, to) = (Family::V4.outsider(), Family::V4.destination());
        let barrier = tcp(SocketAddr::new(from, BARRIER_PORT), SocketAddr::new(to, 25), SYN, b"");
        self.cable.send(&Ip::new(from, to).packet(&barrier))?;
        let mut answered = Vec::new();
        wait_until("the answer to a stranger", PATIENCE, || {
            answered = self.answered()?;
            Ok(answered.contains(&BARRIER_PORT))
        })?;
        Ok(answered.contains(&attempt.port))
    }
}

/// Those of the tc program: nftables has not one for each.
fn counters(lab: &Lab, backend: Backend) -> Result<BTreeMap<String, u64>> {
    if backend == Backend::Tproxy {
        return Ok(BTreeMap::new());
    }
    let status = WeirAgent::status(&lab.gateway)?;
    let counters = status["steering"].as_object().context("counters of steering")?;
    Ok(counters.iter().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect())
}

/// Makes them without weir and with it.
fn attempt(backend: Backend, name: &str, setup: &str, attempts: impl Fn(&mut Attempts)) -> Result<()> {
    Lab::run(name, NarrowLink::Nowhere, |lab| {
        let mut all = Vec::new();
        for family in Family::BOTH {
            let mut of_family = Attempts::new(family);
            attempts(&mut of_family);
            all.extend(of_family.all);
        }
        for host in [&lab.gateway, &lab.internet] {
            host.sh(&format!("{setup}\ntrue"))?;
        }
        let field = Field::prepare(lab)?;
        let mut wrong = Vec::new();
        for attempt in &all {
            let answered = field.make(attempt)?;
            if answered != attempt.answered {
                wrong.push(format!("{} without weir: answered: {answered}", attempt.name));
            }
        }
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            // From now on answers are known to come back.
            ensure!(way(&lab.customer, family.customer(), family.destination())? == Way::Intercepted);
        }
        for attempt in &all {
            let before = counters(lab, backend)?;
            if field.make(attempt)? {
                wrong.push(format!("{}: the destination answered", attempt.name));
            }
            let after = counters(lab, backend)?;
            let grown = |name: &str| after.get(name) > before.get(name);
            if backend == Backend::Ebpf && !grown(attempt.counter) {
                let grown: Vec<_> = after.keys().filter(|name| grown(name)).collect();
                wrong.push(format!("{}: counted {grown:?}, not {}", attempt.name, attempt.counter));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        agent.stop()
    })
}

/// Flags, data, ports and hop limits.
fn plain_packets(backend: Backend) -> Result<()> {
    attempt(backend, "around-plain", "", |attempts| {
        let ip = attempts.ip();
        let mut one = |name: &str, answered, counter, flags, data: &[u8]| {
            let packet = ip.packet(&attempts.segment(flags, data));
            attempts.add(name, answered, counter, &[packet]);
        };
        one("a SYN", true, "new_connection", SYN, b"");
        one("a SYN with data", true, "new_connection", SYN, b"EHLO mail.customer.test\r\n");
        one("a SYN with PSH and URG", true, "new_connection", SYN | PSH | URG, b"");
        one("a SYN with ECN flags", true, "new_connection", SYN | 0xc0, b"");
        one("a SYN with FIN", false, "new_connection", SYN | FIN, b"");
        one("a SYN with RST", false, "not_ours", SYN | RST, b"");
        one("a SYN with ACK", false, "not_ours", SYN | ACK, b"");
        one("an ACK alone", false, "not_ours", ACK, b"EHLO mail.customer.test\r\n");
        one("no flags", false, "not_ours", 0, b"");
        let own = tcp(attempts.from(25), attempts.to(), SYN, b"");
        attempts.add("a SYN from port 25", true, "new_connection", &[ip.packet(&own)]);
        if let Some(last) = attempts.all.last_mut() {
            last.port = 25;
        }
        let last_hop = Ip { hops: 1, ..ip }.packet(&attempts.syn());
        attempts.add("a SYN with one hop left", false, "new_connection", &[last_hop]);
    })
}

/// What may stand between the IP header and the TCP header.
fn options_and_headers(backend: Backend) -> Result<()> {
    attempt(backend, "around-headers", "", |attempts| match attempts.family {
        Family::V4 => {
            for (name, options) in [
                ("record route", [7, 7, 4, 0, 0, 0, 0, 0]),
                ("time stamps", [68, 8, 5, 0, 0, 0, 0, 0]),
                ("nothing", [1; 8]),
            ] {
                let packet = Ip { options: &options, ..attempts.ip() }.packet(&attempts.syn());
                attempts.add(&format!("options: {name}"), true, "new_connection", &[packet]);
            }
            // Without a key in common the destination does not take it.
            let authenticated =
                [&[TCP, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], [0; 12].as_slice(), &attempts.syn()];
            let packet = Ip { protocol: AUTHENTICATION, ..attempts.ip() }.packet(&authenticated.concat());
            attempts.add("authentication header", false, "unrelated", &[packet]);
        }
        Family::V6 => {
            let mut one = |name: &str, answered, counter, protocol, payload: &dyn Fn(&[u8]) -> Vec<u8>| {
                let packet = Ip { protocol, ..attempts.ip() }.packet(&payload(&attempts.syn()));
                attempts.add(name, answered, counter, &[packet]);
            };
            let chain = |count: usize| {
                move |syn: &[u8]| {
                    (0..count).fold(syn.to_vec(), |rest, behind| {
                        extension(if behind == 0 { TCP } else { DESTINATION_OPTIONS }, &rest)
                    })
                }
            };
            one("hop-by-hop options", true, "new_connection", HOP_BY_HOP, &chain(1));
            for (count, counter) in [
                (1, "new_connection"),
                (6, "new_connection"),
                (7, "extension_headers_dropped"),
                (12, "extension_headers_dropped"),
            ] {
                let name = format!("{count} destination options headers");
                one(&name, true, counter, DESTINATION_OPTIONS, &chain(count));
            }
            for kind in [0, 1] {
                let name = format!("routing header of type {kind}, at its end");
                one(&name, true, "new_connection", ROUTING, &|syn| routing(TCP, kind, syn));
            }
            let authenticated =
                |syn: &[u8]| [&[TCP, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], [0; 12].as_slice(), syn].concat();
            one("authentication header", false, "new_connection", AUTHENTICATION, &authenticated);
        }
    })
}

/// A SYN in pieces.
fn fragments(backend: Backend) -> Result<()> {
    attempt(backend, "around-fragments", "", |attempts| match attempts.family {
        Family::V4 => fragments_v4(attempts),
        Family::V6 => fragments_v6(attempts),
    })
}

fn fragments_v4(attempts: &mut Attempts) {
    let ip = attempts.ip();
    let number = |attempts: &Attempts| 1000 + u16::try_from(attempts.all.len()).unwrap_or_default();
    for (first, counter) in [(8, "fragment_dropped"), (16, "fragment_dropped")] {
        let (syn, number) = (attempts.syn(), number(attempts));
        let offset = u16::try_from(first / 8).unwrap_or_default();
        let head = Ip { fragment: (MORE, number), ..ip }.packet(&syn[..first]);
        let tail = Ip { fragment: (offset, number), ..ip }.packet(&syn[first..]);
        attempts.add(
            &format!("first fragment of {first} octets"),
            true,
            counter,
            &[head.clone(), tail.clone()],
        );
        let (syn, number) = (attempts.syn(), 2000 + number);
        let head = Ip { fragment: (MORE, number), ..ip }.packet(&syn[..first]);
        let tail = Ip { fragment: (offset, number), ..ip }.packet(&syn[first..]);
        attempts.add(&format!("the same, last first ({first})"), true, counter, &[tail, head]);
    }
    // The flags twice: without SYN where a filter may look, with it where the destination does.
    let (syn, number) = (attempts.syn(), number(attempts));
    let mut harmless = syn.clone();
    harmless[13] = ACK;
    let head = Ip { fragment: (MORE, number), ..ip }.packet(&harmless[..16]);
    let tail = Ip { fragment: (1, number), ..ip }.packet(&syn[8..]);
    attempts.add("overlapping fragments", false, "fragment_dropped", &[head, tail]);
    // The ports twice.
    let syn = attempts.syn();
    let mut other = syn.clone();
    other[2..4].copy_from_slice(&80_u16.to_be_bytes());
    let number = number + 1;
    let [decoy, real] = [&other, &syn].map(|head| Ip { fragment: (MORE, number), ..ip }.packet(&head[..8]));
    let tail = Ip { fragment: (1, number), ..ip }.packet(&syn[8..]);
    attempts.add("two first fragments", false, "fragment_dropped", &[decoy, real, tail]);
    let syn = attempts.syn();
    let number = number + 1;
    let empty = Ip { fragment: (MORE, number), ..ip }.packet(&[]);
    let all = Ip { fragment: (0, number), ..ip }.packet(&syn);
    attempts.add("an empty first fragment", true, "short_fragment_dropped", &[empty, all]);
}

fn fragments_v6(attempts: &mut Attempts) {
    let mut several = |name: &str, answered, counter, fragments: &dyn Fn(&[u8]) -> Vec<Vec<u8>>| {
        let ip = Ip { protocol: FRAGMENT, ..attempts.ip() };
        let syn = attempts.segment(SYN, b"EHLO mail.customer.test\r\n");
        let packets: Vec<_> = fragments(&syn).iter().map(|payload| ip.packet(payload)).collect();
        attempts.add(name, answered, counter, &packets);
    };
    several("an atomic fragment", true, "fragment_dropped", &|syn| vec![fragment(TCP, 0, false, 1, syn)]);
    // Linux wants the whole TCP header in the first one; others may not.
    for (first, answered) in [(8_u16, false), (16, false), (24, true)] {
        several(&format!("first fragment of {first} octets"), answered, "fragment_dropped", &|syn| {
            let (head, tail) = syn.split_at(first.into());
            let number = 10 + u32::from(first);
            vec![fragment(TCP, 0, true, number, head), fragment(TCP, first, false, number, tail)]
        });
    }
    several("the TCP header in the second fragment", false, "short_fragment_dropped", &|syn| {
        let head = fragment(DESTINATION_OPTIONS, 0, true, 40, &extension(TCP, &[]));
        vec![head, fragment(DESTINATION_OPTIONS, 8, false, 40, syn)]
    });
    several("headers that go on in the second fragment", true, "short_fragment_dropped", &|syn| {
        let head = fragment(DESTINATION_OPTIONS, 0, true, 50, &extension(DESTINATION_OPTIONS, &[]));
        vec![head, fragment(DESTINATION_OPTIONS, 8, false, 50, &extension(TCP, syn))]
    });
    several("two atomic fragment headers", false, "fragment_dropped", &|syn| {
        vec![fragment(FRAGMENT, 0, false, 60, &fragment(TCP, 0, false, 61, syn))]
    });
}

/// Tags of VLAN 0, which say a priority and nothing else: the frame is for the interface itself.
fn tags(backend: Backend) -> Result<()> {
    attempt(backend, "around-tags", "", |attempts| {
        let ip = attempts.ip();
        for (name, answered, counter, tags) in [
            ("one priority tag", true, "new_connection", vec![(VLAN, 0)]),
            ("a provider's priority tag", true, "new_connection", vec![(PROVIDER_VLAN, 0)]),
            ("two priority tags", true, "nested_tags_dropped", vec![(VLAN, 0), (VLAN, 0)]),
            ("a provider's before it", true, "nested_tags_dropped", vec![(PROVIDER_VLAN, 0), (VLAN, 0)]),
            ("three priority tags", true, "nested_tags_dropped", vec![(VLAN, 0), (VLAN, 0), (VLAN, 0)]),
            // Of a VLAN that this host has no interface in.
            ("a tag of VLAN 5", false, "unrelated", vec![(VLAN, 5)]),
            ("a priority tag, and one of VLAN 5", false, "unrelated", vec![(VLAN, 0), (VLAN, 5)]),
            ("a tag of VLAN 5, and a priority tag", false, "unrelated", vec![(VLAN, 5), (VLAN, 0)]),
        ] {
            let packet = ip.packet(&attempts.syn());
            attempts.add_tagged(name, answered, counter, &tags, &[packet]);
        }
    })
}

/// By way of the gateway itself, which is told to send it on: where the operator lets packets choose their route.
fn source_routes(backend: Backend) -> Result<()> {
    let setup = "for each in /proc/sys/net/ipv4/conf/*/accept_source_route; do echo 1 >$each; done
        for each in /proc/sys/net/ipv6/conf/*/seg6_enabled; do echo 1 >$each; done";
    attempt(backend, "around-routes", setup, |attempts| {
        let (family, syn) = (attempts.family, attempts.syn());
        let (gateway, last) = (family.gateway(), family.destination());
        let via = Ip { to: gateway, ..attempts.ip() };
        let packet = match family {
            Family::V4 => Ip { options: &source_route(last), ..via }.packet(&syn),
            Family::V6 => Ip { protocol: ROUTING, ..via }.packet(&segment_routing(TCP, gateway, last, &syn)),
        };
        attempts.add("by way of the gateway", true, "source_route_dropped", &[packet]);
    })
}

/// Not weir's: whoever ends a tunnel of a customer's has let him in.
fn tunnels(backend: Backend) -> Result<()> {
    attempt(backend, "around-tunnels", "", |attempts| {
        let ip = attempts.ip();
        let inner = ip.packet(&attempts.syn());
        let (protocol, kind): (_, [u8; 2]) = match attempts.family {
            Family::V4 => (IPIP, [0x08, 0x00]),
            Family::V6 => (IPV6_IN_IP, [0x86, 0xdd]),
        };
        attempts.add("IP in IP", false, "unrelated", &[Ip { protocol, ..ip }.packet(&inner)]);
        let encapsulated = [&[0, 0], kind.as_slice(), &inner].concat();
        attempts.add("GRE", false, "unrelated", &[Ip { protocol: GRE, ..ip }.packet(&encapsulated)]);
    })
}

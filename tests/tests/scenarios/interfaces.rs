//! Interfaces of all kinds, many of them, and such that come and go: mail is intercepted, judged, and delivered from the
//! customer's own address, whichever way it takes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::detach::detach;
use weir_tests::lab::{CUSTOMER_INTERFACE, Family, Host, Lab, NarrowLink, cable, ip};
use weir_tests::other_program::has_tcx;
use weir_tests::probe::{HAM, Way, is_dropped, time_until, way};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, patient, wait_until};

use crate::beside_router::{arm, router, settle};

on_both_back_ends!(
    several_interfaces,
    sub_interfaces,
    a_bridge,
    a_bond,
    one_armed,
    what_others_remove_is_back_well_within_a_second,
);

/// What is promised for interfaces that come, and programs that others take off.
const SOON: Duration = Duration::from_secs(1);

/// The second customer, behind an interface of its own: a part of the customers' prefixes.
const SECOND: [&str; 2] = ["10.1.200.2", "fd01:0:200::2"];
/// The gateway there.
const SECOND_GATEWAY: [&str; 2] = ["10.1.200.1", "fd01:0:200::1"];
/// The destination and the gateway behind a second interface towards the internet.
const FAR: [&str; 2] = ["10.4.0.2", "fd04::2"];
const FAR_GATEWAY: [&str; 2] = ["10.4.0.1", "fd04::1"];
/// As the lab has them, on both sides of the customers' cable.
const FIRST_ADDRESSES: [&str; 2] = ["10.1.0.1/16", "fd01::1/32"];

/// Everything but the agent, and what tells that a message came.
struct Stage<'a> {
    lab: &'a Lab,
    destination: Postfix<'a>,
    _filters: [WeirFilter; 2],
    sent: usize,
}

impl<'a> Stage<'a> {
    fn set(lab: &'a Lab) -> Result<Self> {
        let destination = Postfix::destination(&lab.internet)?;
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        Ok(Self { lab, destination, _filters: filters, sent: 0 })
    }

    /// A message from there to there, by the agent; the destination sees the customer.
    fn deliver(&mut self, agent: &WeirAgent, from: IpAddr, to: IpAddr) -> Result<()> {
        self.sent += 1;
        let user = format!("user{}", self.sent);
        let mut client = Client::connect_from(&self.lab.customer, from, (to, 25).into())?;
        ensure!(
            !client.greet("mail.customer.test")?.announces("STARTTLS"),
            "{from} to {to} went past the agent"
        );
        let recipient = format!("{user}@v4.destination.test");
        client.send_message("a@customer.test", &[&recipient], HAM)?.expect(250)?;
        let stored = self.destination.wait_stored(&user)?;
        ensure!(stored.came_from(from), "{from} to {to}: {}", stored.trace());
        wait_until("the agent's line", PATIENCE, || Ok(agent.messages().len() == self.sent))
    }

    fn deliver_in_both_families(&mut self, agent: &WeirAgent) -> Result<()> {
        Family::BOTH
            .iter()
            .try_for_each(|family| self.deliver(agent, family.customer(), family.destination()))
    }
}

fn addresses(texts: [&str; 2]) -> [IpAddr; 2] {
    // Literals of this file.
    texts.map(|text| text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0])))
}

/// Gives a host an address in a network of its own, and the way back from it.
fn join(host: &Host, interface: &str, own: [&str; 2], gateway: [&str; 2], table: u8) -> Result<()> {
    let [v4, v6] = own;
    let [gateway_v4, gateway_v6] = gateway;
    host.sh(&format!(
        "ip addr add {v4}/24 dev {interface} && ip addr add {v6}/64 dev {interface} nodad && \
         ip rule add from {v4} lookup {table} && ip -6 rule add from {v6} lookup {table} && \
         ip route add default via {gateway_v4} table {table} && ip -6 route add default via {gateway_v6} table {table}"
    ))
    .map(|_| ())
}

fn own(host: &Host, interface: &str, [v4, v6]: [&str; 2]) -> Result<()> {
    ip(
        host,
        &[
            format!("link set {interface} up"),
            format!("addr add {v4}/24 dev {interface}"),
            format!("addr add {v6}/64 dev {interface} nodad"),
        ],
    )
}

/// A second cable between customer and gateway.
fn second_customer(lab: &Lab, interface: &str) -> Result<()> {
    cable(&lab.gateway, interface, &lab.customer, "eth1")?;
    own(&lab.gateway, interface, SECOND_GATEWAY)?;
    join(&lab.customer, "eth1", SECOND, SECOND_GATEWAY, 201)
}

/// Has other interfaces carry what the customers' cable carried.
fn move_first_addresses(lab: &Lab, interface: &str) -> Result<()> {
    let outsiders = ["10.9.0.0/16 via 10.1.0.2", "fd09::/32 via fd01::2"];
    let [v4, v6] = FIRST_ADDRESSES;
    ip(
        &lab.gateway,
        &[
            format!("addr del {v4} dev {CUSTOMER_INTERFACE}"),
            format!("addr del {v6} dev {CUSTOMER_INTERFACE}"),
            format!("addr add {v4} dev {interface}"),
            format!("addr add {v6} dev {interface} nodad"),
            format!("route replace {}", outsiders[0]),
            format!("route replace {}", outsiders[1]),
        ],
    )
}

fn named(backend: Backend, customers: &[&str], internet: &[&str]) -> AgentConfig {
    let mut config = AgentConfig::new(backend);
    config.customer_interfaces = customers.iter().map(ToString::to_string).collect();
    config.internet_interfaces = internet.iter().map(ToString::to_string).collect();
    config
}

fn several_interfaces(backend: Backend) -> Result<()> {
    Lab::run("several", NarrowLink::Nowhere, |lab| {
        second_customer(lab, "cust1")?;
        cable(&lab.gateway, "inet1", &lab.internet, "eth1")?;
        own(&lab.gateway, "inet1", FAR_GATEWAY)?;
        join(&lab.internet, "eth1", FAR, FAR_GATEWAY, 204)?;
        let mut stage = Stage::set(lab)?;
        let agent =
            WeirAgent::start(&lab.gateway, &named(backend, &["cust0", "cust1"], &["inet0", "inet1"]))?;
        for (family, (second, far)) in
            Family::BOTH.into_iter().zip(addresses(SECOND).into_iter().zip(addresses(FAR)))
        {
            for from in [family.customer(), second] {
                for to in [family.destination(), far] {
                    stage.deliver(&agent, from, to)?;
                }
            }
            // Answers by the other interface.
            lab.internet.sh("ip rule del from 10.4.0.2 2>&1; ip -6 rule del from fd04::2 2>&1; true")?;
            stage.deliver(&agent, second, far)?;
        }
        agent.stop()
    })
}

/// VLANs on one cable; where the kernel has none, MACVLANs, which are interfaces upon an interface as well.
fn sub_interfaces(backend: Backend) -> Result<()> {
    Lab::run("sub-interfaces", NarrowLink::Nowhere, |lab| {
        let kind = if has(&lab.gateway, "link cust0 name probe type vlan id 4000")? {
            |id: u8| format!("type vlan id {id}")
        } else {
            |_| "type macvlan mode private".to_owned()
        };
        eprintln!("sub-interfaces are of {}", kind(7));
        for (host, below) in [
            (&lab.gateway, "cust0"),
            (&lab.customer, "eth0"),
            (&lab.gateway, "inet0"),
            (&lab.internet, "eth0"),
        ] {
            ip(
                host,
                &[
                    format!("link add link {below} name {below}.7 {}", kind(7)),
                    format!("link set {below}.7 up"),
                ],
            )?;
        }
        // MACVLANs share the cable's network: each shall answer for its own addresses only.
        for host in [&lab.customer, &lab.gateway, &lab.internet] {
            host.sh("echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore")?;
        }
        own(&lab.gateway, "cust0.7", SECOND_GATEWAY)?;
        join(&lab.customer, "eth0.7", SECOND, SECOND_GATEWAY, 201)?;
        own(&lab.gateway, "inet0.7", FAR_GATEWAY)?;
        join(&lab.internet, "eth0.7", FAR, FAR_GATEWAY, 204)?;
        let mut stage = Stage::set(lab)?;
        let agent = WeirAgent::start(&lab.gateway, &named(backend, &["cust0.7"], &["inet0.7"]))?;
        for (from, to) in addresses(SECOND).into_iter().zip(addresses(FAR)) {
            stage.deliver(&agent, from, to)?;
        }
        // What comes without a tag is not configured.
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        ensure!(way(&lab.customer, from, to)? == Way::Straight, "the cable itself is not steered on");
        agent.stop()
    })
}

/// Whether the host's kernel has interfaces of a kind.
fn has(host: &Host, link: &str) -> Result<bool> {
    let said = host.sh(&format!("ip link add {link} 2>&1 && ip link del probe; true"))?;
    ensure!(
        said.is_empty() || said.contains("Unknown device type") || said.contains("not supported"),
        "{said}"
    );
    Ok(said.is_empty())
}

/// What the agent asks for where it steers by nftables.
fn rules_stay_off_bridges(lab: &Lab, backend: Backend) -> Result<()> {
    // Of no consequence to the kernel program.
    if backend == Backend::Tproxy {
        lab.gateway.sh("for each in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $each ] || echo 0 >$each; done")?;
    }
    Ok(())
}

/// Customers on ports of a bridge whose own interface has the address.
fn a_bridge(backend: Backend) -> Result<()> {
    Lab::run("bridge", NarrowLink::Nowhere, |lab| {
        rules_stay_off_bridges(lab, backend)?;
        lab.gateway.sh("ip link add br0 type bridge && ip link set br0 up")?;
        cable(&lab.gateway, "cust1", &lab.customer, "eth1")?;
        move_first_addresses(lab, "br0")?;
        own(&lab.gateway, "br0", SECOND_GATEWAY)?;
        join(&lab.customer, "eth1", SECOND, SECOND_GATEWAY, 201)?;
        lab.gateway.sh("ip link set cust0 master br0; ip link set cust1 master br0")?;
        let mut stage = Stage::set(lab)?;
        let agent = WeirAgent::start(&lab.gateway, &named(backend, &["br0"], &["inet0"]))?;
        stage.deliver_in_both_families(&agent)?;
        for (family, second) in Family::BOTH.into_iter().zip(addresses(SECOND)) {
            stage.deliver(&agent, second, family.destination())?;
        }
        agent.stop()
    })
}

/// Two cables of which one carries. Where the kernel has no bonds, a bridge of which one port is up at a time stands for it:
/// to the agent both are one interface whose ports come and go.
fn a_bond(backend: Backend) -> Result<()> {
    Lab::run("bond", NarrowLink::Nowhere, |lab| {
        rules_stay_off_bridges(lab, backend)?;
        let bonds = has(&lab.gateway, "probe type bond")?;
        eprintln!("the kernel has {} bonds", if bonds { "its own" } else { "no" });
        cable(&lab.gateway, "cust1", &lab.customer, "eth1")?;
        let kind = if bonds { "bond mode active-backup miimon 50" } else { "bridge" };
        for (host, ports) in [(&lab.gateway, ["cust0", "cust1"]), (&lab.customer, ["eth0", "eth1"])] {
            ip(host, &[format!("link add bond0 type {kind}")])?;
            for port in ports {
                ip(host, &[format!("link set {port} down"), format!("link set {port} master bond0")])?;
            }
            ip(host, &[format!("link set {} up", ports[0]), "link set bond0 up".to_owned()])?;
            if bonds {
                ip(host, &[format!("link set {} up", ports[1])])?;
            }
        }
        let [v4, v6] = FIRST_ADDRESSES;
        lab.gateway.sh(&format!(
            "ip addr flush dev cust0; ip addr add {v4} dev bond0; ip addr add {v6} dev bond0 nodad"
        ))?;
        lab.customer.sh(
            "ip addr flush dev eth0; ip addr add 10.1.0.2/16 dev bond0; ip addr add fd01::2/32 dev bond0 nodad; \
             ip route add default via 10.1.0.1; ip -6 route add default via fd01::1",
        )?;
        let mut stage = Stage::set(lab)?;
        let agent = WeirAgent::start(&lab.gateway, &named(backend, &["bond0"], &["inet0"]))?;
        stage.deliver_in_both_families(&agent)?;
        for (first, second) in [(0, 1), (1, 0)] {
            lab.gateway.sh(&format!("ip link set cust{first} down"))?;
            lab.customer.sh(&format!("ip link set eth{first} down"))?;
            lab.gateway.sh(&format!("ip link set cust{second} up"))?;
            lab.customer.sh(&format!("ip link set eth{second} up"))?;
            let (from, to) = (Family::V4.customer(), Family::V4.destination());
            time_until(Way::Intercepted, &lab.customer, from, to)?;
            stage.deliver_in_both_families(&agent)?;
        }
        ensure!(WeirAgent::status(&lab.gateway)?["problems"] == serde_json::json!([]), "problems");
        agent.stop()
    })
}

/// Customers and internet on one interface: a router sends mail to the gateway, in both directions.
fn one_armed(backend: Backend) -> Result<()> {
    Lab::run("one-armed", NarrowLink::Nowhere, |lab| {
        let router = router(lab)?;
        arm(&router, &lab.gateway, 0)?;
        router.sh(
            "for family in -4 -6; do ip $family rule add iif cust0 ipproto tcp dport 25 lookup 25; \
             ip $family rule add iif inet0 ipproto tcp sport 25 lookup 25; done; \
             ip -4 route add default via 10.5.0.2 table 25; ip -6 route add default via fd05::2 table 25",
        )?;
        settle(&[&router, &lab.gateway, &lab.customer, &lab.internet])?;
        let mut stage = Stage::set(lab)?;
        let arms: &[&str] = if backend == Backend::Ebpf { &["arm0", "arm*"] } else { &["arm0"] };
        for arm in arms {
            for family in Family::BOTH {
                let (from, to) = (family.customer(), family.destination());
                ensure!(way(&lab.customer, from, to)? == Way::Straight, "the router's way, without an agent");
            }
            let agent = WeirAgent::start(&lab.gateway, &named(backend, &[arm], &["arm0"]))?;
            stage.sent = 0;
            stage.destination.empty_store()?;
            stage.deliver_in_both_families(&agent)?;
            agent.stop()?;
        }
        Ok(())
    })
}

/// Rules, routes and the table, by events: by looking once a second it would take half of one, as a rule.
fn what_others_remove_is_back_well_within_a_second(backend: Backend) -> Result<()> {
    Lab::run("events", NarrowLink::Nowhere, |lab| {
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let mut removals = vec![
            ("ip rule del pref 99", "ip rule show pref 99 | grep -c cust0"),
            ("ip -6 rule del pref 99", "ip -6 rule show pref 99 | grep -c cust0"),
            ("ip route flush table 100", "ip route show table 100 | grep -c local"),
            ("ip -6 route flush table 100", "ip -6 route show table 100 | grep -c local"),
        ];
        if backend == Backend::Tproxy {
            removals
                .push(("nft delete table inet weir", "nft list chain inet weir prerouting | grep -c tproxy"));
            removals.push((
                "nft flush chain inet weir prerouting",
                "nft list chain inet weir prerouting | grep -c tproxy",
            ));
        }
        let mut total = Duration::ZERO;
        let rounds = 4;
        for _ in 0..rounds {
            for (removal, look) in &removals {
                lab.gateway.sh(removal)?;
                let start = Instant::now();
                wait_until(look, PATIENCE, || {
                    Ok(lab.gateway.sh(&format!("({look}) 2>/dev/null; true"))?.trim() != "0")
                })?;
                total += start.elapsed();
            }
        }
        let mean = total / (rounds * u32::try_from(removals.len())?);
        eprintln!("what was removed was back after {mean:?} on average");
        ensure!(mean < patient(Duration::from_millis(300)), "only after {mean:?}");
        agent.stop()
    })
}

/// Also where the kernel looks routes up by marks for its reverse path checks.
#[test]
fn an_interface_that_comes_later_is_steered_within_a_second() -> Result<()> {
    Lab::run("later", NarrowLink::Nowhere, |lab| {
        lab.gateway.sh(
            "for each in /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/src_valid_mark; do echo 1 >$each; done",
        )?;
        let mut stage = Stage::set(lab)?;
        let config = named(Backend::Ebpf, &["cust0", "later*"], &["inet*"]);
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        stage.deliver_in_both_families(&agent)?;
        let status = WeirAgent::status(&lab.gateway)?;
        ensure!(status["problems"] == serde_json::json!([]), "{}", status["problems"]);
        wait_until("the warning", PATIENCE, || {
            let warnings = WeirAgent::status(&lab.gateway)?["warnings"].to_string();
            Ok(warnings.contains("no interface fits later*"))
        })?;
        let said =
            WeirAgent::command(&lab.gateway, &["doctor", "--config", "/etc/weir/agent.toml", "--json"])?;
        ensure!(said.output.contains("no interface fits later* now"), "{}", said.output);
        ensure!(!said.output.contains("is missing"), "{}", said.output);
        second_customer(lab, "later1")?;
        let [second, second_v6] = addresses(SECOND);
        let took = time_until(Way::Intercepted, &lab.customer, second, Family::V4.destination())?;
        eprintln!("steered {took:?} after it had its addresses");
        ensure!(took < SOON, "steered after {took:?}");
        stage.deliver(&agent, second, Family::V4.destination())?;
        stage.deliver(&agent, second_v6, Family::V6.destination())?;
        ensure!(WeirAgent::status(&lab.gateway)?["warnings"] == serde_json::json!([]), "fits");
        let output = agent.output();
        agent.stop()?;
        ensure!(output.contains("interfaces are steered from now on"), "not said in the log");
        ensure!(way(&lab.customer, second, Family::V4.destination())? == Way::Straight, "after the end");
        Ok(())
    })
}

/// In `closed`, too, where what is pinned follows.
#[test]
fn an_interface_that_was_gone_is_steered_again() -> Result<()> {
    for config in [AgentConfig::new(Backend::Ebpf), AgentConfig::new(Backend::Ebpf).closed()] {
        let closed = config.when_agent_dies == "closed";
        Lab::run("gone", NarrowLink::Nowhere, |lab| {
            let mut stage = Stage::set(lab)?;
            let agent = WeirAgent::start(&lab.gateway, &config)?;
            stage.deliver_in_both_families(&agent)?;
            ip(&lab.gateway, &["link del cust0".to_owned()])?;
            wait_until("its being gone in `status`", PATIENCE, || {
                Ok(WeirAgent::status(&lab.gateway)?["problems"].to_string().contains("cust0 is gone"))
            })?;
            cable(&lab.gateway, "cust0", &lab.customer, "eth0")?;
            let lines = |own: [&str; 2]| own.map(|address| format!("addr add {address} nodad dev"));
            ip(&lab.gateway, &lines(FIRST_ADDRESSES).map(|line| format!("{line} cust0")))?;
            ip(&lab.customer, &lines(["10.1.0.2/16", "fd01::2/32"]).map(|line| format!("{line} eth0")))?;
            ip(
                &lab.customer,
                &["route add default via 10.1.0.1", "route add default via fd01::1"].map(String::from),
            )?;
            let (from, to) = (Family::V4.customer(), Family::V4.destination());
            let took = time_until(Way::Intercepted, &lab.customer, from, to)?;
            ensure!(took < SOON, "steered after {took:?}");
            stage.deliver_in_both_families(&agent)?;
            wait_until("no problems in `status`", PATIENCE, || {
                Ok(WeirAgent::status(&lab.gateway)?["problems"] == serde_json::json!([]))
            })?;
            ensure!(agent.output().contains("made anew: steered again"), "not said in the log");
            let links = lab.gateway.sh("ls /sys/fs/bpf/weir 2>/dev/null | grep -c link_; true")?;
            let pinned = if closed && has_tcx() { "2" } else { "0" };
            ensure!(links.trim() == pinned, "{links} pinned links");
            agent.kill()?;
            if closed {
                ensure!(is_dropped(&lab.customer, from, to)?, "closed");
            } else {
                ensure!(way(&lab.customer, from, to)? == Way::Straight, "open");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The agent has only what running needs by then.
#[test]
fn a_program_that_was_taken_off_is_put_back_within_a_second() -> Result<()> {
    for config in [AgentConfig::new(Backend::Ebpf), AgentConfig::new(Backend::Ebpf).closed()] {
        Lab::run("detached", NarrowLink::Nowhere, |lab| {
            let mut stage = Stage::set(lab)?;
            let agent = WeirAgent::start(&lab.gateway, &config)?;
            stage.deliver_in_both_families(&agent)?;
            let (from, to) = (Family::V4.customer(), Family::V4.destination());
            for (interface, rounds) in [("cust0", 2), ("inet0", 1)] {
                for _ in 0..rounds {
                    detach(&lab.gateway, interface)?;
                    let took = time_until(Way::Intercepted, &lab.customer, from, to)?;
                    eprintln!("{interface}: back after {took:?}");
                    // And the probe itself.
                    ensure!(took < SOON + Duration::from_millis(700), "back after {took:?}");
                    stage.deliver_in_both_families(&agent)?;
                }
            }
            let output = agent.output();
            ensure!(
                output.contains("was detached from cust0 by somebody else, put back"),
                "not said:\n{output}"
            );
            agent.stop()
        })?;
    }
    Ok(())
}

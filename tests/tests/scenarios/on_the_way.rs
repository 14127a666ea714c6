//! Routers between the gateway and the destination: one that sends the agent's own connections back, one that refuses
//! them.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{Way, way};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_for, wait_until};

on_both_back_ends!(
    sent_back_to_the_internet_interface,
    sent_back_to_the_customer_interface,
    unreachable_is_told_to_the_agent,
);

/// Destinations behind the router.
const FAR: [(Family, &str); 2] = [(Family::V4, "192.0.2.25"), (Family::V6, "2001:db8:25::25")];

fn sent_back_to_the_internet_interface(backend: Backend) -> Result<()> {
    sent_back(backend, |lab| {
        lab.internet
            .sh("ip route add 192.0.2.0/24 via 10.2.0.1; ip route add 2001:db8:25::/48 via fd02::1")
            .map(drop)
    })
}

/// On a cable between the internet's router and the customer's: where SYNs would be new connections of the customer's.
fn sent_back_to_the_customer_interface(backend: Backend) -> Result<()> {
    sent_back(backend, |lab| {
        let peer = lab.customer.pid().to_string();
        lab.internet.in_network(|| {
            let mut ip = Command::new("ip");
            ip.args(["link", "add", "back0", "type", "veth", "peer", "name", "back0", "netns", &peer]);
            ensure!(ip.status().context("start ip")?.success(), "no cable");
            Ok(())
        })?;
        let end = |number| {
            format!(
                "ip addr add 10.99.0.{number}/24 dev back0; ip addr add fd99::{number}/64 dev back0 nodad; ip link set back0 up"
            )
        };
        lab.internet.sh(&end(1))?;
        lab.customer.sh(&end(2))?;
        lab.internet
            .sh("ip route add 192.0.2.0/24 via 10.99.0.2; ip route add 2001:db8:25::/48 via fd99::2")?;
        let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
            for each in /proc/sys/net/ipv4/conf/*; do echo 0 >$each/rp_filter; echo 1 >$each/accept_local; done";
        lab.customer.sh(forward).map(drop)
    })
}

/// Dropped, counted and said; the customer is told, and nothing goes round and round.
fn sent_back(backend: Backend, send_back: impl Fn(&Lab) -> Result<()>) -> Result<()> {
    Lab::run("sent-back", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        lab.gateway
            .sh("ip route add 192.0.2.0/24 via 10.2.0.2; ip route add 2001:db8:25::/48 via fd02::2")?;
        lab.internet.sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
            for each in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 >$each; done
            nft 'add table inet seen
                add counter inet seen syns
                add chain inet seen in { type filter hook prerouting priority -500; }
                add rule inet seen in iifname eth0 tcp dport 25 tcp flags & (syn | ack) == syn counter name syns'")?;
        send_back(lab)?;
        let mut config = AgentConfig::new(backend);
        config.relay_lines = "connect_timeout = 5".into();
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        for family in Family::BOTH {
            ensure!(way(&lab.customer, family.customer(), family.destination())? == Way::Intercepted);
        }
        // While the agent looks after its rules it has no counters to show.
        let number = |key: &str| {
            wait_for("the counters", PATIENCE, || {
                let status = WeirAgent::status(&lab.gateway)?;
                Ok(status["steering"].as_object().map(|counters| counters[key].as_u64().unwrap_or_default()))
            })
        };
        for (family, far) in FAR {
            lab.internet.sh("nft reset counters")?;
            let (taken, dropped) = (number("new_connection")?, number("looped_back_dropped")?);
            let mut client = Client::connect(&lab.customer, (far.parse::<std::net::IpAddr>()?, 25).into())?;
            client.expect(421)?;
            let (taken, dropped) =
                (number("new_connection")? - taken, number("looped_back_dropped")? - dropped);
            let seen = lab.internet.sh("nft list counter inet seen syns")?;
            ensure!(taken == 1, "{family:?}: {taken} connections were taken");
            ensure!((1..=5).contains(&dropped), "{family:?}: {dropped} dropped, a SYN and its repetitions");
            // One for each that was sent.
            ensure!(seen.contains(&format!("packets {dropped} ")), "{family:?}: {dropped} dropped, {seen}");
        }
        wait_until("it to be said", PATIENCE, || {
            let problems = WeirAgent::status(&lab.gateway)?["problems"].to_string();
            Ok(problems.contains("sent back to this gateway"))
        })?;
        ensure!(agent.output().contains("sent back to this gateway"), "not in the log");
        agent.stop()
    })
}

/// An ICMP error about the agent's SYN, addressed to the customer.
fn unreachable_is_told_to_the_agent(backend: Backend) -> Result<()> {
    Lab::run("unreachable", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            ensure!(way(&lab.customer, family.customer(), family.destination())? == Way::Intercepted);
        }
        lab.internet.sh("nft 'add table inet refuses
            add chain inet refuses in { type filter hook input priority 0; }
            add rule inet refuses in meta nfproto ipv4 tcp dport 25 reject with icmp type host-unreachable
            add rule inet refuses in meta nfproto ipv6 tcp dport 25 reject with icmpv6 type addr-unreachable'")?;
        for family in Family::BOTH {
            let start = Instant::now();
            let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
            client.expect(421)?;
            // Before the SYN would have been sent for the third time.
            ensure!(start.elapsed() < Duration::from_secs(3), "{family:?}: {:?}", start.elapsed());
        }
        agent.stop()
    })
}

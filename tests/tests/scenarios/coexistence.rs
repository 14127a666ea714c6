//! What else is on a gateway: programs of others on the same interfaces, firewalls, connection tracking, settings of
//! the kernel, offloads. weir works beside them, and they beside weir.

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{CUSTOMER_INTERFACE, Family, Host, INTERNET_INTERFACE, Lab, NarrowLink};
use weir_tests::other_program::{OK, OtherProgram, Place, UNSPEC, has_tcx};
use weir_tests::probe::{HAM, Way, way};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(
    other_tc_programs,
    a_program_put_before_weirs,
    a_firewall_that_drops_what_it_does_not_know,
    port_25_is_not_tracked,
    settings_that_look_at_sources,
    offloads_on_and_off,
);

const BITS: [i32; 5] = [0x01, 0x02, 0x04, 0x08, 0x10];

/// Counts customers' packets to port 25 by the bits that programs have set in their marks.
fn count_bits(gateway: &Host) -> Result<()> {
    gateway.sh(
        "nft 'add table inet seen; add chain inet seen in { type filter hook prerouting priority -500; }'",
    )?;
    for bit in BITS {
        gateway.sh(&format!(
            "nft add counter inet seen bit{bit}; nft 'add rule inet seen in iifname {CUSTOMER_INTERFACE} \
             tcp dport 25 meta mark & {bit} == {bit} counter name bit{bit}'"
        ))?;
    }
    Ok(())
}

fn count(gateway: &Host, counter: &str) -> Result<u64> {
    let shown = gateway.sh(&format!("nft list counter inet {counter}"))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "packets");
    Ok(words.nth(1).unwrap_or_default().parse()?)
}

/// New connections go this way, and the packets of each are seen by programs with these bits.
fn goes(lab: &Lab, expected: Way, bits: &[i32], when: &str) -> Result<()> {
    for family in Family::BOTH {
        let before = bits.iter().map(|bit| count(&lab.gateway, &format!("seen bit{bit}")));
        let before = before.collect::<Result<Vec<_>>>()?;
        let found = way(&lab.customer, family.customer(), family.destination())?;
        ensure!(found == expected, "{when}: {family:?} goes {found:?}");
        for (bit, before) in bits.iter().zip(before) {
            let after = count(&lab.gateway, &format!("seen bit{bit}"))?;
            ensure!(after > before, "{when}: the program with bit {bit} did not run for {family:?}");
        }
    }
    Ok(())
}

/// There before weir or put behind it: both run, whatever the other's answer is.
fn other_tc_programs(backend: Backend) -> Result<()> {
    Lab::run("other-programs", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        count_bits(&lab.gateway)?;
        let mut others = Vec::new();
        let mut attach = |place, bit, answer| {
            for interface in [CUSTOMER_INTERFACE, INTERNET_INTERFACE] {
                others.push(OtherProgram::attach(&lab.gateway, interface, place, bit, answer)?);
            }
            Ok::<_, anyhow::Error>(())
        };
        attach(Place::Last, BITS[0], UNSPEC)?;
        attach(Place::Filter(1), BITS[1], UNSPEC)?;
        attach(Place::Filter(50), BITS[2], OK)?;
        goes(lab, Way::Straight, &BITS[..3], "without weir")?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        goes(lab, Way::Intercepted, &BITS[..3], "those that were there before")?;
        attach(Place::Last, BITS[3], OK)?;
        goes(lab, Way::Intercepted, &[BITS[0], BITS[3]], "one behind, that passes all for good")?;
        let problems = WeirAgent::status(&lab.gateway)?["problems"].clone();
        if has_tcx() || backend == Backend::Tproxy {
            ensure!(problems.as_array().is_some_and(Vec::is_empty), "{problems}");
        } else {
            println!("lacks: TCX: filters with a lower priority run before weir's, which says so");
            ensure!(problems.to_string().contains("another filter was put before"), "{problems}");
        }
        agent.stop()?;
        goes(lab, Way::Straight, &[BITS[0], BITS[3]], "after weir")
    })
}

/// Said, if it is not seen to do harm as well; and a start goes before it again.
fn a_program_put_before_weirs(backend: Backend) -> Result<()> {
    Lab::run("program-before", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        count_bits(&lab.gateway)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let put_before =
            |bit, answer| OtherProgram::attach(&lab.gateway, CUSTOMER_INTERFACE, Place::First, bit, answer);
        let _harmless = put_before(BITS[0], UNSPEC)?;
        goes(lab, Way::Intercepted, &BITS[..1], "one before, that lets others go on")?;
        let is_said = || {
            let problems = WeirAgent::status(&lab.gateway)?["problems"].to_string();
            Ok(problems.contains("was put before the steering program on cust0"))
        };
        let passes = put_before(BITS[1], OK)?;
        if backend == Backend::Ebpf {
            wait_until("the agent to notice", PATIENCE, is_said)?;
            goes(lab, Way::Straight, &BITS[1..2], "one before, that passes all for good")?;
            if !has_tcx() {
                println!("lacks: TCX: a start cannot go before filters with a lower priority");
                return agent.stop();
            }
        } else {
            goes(lab, Way::Intercepted, &BITS[1..2], "nftables comes later")?;
        }
        agent.stop()?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        goes(lab, Way::Intercepted, &BITS[1..2], "after a restart")?;
        ensure!(!is_said()?, "it is first again");
        drop(passes);
        if has_tcx() {
            // The kernel takes a program off when it has time for it.
            wait_until("the other to be gone, and the one behind it to run", PATIENCE, || {
                Ok(goes(lab, Way::Intercepted, &BITS[..1], "without the other").is_ok())
            })?;
        }
        agent.stop()
    })
}

/// Nothing is let in, through or out that connection tracking calls invalid; forwarding is not allowed at all.
fn a_firewall_that_drops_what_it_does_not_know(backend: Backend) -> Result<()> {
    Lab::run("firewall", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        lab.gateway.sh("nft 'add table inet fw
            add counter inet fw invalid
            add chain inet fw input { type filter hook input priority filter; policy drop; }
            add chain inet fw forward { type filter hook forward priority filter; policy drop; }
            add chain inet fw output { type filter hook output priority filter; }
            add rule inet fw input ct state invalid counter name invalid drop
            add rule inet fw forward ct state invalid counter name invalid drop
            add rule inet fw output ct state invalid counter name invalid drop
            add rule inet fw input iifname { lo, filt0 } accept
            add rule inet fw input icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
            add rule inet fw input meta mark & 0xffff0000 == 0x4d580000 accept'")?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
            client.greet("mail.customer.test")?;
            let tracked = lab.gateway.sh("cat /proc/net/nf_conntrack")?;
            let (from, to) = (written(family, true), written(family, false));
            let is_ours =
                |line: &&str| line.contains(&format!("src={from} dst={to}")) && line.contains("dport=25 ");
            let open: Vec<_> = tracked.lines().filter(is_ours).collect();
            let clean = |line: &&str| line.contains("ESTABLISHED") && line.contains("[ASSURED]");
            ensure!(open.len() == 2 && open.iter().all(clean), "two clean entries: {open:#?}");
            let user = format!("{family:?}").to_lowercase();
            let recipient = format!("{user}@{}", family.domain());
            client.send_message("a@customer.test", &[&recipient], HAM)?.expect(250)?;
            client.command("QUIT")?.expect(221)?;
            ensure!(destination.wait_stored(&user)?.came_from(family.customer()));
        }
        let invalid = count(&lab.gateway, "fw invalid")?;
        ensure!(invalid == 0, "{invalid} packets were called invalid");
        agent.stop()
    })
}

/// The customer's or the destination's address as connection tracking writes it.
fn written(family: Family, customer: bool) -> String {
    match (family, if customer { family.customer() } else { family.destination() }) {
        (Family::V6, std::net::IpAddr::V6(address)) => {
            address.segments().map(|segment| format!("{segment:04x}")).join(":")
        }
        (_, address) => address.to_string(),
    }
}

/// As operators of large gateways have it.
fn port_25_is_not_tracked(backend: Backend) -> Result<()> {
    Lab::run("notrack", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        lab.gateway.sh("nft 'add table inet raw
            add chain inet raw pre { type filter hook prerouting priority raw; }
            add chain inet raw out { type filter hook output priority raw; }
            add rule inet raw pre tcp dport 25 notrack
            add rule inet raw pre tcp sport 25 notrack
            add rule inet raw out tcp dport 25 notrack
            add rule inet raw out tcp sport 25 notrack
            add chain inet raw input { type filter hook input priority filter; }
            add rule inet raw input ct state invalid drop'")?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let found = way(&lab.customer, family.customer(), family.destination())?;
            ensure!(found == Way::Intercepted, "{family:?}");
        }
        let tracked = lab.gateway.sh("grep -w dport=25 /proc/net/nf_conntrack; true")?;
        ensure!(tracked.is_empty(), "tracked: {tracked}");
        agent.stop()
    })
}

/// Strict with the mark, loose, off, and with martians logged.
fn settings_that_look_at_sources(backend: Backend) -> Result<()> {
    Lab::run("sources", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for (rp_filter, src_valid_mark, log_martians) in [(1, 1, 1), (2, 1, 1), (2, 0, 0), (0, 1, 0)] {
            let settings = [
                ("rp_filter", rp_filter),
                ("src_valid_mark", src_valid_mark),
                ("log_martians", log_martians),
            ];
            for (setting, value) in settings {
                lab.gateway.sh(&format!(
                    "for each in /proc/sys/net/ipv4/conf/*/{setting}; do echo {value} >$each; done"
                ))?;
            }
            for family in Family::BOTH {
                let found = way(&lab.customer, family.customer(), family.destination())?;
                ensure!(found == Way::Intercepted, "{family:?} with {settings:?}");
            }
        }
        agent.stop()
    })
}

/// Segments that are larger than any packet on a cable, and none of them.
fn offloads_on_and_off(backend: Backend) -> Result<()> {
    Lab::run("offloads", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let line = "0123456789".repeat(7) + "\n";
        let message = format!("Subject: large\n\n{}", line.repeat(4_000_000 / line.len()));
        for switch in ["on", "off"] {
            for host in [&lab.customer, &lab.gateway, &lab.internet] {
                host.sh(&format!(
                    "for each in eth0 cust0 inet0; do [ ! -e /proc/sys/net/ipv4/conf/$each ] || \
                     ethtool -K $each gro {switch} gso {switch} tso {switch} tx {switch} || exit; done"
                ))?;
            }
            for family in Family::BOTH {
                let user = format!("{family:?}-{switch}").to_lowercase();
                let recipient = format!("{user}@{}", family.domain());
                let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
                client.greet("mail.customer.test")?;
                let sent = client.send_message("a@customer.test", &[&recipient], message.as_bytes())?;
                sent.expect(250)?;
                let stored = destination.wait_stored(&user)?;
                ensure!(stored.content.ends_with(message.as_bytes()), "{family:?}, {switch}: not the same");
                ensure!(stored.came_from(family.customer()) && !stored.came_by_tls(), "{}", stored.trace());
            }
        }
        agent.stop()
    })
}

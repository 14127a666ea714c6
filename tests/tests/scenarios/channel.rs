//! The channel between agents and filter nodes: who is blocked on a node is stopped at the gateway, and what destinations answer
//! is counted at the node.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, FilterConfig, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink};
use weir_tests::probe::{HAM, is_dropped, is_reset};
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, patient, wait_until};

on_both_back_ends!(
    a_blocked_customer_sends_nothing_from_any_of_his_addresses,
    a_script_blocks_a_customer_at_the_gateway,
    blocks_stay_while_the_node_is_away_and_over_a_restart,
    what_destinations_answer_is_counted_at_the_node,
);

const ADDRESSES: u8 = 60;
const SESSIONS: u8 = 200;
const TOKEN: &str = "5f1dc6d0b3a94f7f8c2e6a1b9d3c5e7f";

/// Of a customer who has all of 10.1.9.0/24.
fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 1, 9, number % ADDRESSES + 1).into()
}

/// Of his addresses these go through another gateway: 32 to 60.
const BESIDE: &str = "10.1.9.32/27";

fn place_token(lab: &Lab) -> Result<()> {
    place_token_on(&[&lab.gateway, &lab.filter])?;
    let add = |number: u8| format!("ip address add {}/16 dev eth0\n", address(number));
    lab.customer.sh(&(0..ADDRESSES).map(add).collect::<String>())?;
    Ok(())
}

fn place_token_on(hosts: &[&Host]) -> Result<()> {
    for host in hosts {
        host.write("/etc/weir/channel.token", TOKEN)?;
        host.sh("chmod 600 /etc/weir/channel.token")?;
    }
    Ok(())
}

fn agent(backend: Backend) -> AgentConfig {
    let mut config = AgentConfig::new(backend);
    config.nodes.truncate(1);
    config.filter_lines = "[filter.channel]\nnodes = [\"http://10.3.0.11:10026\"]\n\
                           token_file = \"/etc/weir/channel.token\""
        .into();
    config
}

fn node() -> FilterConfig {
    let mut config = FilterConfig::node(0);
    config.sections = "[[customers.prefixes]]\nprefix = \"10.1.9.0/24\"\nid = \"4711\"\n[channel]\n\
                       listen = [\"10.3.0.11:10026\"]\ntoken_file = \"/etc/weir/channel.token\""
        .into();
    config
}

fn command(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let finished = WeirFilter::command(&lab.filter, arguments)?;
    ensure!(finished.success, "{arguments:?}: {}", finished.output);
    Ok(finished.output)
}

fn wait_blocks(gateway: &Host, expected: u64) -> Result<()> {
    wait_until("the agent's list of blocks", PATIENCE, || {
        Ok(WeirAgent::status(gateway)?["channel"]["blocks"].as_u64() == Some(expected))
    })
}

/// A session, every second one in the middle of a message.
fn open(lab: &Lab, number: u8, to: IpAddr) -> Result<Client> {
    let mut client = Client::connect_from(&lab.customer, address(number), (to, 25).into())?;
    client.greet("mail.customer.test")?;
    if number.is_multiple_of(2) {
        client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
        client.command("RCPT TO:<user@v4.destination.test>")?.expect(250)?;
        client.command("DATA")?.expect(354)?;
        client.send(b"Subject: begun before\r\n\r\n")?;
    }
    Ok(client)
}

/// How a blocked customer is refused: told at the banner with `ebpf`, else with a reset.
fn ensure_refused(lab: &Lab, backend: Backend, from: IpAddr, to: IpAddr) -> Result<()> {
    if backend == Backend::Tproxy {
        // Until the kernel knows it the agent says it.
        return wait_until(&format!("the end of {from}'s connections"), PATIENCE, || {
            is_reset(&lab.customer, from, to)
        });
    }
    let text = Client::connect_from(&lab.customer, from, (to, 25).into())?.expect(554)?.text();
    ensure!(text.contains("a bot; contact abuse@provider.test ("), "{text}");
    Ok(())
}

/// He has two gateways, each with an agent of its own.
fn a_blocked_customer_sends_nothing_from_any_of_his_addresses(backend: Backend) -> Result<()> {
    Lab::run("channel", NarrowLink::Nowhere, |lab| {
        place_token(lab)?;
        let beside = lab.second_gateway(BESIDE)?;
        place_token_on(&[&beside])?;
        let gateways = [&lab.gateway, &beside];
        let to = Family::V4.destination();
        let destination = Server::start(&lab.internet, to, Script::default())?;
        let _node = WeirFilter::start(&lab.filter, 0, &node())?;
        let agents = gateways
            .map(|gateway| WeirAgent::start(gateway, &agent(backend)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let mut sessions = (0..SESSIONS).map(|number| open(lab, number, to)).collect::<Result<Vec<_>>>()?;
        for gateway in gateways {
            let taken = WeirAgent::status(gateway)?["counters"]["sessions"].as_u64();
            ensure!(taken >= Some(u64::from(SESSIONS) / 3), "{} has {taken:?} of them", gateway.name());
        }
        let mut other = Client::connect_from(&lab.customer, Family::V4.customer(), (to, 25).into())?;
        other.greet("mail.customer.test")?;

        let since = Instant::now();
        let said = command(lab, &["block", "4711", "--for", "2h", "--reason", "a bot"])?;
        ensure!(said.contains("4711 is blocked for"), "{said}");
        for session in &mut sessions {
            let text = session.expect(421)?.text();
            ensure!(text.contains("blocked by your provider") && session.is_closed()?, "{text}");
        }
        ensure!(since.elapsed() < patient(Duration::from_secs(5)), "it took {:?}", since.elapsed());
        gateways.iter().try_for_each(|gateway| wait_blocks(gateway, 1))?;
        for number in 0..ADDRESSES {
            ensure_refused(lab, backend, address(number), to)?;
        }
        let counted = |reason: &str| -> Result<u64> {
            let of = |gateway: &Host| Ok(WeirAgent::status(gateway)?["steering"][reason].as_u64());
            let counts = gateways.map(of).into_iter().collect::<Result<Vec<_>>>()?;
            Ok(counts.into_iter().flatten().sum())
        };
        if backend == Backend::Ebpf {
            // Told a moment ago: the next SYN goes nowhere.
            ensure_refused(lab, backend, address(7), to)?;
            let again = Client::connect_within(
                &lab.customer,
                address(7),
                (to, 25).into(),
                Duration::from_millis(300),
            );
            ensure!(again.is_err(), "told twice in a second");
            let (told, dropped) = (counted("blocked_told")?, counted("blocked_dropped")?);
            ensure!(told > u64::from(ADDRESSES) && dropped >= 1, "{told} told, {dropped} dropped");
        } else {
            let reset = counted("blocked_reset")?;
            ensure!(reset >= u64::from(ADDRESSES), "{reset} reset");
        }
        // His neighbour is not he.
        let sent = other.send_message("a@customer.test", &["user@v4.destination.test"], HAM)?;
        ensure!(sent.code == 250, "{sent:?}");
        let messages: usize = destination.sessions().iter().map(|session| session.messages.len()).sum();
        ensure!(messages == 1, "{messages} messages arrived");

        command(lab, &["unblock", "4711"])?;
        gateways.iter().try_for_each(|gateway| wait_blocks(gateway, 0))?;
        for number in [0, 40] {
            Client::connect_from(&lab.customer, address(number), (to, 25).into())?.expect(220)?;
        }
        agents.into_iter().try_for_each(WeirAgent::stop)
    })
}

const POLICY: &str = "function data(message)\n\
    if message.sender == 'bot@customer.test' then\n\
    log(tostring(block(3600, 'a bot'))) reject('Your server sends spam')\nend\nend\n";

/// For one message, with all his addresses; and it is written down which script did, and for which message.
fn a_script_blocks_a_customer_at_the_gateway(backend: Backend) -> Result<()> {
    Lab::run("channel-script", NarrowLink::Nowhere, |lab| {
        place_token(lab)?;
        let to = Family::V4.destination();
        let _destination = Server::start(&lab.internet, to, Script::default())?;
        lab.filter.write("/etc/weir/policy.luau", POLICY)?;
        let mut config = node();
        config.smtp_lines = "[script]\nfile = \"/etc/weir/policy.luau\"".into();
        let node = WeirFilter::start(&lab.filter, 0, &config)?;
        let agent = WeirAgent::start(&lab.gateway, &agent(backend))?;
        let send = |from: IpAddr, sender: &str| -> Result<u16> {
            let mut client = Client::connect_from(&lab.customer, from, (to, 25).into())?;
            client.greet("mail.customer.test")?;
            Ok(client.send_message(sender, &["user@v4.destination.test"], HAM)?.code)
        };
        ensure!(send(address(1), "a@customer.test")? == 250);
        let since = Instant::now();
        // The end of his sessions may come before the verdict.
        let code = send(address(1), "bot@customer.test")?;
        ensure!([550, 421].contains(&code), "{code}: {}", node.output());
        wait_blocks(&lab.gateway, 1)?;
        ensure_refused(lab, backend, address(7), to)?;
        ensure!(since.elapsed() < patient(Duration::from_secs(5)), "it took {:?}", since.elapsed());
        ensure!(send(Family::V4.customer(), "a@customer.test")? == 250, "his neighbour");
        let listed = command(lab, &["blocks"])?;
        ensure!(listed.contains("4711") && listed.contains("by policy.luau"), "{listed}");
        let audit = std::fs::read_to_string(lab.filter.path("/var/lib/weir-filter/filter-audit.jsonl"))?;
        ensure!(
            audit.contains("\"script\":\"policy.luau\"") && audit.contains("\"who\":\"4711\""),
            "{audit}"
        );
        command(lab, &["unblock", "4711"])?;
        agent.stop()
    })
}

fn blocks_stay_while_the_node_is_away_and_over_a_restart(backend: Backend) -> Result<()> {
    Lab::run("channel-away", NarrowLink::Nowhere, |lab| {
        place_token(lab)?;
        let to = Family::V4.destination();
        let _destination = Server::start(&lab.internet, to, Script::default())?;
        let mut filter = WeirFilter::start(&lab.filter, 0, &node())?;
        let first = WeirAgent::start(&lab.gateway, &agent(backend))?;
        command(lab, &["block", "4711", "--reason", "a bot"])?;
        // Another block of the operator's at the gateway: neither overwrites the other.
        let local = WeirAgent::command(&lab.gateway, &["block", "10.1.9.2", "--drop"])?;
        ensure!(local.success, "{}", local.output);
        wait_blocks(&lab.gateway, 1)?;
        filter.kill()?;
        ensure_refused(lab, backend, address(0), to)?;
        ensure!(is_dropped(&lab.customer, address(1), to)?, "the operator's own block");
        first.stop()?;
        let second = WeirAgent::start(&lab.gateway, &agent(backend))?;
        ensure_refused(lab, backend, address(2), to)?;
        ensure!(is_dropped(&lab.customer, address(1), to)?, "the operator's own block after a restart");
        // The node knows it after a kill, too.
        let _filter = WeirFilter::start(&lab.filter, 0, &node())?;
        ensure!(command(lab, &["blocks"])?.contains("4711"), "the node has forgotten it");
        command(lab, &["unblock", "4711"])?;
        wait_blocks(&lab.gateway, 0)?;
        Client::connect_from(&lab.customer, address(2), (to, 25).into())?.expect(220)?;
        ensure!(is_dropped(&lab.customer, address(1), to)?, "the operator's own block without the node's");
        second.stop()
    })
}

fn what_destinations_answer_is_counted_at_the_node(backend: Backend) -> Result<()> {
    Lab::run("channel-outcomes", NarrowLink::Nowhere, |lab| {
        place_token(lab)?;
        let to = Family::V4.destination();
        let script = Script::default().answering(".", "550 5.1.1 nobody here");
        let _destination = Server::start(&lab.internet, to, script)?;
        let mut config = node();
        config.sections += "\n[reputation]\nenabled = true";
        let _node = WeirFilter::start(&lab.filter, 0, &config)?;
        let agent = WeirAgent::start(&lab.gateway, &agent(backend))?;
        for number in 0..3 {
            let mut client = Client::connect_from(&lab.customer, address(number), (to, 25).into())?;
            client.greet("mail.customer.test")?;
            let sent = client.send_message("a@customer.test", &["user@v4.destination.test"], HAM)?;
            ensure!(sent.code == 550, "{sent:?}");
        }
        wait_until("the outcomes", PATIENCE, || {
            Ok(WeirFilter::status(&lab.filter)?["outcomes"]["rejected"].as_u64() == Some(3))
        })?;
        wait_until("the destination's reply in the log", PATIENCE, || {
            let log = command(lab, &["log", "--json", "--customer", "4711"])?;
            let replied =
                |line: &&str| line.contains("\"reply_code\":550") && line.contains("550 5.1.1 nobody here");
            Ok(log.lines().filter(replied).count() == 3)
        })?;
        // Three messages, and five points against each.
        wait_until("his reputation", PATIENCE, || {
            let shown = command(lab, &["rates", "show", "4711"])?;
            let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            Ok(shown.lines().any(|line| fields(line) == ["reputation", "4711", "89", "7d"]))
        })?;
        let node = &WeirAgent::status(&lab.gateway)?["channel"]["nodes"][0];
        ensure!(node["outcomes_sent"] == 3 && node["outcomes_lost"] == 0, "{node}");
        agent.stop()
    })
}

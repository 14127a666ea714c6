//! What a filter node keeps of the messages it judged.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::components::{AgentConfig, Backend, FILTER_PORT, FilterConfig, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink};
use weir_tests::probe::HAM;
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, wait_for};

/// What `weir-filter log --json` prints, once it prints so many lines.
fn wait_log(host: &Host, arguments: &[&str], lines: usize) -> Result<Vec<Value>> {
    wait_for(&format!("{lines} lines of log {arguments:?}"), PATIENCE, || {
        let output = WeirFilter::ask(host, &[&["log", "--json"], arguments].concat())?;
        let events: Vec<Value> = output
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        Ok(Some(events).filter(|events| events.len() == lines))
    })
}

fn send(lab: &Lab, family: Family) -> Result<u16> {
    let mut client =
        Client::connect_from(&lab.customer, family.customer(), (family.destination(), 25).into())?;
    client.greet("mail.customer.test")?;
    let recipients = [&*format!("user@{}", family.domain()), &*format!("other@{}", family.domain())];
    Ok(client.send_message("sender@customer.test", &recipients, HAM)?.code)
}

/// A message is found under the id that agent and node logged, by all that is known of it, and no mail address is in
/// the files. A node that is killed leaves them readable.
#[test]
fn a_message_is_found_and_outlives_the_node() -> Result<()> {
    Lab::run("records", NarrowLink::Nowhere, |lab| {
        let config = FilterConfig::node(0);
        let mut filter = WeirFilter::start(&lab.filter, 0, &config)?;
        let start = |family: Family| Server::start(&lab.internet, family.destination(), Script::default());
        let _destinations = [start(Family::V4)?, start(Family::V6)?];
        let mut agent = AgentConfig::new(Backend::Ebpf);
        agent.nodes.truncate(1);
        let agent = WeirAgent::start(&lab.gateway, &agent)?;
        for family in Family::BOTH {
            ensure!(send(lab, family)? == 250, "{family:?}");
        }
        for (line, family) in agent.messages().iter().zip(Family::BOTH) {
            let (id, node) = (line.field("id"), filter.wait_message(&line.field("id"))?);
            let event = &wait_log(&lab.filter, &["--id", &id], 1)?[0];
            ensure!(event["id"] == *id && event["verdict"] == "accept", "{event}");
            ensure!(event["address"] == family.customer().to_string(), "{event}");
            ensure!(event["destination"] == family.destination().to_string(), "{event}");
            ensure!(event["agent"] == Family::V4.proxy().to_string(), "{event}");
            ensure!(event["helo"] == node.field("helo"), "{event}");
            ensure!(event["size"].as_u64() == node.field("size").parse().ok(), "{event}");
            ensure!(event["sender_domain"] == "customer.test" && event["recipients"] == 2, "{event}");
            ensure!(event["recipient_domains"] == serde_json::json!([family.domain()]), "{event}");
            let address = family.customer().to_string();
            let same = wait_log(&lab.filter, &["--ip", &address, "--since", "1h"], 1)?;
            ensure!(same[0]["id"] == *id, "{same:?}");
        }
        let table = WeirFilter::ask(&lab.filter, &["log", "--limit", "5"])?;
        ensure!(table.lines().count() == 3 && table.lines().all(|line| line.len() <= 100), "{table}");
        filter.kill()?;
        drop(filter);
        let file = ["--config", "/etc/weir/filter0.toml"];
        ensure!(wait_log(&lab.filter, &file, 2)?.len() == 2);
        let directory = lab.filter.path(&config.events_directory);
        for entry in std::fs::read_dir(&directory).context("events")? {
            let octets = std::fs::read(entry?.path())?;
            let text = String::from_utf8_lossy(&octets);
            ensure!(!text.contains("sender@") && !text.contains("user@"), "a mail address was stored");
        }
        // It goes on where it was.
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        ensure!(send(lab, Family::V4)? == 250);
        wait_log(&lab.filter, &[], 3)?;
        filter.stop()?;
        agent.stop()
    })
}

/// A customer's events and counts are shown, exported and forgotten, and who did it is written down.
#[test]
fn a_customer_is_shown_exported_and_forgotten() -> Result<()> {
    Lab::run("records-forget", NarrowLink::Nowhere, |lab| {
        let filter = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0))?;
        let start = |family: Family| Server::start(&lab.internet, family.destination(), Script::default());
        let _destinations = [start(Family::V4)?, start(Family::V6)?];
        let mut agent = AgentConfig::new(Backend::Ebpf);
        agent.nodes.truncate(1);
        let agent = WeirAgent::start(&lab.gateway, &agent)?;
        for family in Family::BOTH {
            ensure!(send(lab, family)? == 250, "{family:?}");
        }
        wait_log(&lab.filter, &[], 2)?;
        let ask = |arguments: &[&str]| WeirFilter::ask(&lab.filter, arguments);
        let customer = Family::V4.customer().to_string();
        let top = ask(&["rates", "top"])?;
        ensure!(top.contains(&customer) && top.contains("fd01::/64"), "{top}");
        ensure!(ask(&["usage"])?.lines().count() == 2, "{}", ask(&["usage"])?);
        let exported: Value = serde_json::from_str(&ask(&["export", "--customer", &customer])?)?;
        ensure!(exported["events"].as_array().is_some_and(|events| events.len() == 1), "{exported}");
        ensure!(exported["counters"][0]["key"] == customer, "{exported}");
        let forgotten = ask(&["forget", "--customer", &customer])?;
        ensure!(forgotten.starts_with(&format!("{customer}: 1 events and ")), "{forgotten}");
        ensure!(wait_log(&lab.filter, &[], 1)?[0]["address"] == Family::V6.customer().to_string());
        ensure!(ask(&["rates", "show", &customer])?.contains("nothing is counted"));
        ask(&["rates", "clear", "fd01::/64"])?;
        ensure!(ask(&["rates", "top"])?.contains("nothing is counted"));
        let audit = std::fs::read_to_string(lab.filter.path("/var/lib/weir-filter/filter-audit.jsonl"))?;
        let actions: Vec<Value> = audit.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let actions: Vec<_> =
            actions.iter().map(|line| (line["action"].as_str(), line["uid"].as_u64())).collect();
        let expected = ["export", "forget", "rates clear", "rates clear"];
        ensure!(actions == expected.map(|action| (Some(action), Some(0))), "{audit}");
        filter.stop()?;
        agent.stop()
    })
}

/// What both nodes know of a customer, asked at one of them; a node that is away is said.
#[test]
fn the_events_of_all_nodes_are_found() -> Result<()> {
    Lab::run("records-all", NarrowLink::Nowhere, |lab| {
        lab.filter.write("/etc/weir/channel.token", "0123456789abcdef0123456789abcdef\n")?;
        lab.filter.sh("chmod 600 /etc/weir/channel.token")?;
        let config = |config: FilterConfig| {
            let listen = config.listen[0].ip();
            let sections = format!(
                "[channel]\nlisten = [\"{listen}:10026\"]\ntoken_file = \"/etc/weir/channel.token\"\n\
                 nodes = [\"10.3.0.11:10026\", \"10.3.0.12:10026\"]\n"
            );
            FilterConfig { sections, ..config }
        };
        let [first, mut second] = WeirFilter::start_both(&lab.filter, config)?;
        for (node, id) in [(0, "one"), (1, "two")] {
            let mut client =
                Client::connect(&lab.gateway, (Family::V4.filter_node(node), FILTER_PORT).into())?;
            client.greet("gateway.test")?;
            client.command("XCLIENT ADDR=10.1.0.2 HELO=h PROTO=ESMTP")?.expect(220)?;
            client.command("EHLO h")?.expect(250)?;
            client.command(&format!("XFORWARD IDENT={id}"))?.expect(250)?;
            client.send_message("a@customer.test", &["b@v4.destination.test"], HAM)?.expect(250)?;
        }
        let ids = |events: &[Value]| events.iter().map(|event| event["id"].clone()).collect::<Vec<_>>();
        for node in [0, 1] {
            let file = format!("/etc/weir/filter{node}.toml");
            let all = ["--all-nodes", "--config", &file, "--ip", "10.1.0.2"];
            ensure!(ids(&wait_log(&lab.filter, &all, 2)?) == ["two", "one"], "node {node}");
        }
        let all = ["log", "--all-nodes", "--config", "/etc/weir/filter0.toml", "--limit", "1"];
        let latest = WeirFilter::ask(&lab.filter, &all)?;
        ensure!(latest.contains(" two ") && !latest.contains(" one "), "{latest}");
        second.kill()?;
        let without = WeirFilter::ask(&lab.filter, &all)?;
        ensure!(without.contains("missing here is what is in all of 10.3.0.12:10026"), "{without}");
        ensure!(without.contains(" one "), "{without}");
        // Agents have the token, and no business with it.
        let stranger = lab.gateway.sh(
            "curl --silent --max-time 10 --header 'Authorization: Bearer 0123456789abcdef0123456789abcdef' \
             --data '{}' http://10.3.0.11:10026/v1/log --write-out '%{http_code}'",
        )?;
        ensure!(stranger.ends_with("403"), "{stranger}");
        first.stop()
    })
}

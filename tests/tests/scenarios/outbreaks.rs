//! A campaign that goes through two filter nodes, which tell each other through Redis.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::Value;
use weir_tests::components::{FILTER_PORT, FilterConfig, Redis, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::smtp::{Client, Reply};
use weir_tests::wait::{PATIENCE, wait_until};

const SCRIPT: &str = "/etc/weir/policy.luau";
const POLICY: &str = "function data() if scan('outbreak').level >= 50 then reject('outbreak') end end";

/// A copy through one node: of one of three customers, to a recipient of its own.
fn send(lab: &Lab, node: u8, number: u32) -> Result<Reply> {
    let to = SocketAddr::new(Family::V4.filter_node(node), FILTER_PORT);
    let mut client = Client::connect(&lab.gateway, to)?;
    client.greet("gateway.test")?;
    let customer = 2 + number % 3;
    client.command(&format!("XCLIENT ADDR=10.1.0.{customer} HELO=h PROTO=ESMTP"))?.expect(220)?;
    client.command("EHLO h")?.expect(250)?;
    let text = format!(
        "Subject: Offer {number}\n\nDear friend {number}, we have been looking for reliable partners in your town who would \
         like to earn a second income from home without leaving their present work or paying anything in advance\n"
    );
    let recipient = format!("r{number}@d{number}.destination.test");
    client.send_message(&format!("a@c{customer}.test"), &[&recipient], text.as_bytes())
}

/// What a node knows of the others.
fn shared(lab: &Lab, node: &WeirFilter) -> Result<Value> {
    Ok(node.own_status(&lab.filter)?["outbreak"]["shared"].clone())
}

#[test]
fn a_campaign_through_both_nodes_is_seen_by_each_and_after_a_restart() -> Result<()> {
    Lab::run("outbreak-shared", NarrowLink::Nowhere, |lab| {
        let mut redis = Redis::start(&lab.filter, Family::V4.filter_node(0))?;
        lab.filter.write(SCRIPT, POLICY)?;
        let config = |config: FilterConfig| FilterConfig {
            counters_lines: format!("redis = {:?}", redis.url()),
            smtp_lines: format!("[script]\nfile = {SCRIPT:?}\n[outbreak]\nbulk_copies = 12\n"),
            ..config
        };
        let [first, second] = WeirFilter::start_both(&lab.filter, config)?;
        for node in [&first, &second] {
            wait_until("the nodes to hear each other", PATIENCE, || Ok(shared(lab, node)?["here"] == true))?;
        }
        // For each node alone it would be half of what it takes.
        for number in 0..11 {
            ensure!(send(lab, u8::try_from(number % 2)?, number)?.code == 250, "{number}");
        }
        wait_until("both to know all", PATIENCE, || {
            Ok(shared(lab, &first)?["heard"] == 5 && shared(lab, &second)?["heard"] == 6)
        })?;
        for node in [0, 1] {
            let refused = send(lab, node, 11 + u32::from(node))?;
            ensure!(refused.code == 550 && refused.text().contains("outbreak"), "{}", refused.text());
        }
        first.stop()?;
        let again = WeirFilter::start(&lab.filter, 0, &config(FilterConfig::node(0)))?;
        wait_until("the day's history", PATIENCE, || Ok(shared(lab, &again)?["heard"] == 13))?;
        let refused = send(lab, 0, 13)?;
        ensure!(refused.code == 550, "{}", refused.text());

        // Without the store each goes on with what it knows.
        redis.process().kill()?;
        wait_until("the store to be missed", PATIENCE, || Ok(shared(lab, &second)?["here"] == false))?;
        ensure!(send(lab, 1, 14)?.code == 550);
        again.stop()?;
        second.stop()
    })
}

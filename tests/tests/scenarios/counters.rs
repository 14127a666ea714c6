//! Two filter nodes that count in one Redis.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use weir_tests::components::{FILTER_PORT, FilterConfig, Redis, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::HAM;
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

const SENDERS: u32 = 32;

fn nodes(lab: &Lab, redis: &Redis, limit: u32, when_away: &str) -> Result<[WeirFilter; 2]> {
    let lines = format!("redis = {:?}\nwhen_away = {when_away:?}", redis.url());
    let filters = WeirFilter::start_both(&lab.filter, |config| FilterConfig {
        messages_per_hour: limit,
        counters_lines: lines.clone(),
        ..config
    })?;
    for filter in &filters {
        wait_until("the node to reach Redis", PATIENCE, || {
            Ok(filter.output().contains("the counters' store is there"))
        })?;
    }
    Ok(filters)
}

/// A connection to a node, as an agent's.
fn connect(lab: &Lab, node: u8) -> Result<Client> {
    let mut client =
        Client::connect(&lab.gateway, SocketAddr::new(Family::V4.filter_node(node), FILTER_PORT))?;
    client.greet("gateway.test")?;
    Ok(client)
}

fn say_who(client: &mut Client, literal: &str) -> Result<()> {
    client.command(&format!("XCLIENT ADDR={literal} HELO=h PROTO=ESMTP"))?.expect(220)?;
    client.command("EHLO h")?.expect(250)?;
    Ok(())
}

/// All senders at once, one after the other to each node, so many messages each: how many passed. `who` is whose the
/// message with this number is; a connection is for one customer.
fn send(lab: &Lab, each: u32, who: impl Fn(u32) -> String + Sync) -> Result<u32> {
    let passed = AtomicU32::new(0);
    let sender = |number: u32| -> Result<()> {
        let node = u8::try_from(number % 2)?;
        let mut said = who(number * each);
        let mut client = connect(lab, node)?;
        say_who(&mut client, &said)?;
        for message in 0..each {
            let literal = who(number * each + message);
            if literal != said {
                client = connect(lab, node)?;
                say_who(&mut client, &literal)?;
                said = literal;
            }
            let reply = client.send_message("a@customer.test", &["b@v4.destination.test"], HAM)?;
            ensure!([250, 451].contains(&reply.code), "{}", client.transcript());
            passed.fetch_add(u32::from(reply.code == 250), Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS).map(|number| scope.spawn(move || sender(number))).collect();
        senders
            .into_iter()
            .try_for_each(|sender| sender.join().unwrap_or_else(|_| anyhow::bail!("a sender panicked")))
    })?;
    Ok(passed.into_inner())
}

fn one(_: u32) -> String {
    "10.1.0.2".to_owned()
}

#[test]
fn of_5000_messages_at_both_nodes_exactly_the_limit_passes() -> Result<()> {
    Lab::run("counters-exact", NarrowLink::Nowhere, |lab| {
        let redis = Redis::start(&lab.filter, Family::V4.filter_node(0))?;
        let filters = nodes(lab, &redis, 1000, "defer")?;
        let passed = send(lab, 5000 / SENDERS, one)?;
        ensure!(passed == 1000, "{passed} passed");
        // Whichever address of a /64 it is.
        let passed = send(lab, 10_000 / SENDERS, |number| format!("IPV6:fd01::1:{number:x}"))?;
        ensure!(passed == 1000, "{passed} of a /64 passed");
        // Whichever node is asked.
        for filter in &filters {
            let table = |arguments: &[&str]| filter.ask_own(&lab.filter, &[&["rates"], arguments].concat());
            let (shown, top) = (table(&["show", "10.1.0.2"])?, table(&["top"])?);
            ensure!(shown.lines().any(|line| line.contains(" 1000  1h")), "{shown}");
            let hours = top.lines().filter(|line| line.starts_with("outbound-hour"));
            ensure!(hours.filter(|line| line.contains(" 1000  1h")).count() == 2, "{top}");
        }
        filters.into_iter().try_for_each(WeirFilter::stop)
    })
}

#[test]
fn a_message_that_is_told_to_both_nodes_counts_once() -> Result<()> {
    Lab::run("counters-once", NarrowLink::Nowhere, |lab| {
        let redis = Redis::start(&lab.filter, Family::V4.filter_node(0))?;
        let filters = nodes(lab, &redis, 2, "defer")?;
        let tell = |node: u8, id: &str| -> Result<u16> {
            let mut client = connect(lab, node)?;
            say_who(&mut client, "10.1.0.2")?;
            client.command(&format!("XFORWARD IDENT={id}"))?.expect(250)?;
            Ok(client.send_message("a@customer.test", &["b@v4.destination.test"], HAM)?.code)
        };
        let told = [tell(0, "one")?, tell(1, "one")?, tell(0, "one")?, tell(1, "two")?, tell(0, "two")?];
        ensure!(told == [250; 5], "{told:?}");
        let told = [tell(0, "three")?, tell(1, "three")?, tell(1, "one")?];
        ensure!(told == [451, 451, 250], "{told:?}");
        filters.into_iter().try_for_each(WeirFilter::stop)
    })
}

#[test]
fn without_redis_nothing_passes_or_each_node_counts_by_itself() -> Result<()> {
    for (when_away, most) in [("defer", 0), ("local", 50)] {
        Lab::run(&format!("counters-{when_away}"), NarrowLink::Nowhere, |lab| {
            let mut redis = Redis::start(&lab.filter, Family::V4.filter_node(0))?;
            let filters = nodes(lab, &redis, 100, when_away)?;
            let before = send(lab, 1, one)? + send(lab, 1, one)?;
            ensure!(before == 2 * SENDERS, "{before} passed");
            redis.process().kill()?;
            let asked = filters[0].ask_own(&lab.filter, &["rates", "show", "10.1.0.2"]);
            match (when_away, asked) {
                ("local", Ok(shown)) => ensure!(shown.contains("10.1.0.2"), "{shown}"),
                ("local", Err(error)) => return Err(error),
                (_, asked) => {
                    let said = asked.err().map(|error| format!("{error:#}")).unwrap_or_default();
                    ensure!(said.contains("the counters cannot be reached"), "{said}");
                }
            }
            // Each node has counted half of them.
            let without = send(lab, 8, one)?;
            ensure!(without <= 2 * (100 - SENDERS), "{without} passed without Redis");
            ensure!(
                if most == 0 { without == 0 } else { without >= most },
                "{without} passed with {when_away}"
            );
            for filter in &filters {
                wait_until("it to be said", PATIENCE, || {
                    Ok(filter.output().contains("the counters' store is away"))
                })?;
            }
            // It comes back, and has forgotten everything.
            drop(redis);
            let redis = Redis::start(&lab.filter, Family::V4.filter_node(0))?;
            for filter in &filters {
                wait_until("the node to reach Redis again", PATIENCE, || {
                    Ok(filter.output().matches("the counters' store is there").count() == 2)
                })?;
            }
            let again = send(lab, 8, one)?;
            ensure!(again == 100, "{again} passed with Redis");
            for filter in &filters {
                ensure!(filter.output().contains("came back empty"), "{}", filter.output());
            }
            drop(redis);
            filters.into_iter().try_for_each(WeirFilter::stop)
        })?;
    }
    Ok(())
}

//! The way back from the internet is lost: the destinations' answers to the agent do not arrive, those to customers do.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{Way, time_until, time_until_by, way, way_within};
use weir_tests::wait::{PATIENCE, wait_until};

/// Customers and destinations beside those of the lab.
const CUSTOMERS: [&str; 2] = ["10.1.1.1", "10.1.1.2"];
const DESTINATIONS: [&str; 5] = ["10.2.0.11", "10.2.0.12", "10.2.0.13", "10.2.0.14", "10.2.0.15"];

/// One connection is taken every two seconds, and waits. Whoever asks less often, on however slow a machine, is always that one.
const PROBE: Duration = Duration::from_millis(800);

/// Answers to the agent's ports (`steering.upstream_ports`) are lost.
fn lose_answers(lab: &Lab) -> Result<()> {
    lab.internet
        .sh("nft 'add table inet lost
            add chain inet lost out { type filter hook output priority 0; }
            add rule inet lost out tcp sport 25 tcp dport 16384-32767 drop'")
        .map(drop)
}

fn find_answers(lab: &Lab) -> Result<()> {
    lab.internet.sh("nft delete table inet lost").map(drop)
}

fn is_proven(lab: &Lab) -> Result<bool> {
    Ok(WeirAgent::status(&lab.gateway)?["return_path"]["proven"] == true)
}

/// Connections by three customers to five destinations, which nobody answers; they are held while `work` is done.
fn while_nobody_is_answered<T>(lab: &Lab, work: impl FnOnce() -> Result<T>) -> Result<T> {
    for address in CUSTOMERS {
        lab.customer.sh(&format!("ip addr add {address}/16 dev eth0"))?;
    }
    for address in DESTINATIONS {
        lab.internet.sh(&format!("ip addr add {address}/16 dev eth0"))?;
    }
    let customers = [Family::V4.customer(), CUSTOMERS[0].parse()?, CUSTOMERS[1].parse()?];
    thread::scope(|scope| {
        let mut waiting = Vec::new();
        for round in 0..2 {
            for (number, destination) in DESTINATIONS.iter().enumerate() {
                for customer in customers.iter().skip((round + number) % 2) {
                    let to: IpAddr = destination.parse()?;
                    waiting.push(scope.spawn(move || {
                        way_within(&lab.customer, *customer, to, Duration::from_secs(5)).is_ok()
                    }));
                }
            }
        }
        ensure!(waiting.len() >= 20, "only {} attempts", waiting.len());
        let done = work();
        for each in waiting {
            let greeted = each.join().map_err(|_| anyhow!("a customer panicked"))?;
            ensure!(!greeted, "somebody was answered");
        }
        done
    })
}

#[test]
fn new_connections_go_straight_until_answers_come_back() -> Result<()> {
    Lab::run("way-back", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(Backend::Ebpf))?;
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "not intercepted");
        ensure!(is_proven(lab)?, "an answer came, and is not seen");
        lose_answers(lab)?;
        while_nobody_is_answered(lab, || {
            wait_until("the loss to be noticed", PATIENCE, || Ok(!is_proven(lab)?))?;
            // All but the one that is taken now and then.
            time_until_by(PROBE, Way::Straight, &lab.customer, from, to).map(drop)
        })?;
        find_answers(lab)?;
        wait_until("an answer", PATIENCE, || {
            let _ = way_within(&lab.customer, from, to, Duration::from_millis(500));
            is_proven(lab)
        })?;
        ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "not intercepted again");
        let passed = WeirAgent::status(&lab.gateway)?["steering"]["unproven_passed"].clone();
        ensure!(passed.as_u64() > Some(0), "counted: {passed}");
        agent.stop()
    })
}

#[test]
fn at_the_start_one_at_a_time_is_taken() -> Result<()> {
    Lab::run("way-back-start", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        lose_answers(lab)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(Backend::Ebpf))?;
        let to = Family::V4.destination();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                way_within(&lab.customer, Family::V4.other_customer(), to, Duration::from_millis(500))
            });
            // One of them is caught, and while it is the others are not.
            time_until_by(PROBE, Way::Straight, &lab.customer, Family::V4.customer(), to)?;
            first.join().map_err(|_| anyhow!("a customer panicked")).map(drop)
        })?;
        ensure!(!is_proven(lab)?, "there was no answer");
        find_answers(lab)?;
        time_until(Way::Intercepted, &lab.customer, Family::V4.customer(), to)?;
        ensure!(is_proven(lab)?, "there was an answer");
        agent.stop()
    })
}

#[test]
fn closed_is_closed() -> Result<()> {
    Lab::run("way-back-closed", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(Backend::Ebpf).closed())?;
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "not intercepted");
        lose_answers(lab)?;
        while_nobody_is_answered(lab, || {
            wait_until("the loss to be noticed", PATIENCE, || Ok(!is_proven(lab)?))?;
            ensure!(way_within(&lab.customer, from, to, Duration::from_secs(1)).is_err(), "answered");
            Ok(())
        })?;
        find_answers(lab)?;
        ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "not intercepted");
        agent.stop()
    })
}

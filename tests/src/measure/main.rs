//! `weir-measure`: what steering costs, both back ends side by side with none, in the lab. Its results are for reading.

mod connections;
mod packets;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use weir_tests::components::{AgentConfig, Backend, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{Way, way};
use weir_tests::smtp::{Script, Server};

#[derive(Parser)]
#[command(name = "weir-measure", about = "What steering costs a packet and a connection (needs root)")]
struct Arguments {
    /// Each of none, ebpf and tproxy is measured so often, in turn; the medians are shown
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Packets of each kind in a round
    #[arg(long, default_value_t = 100_000)]
    packets: u32,
    /// Seconds for connections in a round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

fn main() -> ExitCode {
    match Lab::run("measure", NarrowLink::Nowhere, |lab| measure(lab, &Arguments::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What steers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Nothing,
    Backend(Backend),
}

impl By {
    const ALL: [Self; 3] = [Self::Nothing, Self::Backend(Backend::Ebpf), Self::Backend(Backend::Tproxy)];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Backend(backend) => backend.name(),
        }
    }
}

/// What one round found.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Nanoseconds of a packet, by [`packets::Kind`].
    packets: [f64; packets::Kind::ALL.len()],
    /// Connections a second.
    connections: f64,
    /// The same beside a flood of SYNs to a port that is dropped anyway, and beside one of a blocked customer to port 25.
    beside: [f64; 2],
}

fn measure(lab: &Lab, arguments: &Arguments) -> Result<()> {
    ensure!(arguments.rounds > 0 && arguments.packets > 0 && arguments.seconds > 0, "nothing to measure");
    let _destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
    let _greeters = connections::Greeters::start(lab)?;
    let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
    packets::prepare(lab)?;
    let mut found: [Vec<Found>; 3] = Default::default();
    for round in 1..=arguments.rounds {
        for (by, found) in By::ALL.into_iter().zip(&mut found) {
            eprintln!("round {round} of {}: {}", arguments.rounds, by.name());
            found.push(with(lab, by, arguments)?);
        }
    }
    println!("{}", table(&found));
    Ok(())
}

fn with(lab: &Lab, by: By, arguments: &Arguments) -> Result<Found> {
    let agent = match by {
        By::Nothing => None,
        By::Backend(backend) => {
            let mut config = AgentConfig::new(backend);
            config.relay_lines = "max_sessions_per_customer = 0".into();
            Some(WeirAgent::start(&lab.gateway, &config)?)
        }
    };
    let wanted = if agent.is_some() { Way::Intercepted } else { Way::Straight };
    let found = way(&lab.customer, Family::V4.customer(), Family::V4.destination())?;
    ensure!(found == wanted, "{}: {found:?}", by.name());
    // Before the SYNs, which fill the listener's queue for a minute.
    let connections = connections::measure(lab, arguments.seconds)?;
    let beside = beside_floods(lab, agent.is_some(), arguments.seconds)?;
    let packets = packets::measure(lab, agent.is_some(), arguments.packets)?;
    if let Some(agent) = agent {
        agent.stop()?;
    }
    Ok(Found { packets, connections, beside })
}

/// Another customer than the one whose connections are counted; blocked as long as it takes.
fn beside_floods(lab: &Lab, steered: bool, seconds: u64) -> Result<[f64; 2]> {
    let flooder = Family::V4.other_customer();
    let beside_any = connections::beside_flood(lab, flooder, packets::DROPPED_PORT, seconds)?;
    if !steered {
        return Ok([beside_any, f64::NAN]);
    }
    let command = |arguments: &[&str]| -> Result<()> {
        let said = WeirAgent::command(&lab.gateway, arguments)?;
        ensure!(said.success, "{}", said.output);
        Ok(())
    };
    command(&["block", &flooder.to_string(), "--drop"])?;
    let beside_blocked = connections::beside_flood(lab, flooder, 25, seconds)?;
    command(&["unblock", &flooder.to_string()])?;
    Ok([beside_any, beside_blocked])
}

/// In Markdown.
fn table(found: &[Vec<Found>; 3]) -> String {
    let mut table = String::from("| | nothing | ebpf | tproxy |\n|---|---|---|---|\n");
    for (number, kind) in packets::Kind::ALL.into_iter().enumerate() {
        let [nothing, ebpf, tproxy] =
            found.each_ref().map(|rounds| median(rounds.iter().map(|round| round.packets[number])));
        table += &format!(
            "| {}, ns a packet | {nothing:.0} | {ebpf:.0} ({:+.0}) | {tproxy:.0} ({:+.0}) |\n",
            kind.name(),
            ebpf - nothing,
            tproxy - nothing
        );
    }
    let [nothing, ebpf, tproxy] =
        found.each_ref().map(|rounds| median(rounds.iter().map(|round| round.connections)));
    table += &format!(
        "| connections a second, to the greeting | {nothing:.0} | {ebpf:.0} ({:.2} of straight) | {tproxy:.0} ({:.2} of \
         straight) |\n",
        ebpf / nothing,
        tproxy / nothing
    );
    let [[any, _], ebpf, tproxy] = found
        .each_ref()
        .map(|rounds| [0, 1].map(|which| median(rounds.iter().map(|round| round.beside[which]))));
    table += &format!(
        "| the same beside a flood of SYNs to port {}, dropped by nftables | {any:.0} | {:.0} | {:.0} |\n\
         | the same beside a flood of SYNs of a blocked customer | | {:.0} ({:.2} of that) | {:.0} ({:.2} of that) |\n",
        packets::DROPPED_PORT,
        ebpf[0],
        tproxy[0],
        ebpf[1],
        ebpf[1] / ebpf[0],
        tproxy[1],
        tproxy[1] / tproxy[0]
    );
    table
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

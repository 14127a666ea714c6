//! Real customers' programs to real destinations, straight and through weir: the same messages arrive, and what is said
//! differs only where it is allowed to.
//!
//! A part in which every two of customer, destination and message meet; with `WEIR_INTEROP=all` everything, and the
//! results go to docs/interop.md.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use weir_tests::components::{AgentConfig, Backend, WeirAgent, WeirFilter};
use weir_tests::interop::{
    Case, Connection, Customer, Customers, Destination, Outcome, Transcript, Wire, compare, markdown,
};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::wait::wait_for;

/// A server that once could not connect waits a minute before it tries again (OpenSMTPD's routes).
const SESSIONS: Duration = Duration::from_secs(100);

/// Labs at a time.
const TOGETHER: usize = 2;

#[derive(Debug, Clone, Copy)]
struct Sending {
    customer: Customer,
    destination: Destination,
    case: Case,
    family: Family,
}

impl Sending {
    fn utf8_addresses(self) -> bool {
        self.customer.sends_utf8_addresses() && self.destination.takes_utf8_addresses()
    }
}

/// Everything, or the part: the n-th message of a customer goes to the n-th destination after its own.
fn sendings(destination: Destination, all: bool) -> Vec<Sending> {
    let number = Destination::ALL.iter().position(|each| *each == destination).unwrap_or_default();
    let mut sendings = Vec::new();
    for (place, customer) in Customer::ALL.into_iter().enumerate() {
        for (nth, case) in Case::ALL.into_iter().enumerate() {
            if all || (place + nth) % Destination::ALL.len() == number {
                let family = Family::BOTH[(place / 2 + nth) % 2];
                sendings.push(Sending { customer, destination, case, family });
            }
        }
    }
    sendings
}

#[test]
fn the_part_has_every_pair() {
    let part: Vec<_> =
        Destination::ALL.into_iter().flat_map(|destination| sendings(destination, false)).collect();
    let any = |holds: &dyn Fn(&Sending) -> bool| part.iter().any(holds);
    for customer in Customer::ALL {
        for destination in Destination::ALL {
            assert!(
                any(&|s| s.customer == customer && s.destination == destination),
                "{customer:?} {destination:?}"
            );
        }
        for case in Case::ALL {
            assert!(any(&|s| s.customer == customer && s.case == case), "{customer:?} {case:?}");
        }
        for family in Family::BOTH {
            assert!(any(&|s| s.customer == customer && s.family == family), "{customer:?} {family:?}");
        }
    }
    for destination in Destination::ALL {
        for case in Case::ALL {
            assert!(any(&|s| s.destination == destination && s.case == case), "{destination:?} {case:?}");
        }
        for family in Family::BOTH {
            assert!(
                any(&|s| s.destination == destination && s.family == family),
                "{destination:?} {family:?}"
            );
        }
    }
}

#[test]
fn programs_notice_no_difference() -> Result<()> {
    let all = std::env::var("WEIR_INTEROP").is_ok_and(|extent| extent == "all");
    let (mut outcomes, mut errors) = (vec![], vec![]);
    for together in Destination::ALL.chunks(TOGETHER) {
        let results = thread::scope(|scope| {
            let runs: Vec<_> =
                together.iter().map(|destination| scope.spawn(|| in_lab(*destination, all))).collect();
            runs.into_iter().map(|run| run.join().map_err(|_| anyhow!("a lab panicked"))).collect::<Vec<_>>()
        });
        for result in results {
            match result? {
                Ok(of_lab) => outcomes.extend(of_lab),
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
    }
    ensure!(errors.is_empty(), "{}", errors.join("\n\n"));
    if all {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md");
        std::fs::write(page, markdown(&outcomes))?;
    }
    Ok(())
}

/// What went over both wires because of one sending.
struct Sent {
    at_customer: Vec<Connection>,
    at_destination: Vec<Connection>,
    succeeded: Option<bool>,
}

fn in_lab(destination: Destination, all: bool) -> Result<Vec<Outcome>> {
    let sendings = sendings(destination, all);
    let number = Destination::ALL.iter().position(|each| *each == destination).unwrap_or_default();
    let backend = Backend::BOTH[number % 2];
    let mut outcomes = vec![];
    Lab::run(&format!("interop-{}", destination.name()), NarrowLink::Nowhere, |lab| {
        let _server = destination.start(&lab.internet)?;
        let customers = Customers::start(&lab.customer)?;
        let wires = [Wire::of(&lab.customer)?, Wire::of(&lab.internet)?];
        let send_all = || {
            let sent = sendings.iter().map(|sending| {
                send(&customers, &wires, *sending)
                    .with_context(|| format!("{sending:?}\n{}", lab_queues(&customers)))
            });
            sent.collect::<Result<Vec<_>>>()
        };
        let straight = send_all().context("without weir")?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let through = send_all().context("through weir")?;
        let mut by_customer: BTreeMap<usize, Outcome> = BTreeMap::new();
        let mut errors = vec![];
        for ((sending, straight), through) in sendings.iter().zip(&straight).zip(&through) {
            let place = Customer::ALL.iter().position(|each| *each == sending.customer).unwrap_or_default();
            let outcome = by_customer.entry(place).or_insert_with(|| Outcome {
                customer: sending.customer,
                destination,
                cases: vec![],
                taken: 0,
                differences: vec![],
            });
            if let Err(error) = judge(*sending, straight, through, outcome) {
                errors.push(format!("{sending:?}: {error:#}"));
            }
        }
        ensure!(errors.is_empty(), "{} messages differ:\n{}", errors.len(), errors.join("\n\n"));
        outcomes = by_customer.into_values().collect();
        let taken: usize = outcomes.iter().map(|outcome| outcome.taken).sum();
        let relayed = agent.messages().iter().filter(|line| line.field("verdict") == "accept").count();
        ensure!(relayed == taken, "{taken} messages were taken, {relayed} went through weir");
        agent.stop()
    })?;
    Ok(outcomes)
}

fn lab_queues(customers: &Customers<'_>) -> String {
    customers.queues().unwrap_or_else(|error| format!("{error:#}"))
}

/// Sends, and waits until all connections made for it are over at both ends.
fn send(customers: &Customers<'_>, wires: &[Wire; 2], sending: Sending) -> Result<Sent> {
    let Sending { customer, case, family, .. } = sending;
    let known = wires.each_ref().map(Wire::count);
    let succeeded = customers.send(customer, case, family, sending.utf8_addresses())?;
    let [at_customer, at_destination] = wait_for("the end of its sessions", SESSIONS, || {
        let over = [0, 1].map(|end| wires[end].over_since(known[end]).filter(|over| !over.is_empty()));
        let [Some(customer), Some(destination)] = over else { return Ok(None) };
        Ok(Some([customer, destination]))
    })?;
    Ok(Sent { at_customer, at_destination, succeeded })
}

/// Weir speaks to the destination from ports of its own.
fn ports(connections: &[Connection]) -> Vec<u16> {
    connections.iter().map(|connection| connection.client.port()).collect()
}

fn judge(sending: Sending, straight: &Sent, through: &Sent, outcome: &mut Outcome) -> Result<()> {
    let transcripts =
        |connections: &[Connection]| connections.iter().map(Transcript::of).collect::<Result<Vec<_>>>();
    let without = transcripts(&straight.at_customer)?;
    let with = transcripts(&through.at_customer)?;
    let said = || with.iter().map(ToString::to_string).collect::<String>();
    let differences = compare(&without, &with)?;
    ensure!(
        straight.succeeded == through.succeeded,
        "it says so: {:?}, {:?}",
        straight.succeeded,
        through.succeeded
    );
    let taken: Vec<_> = with.iter().flat_map(Transcript::accepted).collect();
    let expected = usize::from(!(sending.case == Case::OneRefused && sending.customer.stops_at_a_refusal()));
    ensure!(taken.len() == expected, "{} messages were taken:\n{}", taken.len(), said());
    ensure!(ports(&straight.at_customer) == ports(&straight.at_destination), "it did not go straight");
    ensure!(ports(&through.at_customer) != ports(&through.at_destination), "it did not go through weir");
    let delivered = transcripts(&through.at_destination)?;
    let delivered: Vec<_> = delivered.iter().flat_map(Transcript::accepted).collect();
    ensure!(delivered == taken, "not the same octets at the destination:\n{}", said());
    for connection in straight.at_customer.iter().chain(&through.at_destination) {
        let peer = connection.client.ip();
        ensure!(peer == sending.family.customer(), "the destination saw {peer}");
    }
    outcome.cases.push(sending.case);
    outcome.taken += taken.len();
    outcome.differences.extend(differences);
    Ok(())
}

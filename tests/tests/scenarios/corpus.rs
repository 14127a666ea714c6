//! Many messages of every size and shape, from Postfix to Postfix: what the customer's Postfix had in its
//! queue is byte for byte what the destination received, and each is logged once at both places.
//!
//! 200 messages; `WEIR_CORPUS=2000` for all of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::components::{
    AgentConfig, Backend, FilterConfig, LogLine, Postfix, Spamd, WeirAgent, WeirFilter,
};
use weir_tests::corpus;
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::wait::wait_until;

on_both_back_ends!(arrives_as_it_was_sent);

const USUAL_COUNT: u64 = 200;
/// Of all messages, judged by SpamAssassin as well.
const SCANNED: u64 = 50;
/// Messages in flight at a time: they are kept in memory three times.
const BATCH: u64 = 50;
const BATCH_PATIENCE: Duration = Duration::from_secs(120);
/// The contents are random: SpamAssassin has a say, but not the last word.
const NEVER: f64 = 10_000.0;

/// IPv4 with one back end, IPv6 with the other: the bytes take the same way through the agent.
fn arrives_as_it_was_sent(backend: Backend) -> Result<()> {
    let family = if backend == Backend::Ebpf { Family::V4 } else { Family::V6 };
    let count = match std::env::var("WEIR_CORPUS") {
        Ok(count) => count.parse().context("WEIR_CORPUS is a number of messages")?,
        // The second back end only has to show that it carries everything, too.
        Err(_) if backend == Backend::Tproxy => USUAL_COUNT / 4,
        Err(_) => USUAL_COUNT,
    };
    Lab::run("corpus", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let customer = Postfix::customer(&lab.customer)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let scanned = SCANNED.min(count / 2);
        let mut judged = vec![];
        {
            let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
            let asking =
                |config: FilterConfig| FilterConfig { reject_at: NEVER, ..config.asking(spamd.address()) };
            let filters = WeirFilter::start_both(&lab.filter, asking)?;
            // Until the first is through, nothing shows that answers come back, and others may go straight.
            send(family, &customer, &destination, 0..1)?;
            send(family, &customer, &destination, 1..scanned)?;
            let lines: Vec<_> = filters.iter().flat_map(WeirFilter::messages).collect();
            let scored = lines.iter().filter(|line| line.has("score")).count();
            ensure!(scored > 0, "SpamAssassin was not asked");
            judged.extend(lines);
        }
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        send(family, &customer, &destination, scanned..count)?;
        judged.extend(filters.iter().flat_map(WeirFilter::messages));
        each_is_logged_once(&agent.messages(), &judged, count)?;
        agent.stop()
    })
}

fn send(
    family: Family,
    customer: &Postfix<'_>,
    destination: &Postfix<'_>,
    numbers: Range<u64>,
) -> Result<()> {
    let mut next = numbers.start;
    while next < numbers.end {
        let batch = next..numbers.end.min(next + BATCH);
        next = batch.end;
        for number in batch.clone() {
            // The second copy stays at the customer's and shows what its queue holds.
            let recipients = [format!("m{number}@{}", family.domain()), format!("m{number}@customer.test")];
            customer.submit(
                "sender@customer.test",
                &recipients.each_ref().map(String::as_str),
                &corpus::message(number),
            )?;
        }
        let expected = usize::try_from(batch.end - batch.start)?;
        wait_until(&format!("messages {batch:?} at both ends"), BATCH_PATIENCE, || {
            Ok(customer.stored_users()?.len() >= expected && destination.stored_users()?.len() >= expected)
        })
        .with_context(|| format!("still queued: {:?}", customer.queue().unwrap_or_default()))?;
        let (sent, received) = (customer.stored()?, destination.stored()?);
        for number in batch {
            let user = format!("m{number}");
            let (Some([sent]), Some([received])) =
                (sent.get(&user).map(Vec::as_slice), received.get(&user).map(Vec::as_slice))
            else {
                anyhow::bail!("message {number} did not arrive exactly once");
            };
            ensure!(!received.came_by_tls(), "message {number} went past weir");
            ensure!(
                sent.content.ends_with(&corpus::message(number)),
                "message {number} was changed before it was sent"
            );
            same_bytes(number, &sent.content, received.as_received())?;
        }
        customer.empty_store()?;
        destination.empty_store()?;
    }
    Ok(())
}

fn same_bytes(number: u64, sent: &[u8], received: &[u8]) -> Result<()> {
    let difference = sent.iter().zip(received).position(|(a, b)| a != b);
    let place = difference.unwrap_or(sent.len().min(received.len()));
    let around = |bytes: &[u8]| {
        String::from_utf8_lossy(
            &bytes[place.saturating_sub(40).min(bytes.len())..bytes.len().min(place + 40)],
        )
        .into_owned()
    };
    ensure!(
        sent == received,
        "message {number} differs at byte {place} of {} sent and {} received:\n{:?}\n{:?}",
        sent.len(),
        received.len(),
        around(sent),
        around(received)
    );
    Ok(())
}

fn each_is_logged_once(agent: &[LogLine], filter: &[LogLine], count: u64) -> Result<()> {
    let ids = |lines: &[LogLine]| {
        let mut ids = BTreeMap::new();
        for line in lines {
            *ids.entry(line.field("id")).or_insert(0) += 1;
        }
        ids
    };
    let (agent, filter) = (ids(agent), ids(filter));
    ensure!(
        agent.len() == usize::try_from(count)?,
        "{} ids in the agent's log for {count} messages",
        agent.len()
    );
    ensure!(agent == filter, "the agent and the filter nodes logged different ids");
    let twice: Vec<_> = agent.iter().filter(|(_, times)| **times != 1).collect();
    ensure!(twice.is_empty(), "logged more than once: {twice:?}");
    Ok(())
}

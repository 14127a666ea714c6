//! The steps of the demo.

use std::time::Duration;

use anyhow::{Context, Result};
use weir_tests::components::{LogLine, SECOND_DOMAIN, WeirAgent, WeirFilter};
use weir_tests::lab::Family;
use weir_tests::probe::{GTUBE, HAM, Way, time_until, way};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_for, wait_until};

use crate::report::{Report, Seen};
use crate::stage::{MESSAGES_PER_MINUTE, Stage};

/// More than both nodes let pass in a minute.
const BURST: usize = 15;
const OPEN_WITHIN: Duration = Duration::from_secs(1);

pub(crate) fn show(stage: &mut Stage<'_>, report: &mut Report) {
    for family in Family::BOTH {
        let address = family.customer();
        report.step(
            &format!("A message over {}", name(family)),
            &format!("delivered; the destination sees the customer's own address, {address}; judged once, same id at agent and filter"),
            || delivered(stage, family),
        );
    }
    report.step(
        "STARTTLS is gone from EHLO",
        "the destination offers STARTTLS to others, but not to the customer, who gets 502 when he asks for it",
        || starttls_is_gone(stage),
    );
    report.step(
        "Spam is refused in the session",
        "550 with reason and message id; nothing reaches the destination; the bounce is made by the customer's own server and stays there",
        || spam_is_refused(stage),
    );
    report.step(
        "A sender over its limit",
        &format!(
            "of {BURST} messages from one address each of the two nodes lets {MESSAGES_PER_MINUTE} a minute pass; the others get 451 and stay in the customer's queue"
        ),
        || over_the_limit(stage),
    );
    report.step("One filter node is killed (kill -9)", "mail is still judged, by the other node", || {
        one_node_killed(stage)
    });
    report.step(
        "The agent is killed (kill -9)",
        "port 25 is open again within a second: mail flows straight to the destination, with TLS as without weir",
        || agent_killed(stage),
    );
    report.step("The agent is back", "new connections are intercepted again, mail is judged", || {
        agent_back(stage)
    });
}

fn delivered(stage: &Stage<'_>, family: Family) -> Result<Seen> {
    let user = format!("step-{family:?}").to_lowercase();
    let line = send_judged(stage, family, &user)?;
    let stored = stage.destination.wait_stored(&user)?;
    let nodes = judged_by(stage, &line.field("id"));
    let own = stored.came_from(family.customer());
    Ok(Seen {
        as_expected: own && nodes.len() == 1 && line.field("verdict") == "accept",
        words: format!(
            "the destination's header: \"{}\"; agent: id {}, verdict {}; judged by node {} under the same id",
            stored.trace().split(" by ").next().unwrap_or_default(),
            line.field("id"),
            line.field("verdict"),
            list(&nodes),
        ),
    })
}

fn starttls_is_gone(stage: &Stage<'_>) -> Result<Seen> {
    let to = (Family::V4.destination(), 25).into();
    // The gateway itself is nobody's customer.
    let others = Client::connect(&stage.lab.gateway, to)?.greet("gateway.provider.test")?;
    let mut client = Client::connect(&stage.lab.customer, to)?;
    let extensions = client.greet("mail.customer.test")?;
    let refused = client.command("STARTTLS")?;
    let offered = |offered: bool| if offered { "offered" } else { "not offered" };
    Ok(Seen {
        as_expected: others.announces("STARTTLS") && !extensions.announces("STARTTLS") && refused.code == 502,
        words: format!(
            "to others {}; to the customer {} ({}); asked for: {} {}",
            offered(others.announces("STARTTLS")),
            offered(extensions.announces("STARTTLS")),
            extensions.lines[1..].join(", "),
            refused.code,
            refused.text()
        ),
    })
}

fn spam_is_refused(stage: &Stage<'_>) -> Result<Seen> {
    let before = stage.destination.stored_users()?.len();
    let recipient = format!("spam@{}", Family::V4.domain());
    stage.customer.submit("spammer@customer.test", &[&recipient], GTUBE)?;
    let bounce = stage.customer.wait_stored("spammer")?;
    let bounce = String::from_utf8_lossy(&bounce.content).split_whitespace().collect::<Vec<_>>().join(" ");
    let line =
        agent(stage)?.wait_message("the line of the spam", |line| line.field("verdict") == "reject")?;
    let start = bounce.find("said: ").unwrap_or_default();
    let said = bounce[start..].split(" (in reply").next().unwrap_or_default();
    let arrived = stage.destination.stored_users()?.len() - before;
    Ok(Seen {
        as_expected: said.contains("550") && said.contains(&line.field("id")) && arrived == 0,
        words: format!(
            "the customer's bounce for spammer@customer.test: \"{said}\"; at the destination: {arrived} messages"
        ),
    })
}

fn over_the_limit(stage: &Stage<'_>) -> Result<Seen> {
    for number in 0..BURST {
        stage.customer.submit("sender@customer.test", &[&format!("burst{number}@{SECOND_DOMAIN}")], HAM)?;
    }
    let most = usize::try_from(2 * MESSAGES_PER_MINUTE)?;
    let passed = || -> Result<usize> {
        Ok(stage.destination.stored_users()?.iter().filter(|user| user.starts_with("burst")).count())
    };
    let deferred = wait_for("every message delivered or deferred", PATIENCE, || {
        let mut queue = stage.customer.queue()?;
        queue.retain(|queued| queued.recipient.ends_with(SECOND_DOMAIN) && !queued.reason.is_empty());
        Ok((queue.len() + passed()? == BURST).then_some(queue))
    })?;
    let passed = passed()?;
    let reason = deferred.first().map(|queued| queued.reason.clone()).unwrap_or_default();
    let said = reason.split(" (in reply").next().unwrap_or_default();
    Ok(Seen {
        as_expected: passed <= most
            && !deferred.is_empty()
            && deferred.iter().all(|one| one.reason.contains("451")),
        words: format!("{passed} delivered, {} in the customer's queue: \"{said}\"", deferred.len()),
    })
}

fn one_node_killed(stage: &mut Stage<'_>) -> Result<Seen> {
    stage.filters[0].kill()?;
    let mut nodes = vec![];
    for number in 0..2 {
        let user = format!("one-node-{number}");
        let line = send_judged(stage, Family::V6, &user)?;
        stage.destination.wait_stored(&user)?;
        nodes.extend(judged_by(stage, &line.field("id")));
    }
    Ok(Seen {
        as_expected: nodes == [2, 2],
        words: format!("two messages delivered; judged by node {}", list(&nodes)),
    })
}

fn agent_killed(stage: &mut Stage<'_>) -> Result<Seen> {
    let (from, to) = (Family::V4.customer(), Family::V4.destination());
    stage.agent.take().context("the agent runs")?.kill()?;
    let open = time_until(Way::Straight, &stage.lab.customer, from, to)?;
    stage.customer.submit("sender@customer.test", &[&format!("straight@{}", Family::V4.domain())], HAM)?;
    let stored = stage.destination.wait_stored("straight")?;
    Ok(Seen {
        as_expected: open < OPEN_WITHIN && stored.came_by_tls() && stored.came_from(from),
        words: format!(
            "the first connection that went straight came {} ms after the kill; a message arrived from {}, {} TLS",
            open.as_millis(),
            if stored.came_from(from) { from.to_string() } else { stored.trace() },
            if stored.came_by_tls() { "with" } else { "without" },
        ),
    })
}

fn agent_back(stage: &mut Stage<'_>) -> Result<Seen> {
    stage.agent = Some(WeirAgent::start(&stage.lab.gateway, &stage.config)?);
    let mut ways = vec![];
    for family in Family::BOTH {
        ways.push(way(&stage.lab.customer, family.customer(), family.destination())?);
    }
    let line = send_judged(stage, Family::V4, "back")?;
    let stored = stage.destination.wait_stored("back")?;
    Ok(Seen {
        as_expected: ways == [Way::Intercepted; 2]
            && !stored.came_by_tls()
            && line.field("verdict") == "accept",
        words: format!(
            "new connections over IPv4 and IPv6: {ways:?}; a message with id {}, verdict {}",
            line.field("id"),
            line.field("verdict")
        ),
    })
}

/// Sends a harmless message from the customer's Postfix; the agent's line about it.
fn send_judged(stage: &Stage<'_>, family: Family, user: &str) -> Result<LogLine> {
    let agent = agent(stage)?;
    let before = agent.messages().len();
    stage.customer.submit("sender@customer.test", &[&format!("{user}@{}", family.domain())], HAM)?;
    wait_until("the agent's line for the message", PATIENCE, || Ok(agent.messages().len() > before))?;
    agent.messages().into_iter().nth(before).context("the line")
}

/// Numbers, from 1, of the filter nodes that logged this id.
fn judged_by(stage: &Stage<'_>, id: &str) -> Vec<u8> {
    let knows = |filter: &&WeirFilter| filter.messages().iter().any(|line| line.field("id") == id);
    stage.filters.iter().filter(knows).map(|filter| filter.node() + 1).collect()
}

fn list(nodes: &[u8]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn agent<'b>(stage: &'b Stage<'_>) -> Result<&'b WeirAgent> {
    stage.agent.as_ref().context("the agent does not run")
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

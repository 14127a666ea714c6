//! Customers whose connections to one destination go straight: because the operator says so, or because they wanted
//! TLS.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::components::{AgentConfig, Backend, Finished, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink};
use weir_tests::probe::{HAM, Way, is_dropped, time_until, way};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_for, wait_until};

on_both_back_ends!(
    mail_that_is_stuck_for_want_of_tls_is_let_through,
    connections_stay_where_they_are,
    restarts_keep_it,
    the_path_of_an_exempt_pair_stays_open_in_closed,
    by_itself_but_not_for_whom_was_refused,
    by_itself_sixty_times_an_hour,
    what_makes_no_sense_is_refused,
);

const ENCRYPTED_ONLY: &str = "smtp_tls_security_level = encrypt\n";
const STATE_FILE: &str = "/var/lib/weir-agent/policy.json";

/// The whole of it: mail is stuck, `status` names the command, the command lets the mail through, and it can be taken
/// back.
fn mail_that_is_stuck_for_want_of_tls_is_let_through(backend: Backend) -> Result<()> {
    Lab::run("exempt", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination_with(&lab.internet, ENCRYPTED_ONLY_AT_DESTINATION)?;
        let customer = Postfix::customer_with(&lab.customer, ENCRYPTED_ONLY)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let (from, to) = (family.customer(), family.destination());
            let user = format!("{family:?}").to_lowercase();
            let recipient = format!("{user}@{}", family.domain());
            customer.submit("sender@customer.test", &[&recipient], HAM)?;
            let stuck = customer.wait_deferred(&recipient)?;
            ensure!(stuck.reason.contains("TLS is required"), "{}", stuck.reason);

            let command = wait_command(&lab.gateway, from, to)?;
            let words = WeirAgent::command(&lab.gateway, &["status"])?;
            ensure!(words.output.contains(&command), "{}", words.output);
            let arguments: Vec<&str> =
                command.split(' ').skip(1).chain(["--reason", "insists on TLS"]).collect();
            let said = succeed(&lab.gateway, &arguments)?;
            ensure!(said.contains("go straight"), "{said}");
            customer.flush()?;
            let stored = destination.wait_stored(&user)?;
            ensure!(stored.came_from(from) && stored.came_by_tls(), "{}", stored.trace());

            let listed = succeed(&lab.gateway, &["list"])?;
            ensure!(listed.contains(&from.to_string()) && listed.contains("insists on TLS"), "{listed}");
            // Others are not exempt, and neither is he elsewhere.
            assert_eq!(way(&lab.customer, family.other_customer(), to)?, Way::Intercepted);
            unexempt(&lab.gateway, from, to)?;
            assert_eq!(way(&lab.customer, from, to)?, Way::Intercepted);
            customer.submit("sender@customer.test", &[&recipient], HAM)?;
            customer.wait_deferred(&recipient)?;
        }
        ensure!(succeed(&lab.gateway, &["list"])?.contains("nobody"), "an empty list");
        ensure!(agent.messages().is_empty(), "the agent saw none of the messages");
        agent.stop()
    })
}

const ENCRYPTED_ONLY_AT_DESTINATION: &str = "smtpd_tls_security_level = encrypt\n";

/// Whatever becomes of the pair meanwhile: what the agent has it keeps, what goes straight goes on.
fn connections_stay_where_they_are(backend: Backend) -> Result<()> {
    Lab::run("exempt-stay", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let (from, to) = (family.customer(), family.destination());
            let mut intercepted = Begun::connect(lab, family, "intercepted")?;
            exempt(&lab.gateway, from, to, &["--for", "3s"])?;
            let mut straight = Begun::connect(lab, family, "straight")?;
            ensure!(straight.offers_tls && !intercepted.offers_tls, "{family:?}");
            // Its time runs out by itself.
            time_until(Way::Intercepted, &lab.customer, from, to)?;
            intercepted.finish()?;
            straight.finish()?;
            for begun in [&intercepted, &straight] {
                destination.wait_stored(&begun.user)?;
            }
            wait_until("an empty list", PATIENCE, || Ok(list(&lab.gateway)?.is_empty()))?;
        }
        let helo = |line: &weir_tests::components::LogLine| line.field("helo");
        let judged: Vec<String> = agent.messages().iter().map(helo).collect();
        assert_eq!(judged, ["intercepted.customer.test"; 2]);
        agent.stop()
    })
}

/// A message as far as DATA.
struct Begun {
    client: Client,
    user: String,
    offers_tls: bool,
}

impl Begun {
    fn connect(lab: &Lab, family: Family, name: &str) -> Result<Self> {
        let user = format!("{name}-{family:?}").to_lowercase();
        let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
        let offers_tls = client.greet(&format!("{name}.customer.test"))?.announces("STARTTLS");
        client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
        client.command(&format!("RCPT TO:<{user}@v4.destination.test>"))?.expect(250)?;
        client.command("DATA")?.expect(354)?;
        client.send(b"Subject: begun before\r\n\r\n")?;
        Ok(Self { client, user, offers_tls })
    }

    fn finish(&mut self) -> Result<()> {
        self.client.send(b"ended after\r\n.\r\n")?;
        self.client.expect(250)?;
        self.client.command("QUIT")?.expect(221)?;
        Ok(())
    }
}

fn restarts_keep_it(backend: Backend) -> Result<()> {
    Lab::run("exempt-restart", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(backend);
        let is_kept = |when: &str| {
            for family in Family::BOTH {
                let to = family.destination();
                assert_eq!(way(&lab.customer, family.customer(), to)?, Way::Straight, "{family:?} {when}");
                assert_eq!(way(&lab.customer, family.other_customer(), to)?, Way::Intercepted, "{when}");
            }
            anyhow::Ok(())
        };
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        for family in Family::BOTH {
            exempt(&lab.gateway, family.customer(), family.destination(), &[])?;
        }
        is_kept("at once")?;
        agent.kill()?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        is_kept("after kill -9")?;
        agent.stop()?;
        let other = match backend {
            Backend::Ebpf => Backend::Tproxy,
            Backend::Tproxy => Backend::Ebpf,
        };
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(other))?;
        is_kept("with the other back end")?;
        agent.kill()?;

        // A file that says nothing is no reason not to start.
        lab.gateway.write(STATE_FILE, b"{\"version\": 1, \"rul")?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        ensure!(agent.output().contains("set aside"), "{}", agent.output());
        assert_eq!(list(&lab.gateway)?, Vec::<Value>::new());
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        assert_eq!(way(&lab.customer, from, to)?, Way::Intercepted);
        exempt(&lab.gateway, from, to, &[])?;
        ensure!(lab.gateway.read(STATE_FILE).contains(&from.to_string()), "written anew");
        agent.stop()
    })
}

/// That a pair is exempt does not end with the agent.
fn the_path_of_an_exempt_pair_stays_open_in_closed(backend: Backend) -> Result<()> {
    Lab::run("exempt-closed", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend).closed())?;
        for family in Family::BOTH {
            exempt(&lab.gateway, family.customer(), family.destination(), &[])?;
        }
        agent.kill()?;
        for family in Family::BOTH {
            assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Straight);
            ensure!(is_dropped(&lab.customer, family.other_customer(), family.destination())?, "{family:?}");
        }
        Ok(())
    })
}

fn by_itself_but_not_for_whom_was_refused(backend: Backend) -> Result<()> {
    Lab::run("exempt-itself", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let customer = Postfix::customer_with(&lab.customer, ENCRYPTED_ONLY)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config.limited_to(1))?;
        let mut config = exempting(backend);
        // Each node counts for itself.
        config.nodes.truncate(1);
        let agent = WeirAgent::start(&lab.gateway, &config)?;

        // The node defers this customer's second message.
        let (refused, v4) = (Family::V4.other_customer(), Family::V4.destination());
        for code in [250, 451] {
            let mut client = Client::connect_from(&lab.customer, refused, (v4, 25).into())?;
            client.greet("other.customer.test")?;
            client.send_message("a@customer.test", &["x@v4.destination.test"], HAM)?.expect(code)?;
        }
        wants_tls(&lab.customer, refused, v4)?;
        wait_command(&lab.gateway, refused, v4)?;

        for family in Family::BOTH {
            let user = format!("{family:?}").to_lowercase();
            let recipient = format!("{user}@{}", family.domain());
            customer.submit("sender@customer.test", &[&recipient], HAM)?;
            customer.wait_deferred(&recipient)?;
            let rule = wait_listed(&lab.gateway, family.customer())?;
            assert_eq!(rule["by"], "wanted_tls");
            let left = rule["seconds_left"].as_u64().context("seconds_left")?;
            ensure!((86_000..=86_400).contains(&left), "{left} s");
            customer.flush()?;
            let stored = destination.wait_stored(&user)?;
            ensure!(stored.came_from(family.customer()) && stored.came_by_tls(), "{}", stored.trace());
        }
        // He was there first, so he was judged first.
        assert_eq!(list(&lab.gateway)?.len(), 2);
        assert_eq!(way(&lab.customer, refused, v4)?, Way::Intercepted);

        // The next agent knows what he did.
        agent.stop()?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        wants_tls(&lab.customer, refused, v4)?;
        wait_command(&lab.gateway, refused, v4)?;
        let (neighbour, v6) = (Family::V6.other_customer(), Family::V6.destination());
        wants_tls(&lab.customer, neighbour, v6)?;
        wait_listed(&lab.gateway, neighbour)?;
        assert_eq!(way(&lab.customer, refused, v4)?, Way::Intercepted);
        assert_eq!(list(&lab.gateway)?.len(), 3);
        agent.stop()
    })
}

fn by_itself_sixty_times_an_hour(backend: Backend) -> Result<()> {
    Lab::run("exempt-limit", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &exempting(backend))?;
        let straight = || {
            let status = WeirAgent::status(&lab.gateway)?;
            status["steering"]["exempt"].as_u64().with_context(|| status.to_string())
        };
        for family in Family::BOTH {
            let (from, to, before) = (family.customer(), family.destination(), straight()?);
            wants_tls(&lab.customer, from, to)?;
            wait_listed(&lab.gateway, from)?;
            let connections = straight_connections(lab, from, to)?;
            // nftables gives back one a minute.
            let most = if backend == Backend::Ebpf { 60 } else { 62 };
            let counted = straight()? - before;
            ensure!((60..=most).contains(&connections) && counted == connections, "{connections} {counted}");
            // Another rule is no fresh start.
            let neighbour = family.other_customer().to_string();
            for command in ["block", "unblock"] {
                succeed(&lab.gateway, &[command, &neighbour])?;
            }
            let more = straight_connections(lab, from, to)?;
            ensure!(more <= most - 60, "{connections}, and {more} after another rule");
            // The operator's word has no limit.
            exempt(&lab.gateway, from, to, &[])?;
            for _ in 0..5 {
                assert_eq!(way(&lab.customer, from, to)?, Way::Straight);
            }
        }
        agent.stop()
    })
}

/// As many as go straight before one is intercepted.
fn straight_connections(lab: &Lab, from: IpAddr, to: IpAddr) -> Result<u64> {
    let mut connections = 0;
    while way(&lab.customer, from, to)? == Way::Straight {
        connections += 1;
        ensure!(connections < 100, "no limit");
    }
    Ok(connections)
}

fn what_makes_no_sense_is_refused(backend: Backend) -> Result<()> {
    Lab::run("exempt-errors", NarrowLink::Nowhere, |lab| {
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let fails = |arguments: &[&str], words: &str| {
            let finished = WeirAgent::command(&lab.gateway, arguments)?;
            ensure!(!finished.success && finished.output.contains(words), "{arguments:?}: {finished:?}");
            Ok(())
        };
        fails(&["exempt", "10.1.0.2", "10.2.0.2"], "not running")?;
        let config = AgentConfig::new(backend);
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        fails(&["exempt", "10.9.0.2", "10.2.0.2"], "customers.prefixes")?;
        fails(&["exempt", "10.1.0.2", "fd02::2"], "same family")?;
        fails(&["exempt", "10.1.0.2", "10.2.0.2", "--for", "0s"], "1 s to 365 d")?;
        fails(&["exempt", "10.1.0.2", "10.2.0.2", "--for", "366d"], "1 s to 365 d")?;
        fails(&["exempt", "10.1.0.2", "10.2.0.2", "--for", "soon"], "24h")?;
        fails(&["exempt", "10.1.0.2", "mx.destination.test"], "mx.destination.test")?;
        fails(&["unexempt", "10.1.0.2", "10.2.0.2"], "is not exempt")?;
        assert_eq!(list(&lab.gateway)?, Vec::<Value>::new());
        ensure!(lab.gateway.read(STATE_FILE).is_empty(), "nothing to keep");
        agent.stop()?;

        let own = format!("backend = {:?}", backend.name());
        let external = config.to_toml().replace(&own, "backend = \"external\"");
        let mut agent = WeirAgent::launch(&lab.gateway, &external)?;
        agent.wait_output("ready", PATIENCE)?;
        fails(&["exempt", "10.1.0.2", "10.2.0.2"], "your own")?;
        let status = agent.terminate(PATIENCE)?;
        ensure!(status.success(), "{status}");
        Ok(())
    })
}

fn exempting(backend: Backend) -> AgentConfig {
    AgentConfig { relay_lines: "wanted_tls = \"exempt\"".into(), ..AgentConfig::new(backend) }
}

/// A customer that will not go on in clear.
fn wants_tls(host: &Host, from: IpAddr, to: IpAddr) -> Result<()> {
    let mut client = Client::connect_from(host, from, (to, 25).into())?;
    client.greet("program.customer.test")?;
    client.command("STARTTLS")?.expect(502)?;
    client.command("QUIT")?.expect(221)?;
    Ok(())
}

/// The command that `status` has for a pair that wanted TLS, once it is there.
fn wait_command(gateway: &Host, customer: IpAddr, destination: IpAddr) -> Result<String> {
    wait_for("a pair that wanted TLS in `status`", PATIENCE, || {
        let status = WeirAgent::status(gateway)?;
        let pairs = status["wanted_tls"].as_array().context("wanted_tls")?;
        let found = pairs.iter().find(|pair| {
            pair["customer"] == customer.to_string() && pair["destination"] == destination.to_string()
        });
        Ok(found.and_then(|pair| Some(pair["command"].as_str()?.to_owned())))
    })
}

fn wait_listed(gateway: &Host, customer: IpAddr) -> Result<Value> {
    wait_for("an exempt customer", PATIENCE, || {
        Ok(list(gateway)?.into_iter().find(|rule| rule["customer"] == customer.to_string()))
    })
}

fn list(gateway: &Host) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&succeed(gateway, &["list", "--json"])?)?)
}

fn exempt(gateway: &Host, customer: IpAddr, destination: IpAddr, more: &[&str]) -> Result<()> {
    let pair = [customer.to_string(), destination.to_string()];
    succeed(gateway, &[&["exempt", &pair[0], &pair[1]], more].concat()).map(drop)
}

fn unexempt(gateway: &Host, customer: IpAddr, destination: IpAddr) -> Result<()> {
    succeed(gateway, &["unexempt", &customer.to_string(), &destination.to_string()]).map(drop)
}

fn succeed(gateway: &Host, arguments: &[&str]) -> Result<String> {
    let Finished { success, output, .. } = WeirAgent::command(gateway, arguments)?;
    ensure!(success, "{arguments:?} failed:\n{output}");
    Ok(output)
}

//! A destination with several addresses, the first of which cannot be reached: what customers' servers do when weir, which
//! has already answered the handshake, says 421 or resets the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter, name_server};
use weir_tests::interop::{Connection, Wire, exim, opensmtpd};
use weir_tests::lab::{Family, Host, Lab, NarrowLink, Process};
use weir_tests::probe::HAM;
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

/// An address of the destination's machine where nothing listens: it refuses.
const REFUSING: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 2, 0, 3)), IpAddr::V6(Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 3))];
/// Nobody's: the gateway cannot find it.
const UNREACHABLE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 4));

const EXIM_PORT: u16 = 2501;
const OPENSMTPD_PORT: u16 = 2502;

/// Mail domains whose first address is dead.
const DEAD_FIRST: [(&str, IpAddr); 2] = [("refused.test", REFUSING[0]), ("unreachable.test", UNREACHABLE)];
/// Mail domains with one server of two families, one of which is dead. Which comes first is the customer's choice.
const DUAL_STACK: [(&str, IpAddr); 2] = [("four.test", REFUSING[0]), ("six.test", REFUSING[1])];

on_both_back_ends!(after_a_reply_they_go_on, after_a_reset_they_go_on);

fn after_a_reply_they_go_on(backend: Backend) -> Result<()> {
    they_go_on(backend, "reply")
}

fn after_a_reset_they_go_on(backend: Backend) -> Result<()> {
    they_go_on(backend, "reset")
}

fn they_go_on(backend: Backend, on_connect_failure: &str) -> Result<()> {
    Lab::run("next-address", NarrowLink::Nowhere, |lab| {
        lab.internet.sh(&format!(
            "ip addr add {}/16 dev eth0; ip addr add {}/32 dev eth0",
            REFUSING[0], REFUSING[1]
        ))?;
        let living =
            Family::BOTH.map(|family| Server::start(&lab.internet, family.destination(), Script::default()));
        let [v4, v6] = living;
        let living = [v4?, v6?];
        let _names = name_server(&lab.customer, &records())?;
        let customers = Customers::start(&lab.customer)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut config = AgentConfig::new(backend);
        // Shorter than it would be, for the address that never answers.
        config.relay_lines = format!("on_connect_failure = {on_connect_failure:?}\nconnect_timeout = 2\n");
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        let wire = Wire::of(&lab.customer)?;
        for (name, port) in customers.ports {
            for (domain, dead) in DEAD_FIRST {
                let tried = delivered(lab, &wire, &living, port, domain)
                    .with_context(|| format!("{name} to {domain}"))?;
                ensure!(
                    tried.iter().any(|each| each.server.ip() == dead),
                    "{name} did not try {dead}: {tried:?}"
                );
                failed_as_configured(&tried, dead, on_connect_failure)?;
            }
            let mut tried_dead = 0;
            for (domain, dead) in DUAL_STACK {
                let tried = delivered(lab, &wire, &living, port, domain)
                    .with_context(|| format!("{name} to {domain}"))?;
                tried_dead += usize::from(tried.iter().any(|each| each.server.ip() == dead));
                failed_as_configured(&tried, dead, on_connect_failure)?;
            }
            ensure!(tried_dead > 0, "{name} never met the dead one of two families");
        }
        Ok(())
    })
}

/// Makes a customer's server send a message; the connections that were over when a living address had it.
fn delivered(
    lab: &Lab,
    wire: &Wire,
    living: &[Server; 2],
    port: u16,
    domain: &str,
) -> Result<Vec<Connection>> {
    let known = wire.count();
    let recipient = format!("port{port}@{domain}");
    let mut client = Client::connect(&lab.customer, ([127, 0, 0, 1], port).into())?;
    client.greet("program.customer.test")?;
    client.send_message("sender@customer.test", &[&recipient], HAM)?.expect(250)?;
    client.command("QUIT")?;
    wait_until("the message at a living address", PATIENCE, || {
        let has = |server: &Server| {
            server.any(|session| {
                !session.messages.is_empty() && session.commands.iter().any(|line| line.contains(&recipient))
            })
        };
        Ok(living.iter().any(has))
    })
    .with_context(|| format!("tried: {:?}", wire.since(known)))?;
    Ok(wire.since(known))
}

/// What was seen at the dead address was weir's 421, or nothing at all.
fn failed_as_configured(tried: &[Connection], dead: IpAddr, on_connect_failure: &str) -> Result<()> {
    for connection in tried.iter().filter(|each| each.server.ip() == dead) {
        let answered = String::from_utf8_lossy(connection.answered()).into_owned();
        let expected =
            if on_connect_failure == "reply" { answered.starts_with("421 ") } else { answered.is_empty() };
        ensure!(expected, "{dead} answered {answered:?}");
    }
    Ok(())
}

/// What the customers' name server knows.
fn records() -> Vec<String> {
    let mut records = Vec::new();
    let [v4, v6] = Family::BOTH.map(Family::destination);
    for (domain, dead) in DEAD_FIRST {
        records.push(format!("--mx-host={domain},first.{domain},10"));
        records.push(format!("--mx-host={domain},second.{domain},20"));
        records.push(format!("--host-record=first.{domain},{dead}"));
        records.push(format!("--host-record=second.{domain},{v4}"));
    }
    for (domain, dead) in DUAL_STACK {
        let living = if dead.is_ipv4() { v6 } else { v4 };
        records.push(format!("--mx-host={domain},mx.{domain},10"));
        records.push(format!("--host-record=mx.{domain},{dead},{living}"));
    }
    records
}

/// The customer's servers; each looks the destinations up and uses no TLS.
struct Customers<'a> {
    ports: [(&'static str, u16); 3],
    _postfix: Postfix<'a>,
    _others: [Process; 2],
}

impl<'a> Customers<'a> {
    fn start(host: &'a Host) -> Result<Self> {
        let postfix = Postfix::customer(host)?;
        // Its delivery agent starts for the first message, after this. Which family it tries first would be chance.
        host.sh(
            "postconf -e 'smtp_tls_security_level = none' 'smtp_dns_support_level = enabled' 'smtp_host_lookup = dns' \
             'smtp_address_preference = ipv6'",
        )?;
        let others = [exim(host, EXIM)?, opensmtpd(host, OPENSMTPD)?];
        let ports = [("Postfix", 25), ("Exim", EXIM_PORT), ("OpenSMTPD", OPENSMTPD_PORT)];
        for (name, port) in ports {
            wait_until(&format!("{name}'s banner"), PATIENCE, || {
                let server = ([127, 0, 0, 1], port).into();
                Ok(Client::connect(host, server).and_then(|mut client| client.expect(220)).is_ok())
            })?;
        }
        Ok(Self { ports, _postfix: postfix, _others: others })
    }
}

const EXIM: &str = "\
primary_hostname = mail.customer.test
daemon_smtp_ports = 2501
local_interfaces = 127.0.0.1
acl_smtp_rcpt = accept
acl_smtp_data = accept
tls_advertise_hosts =
begin routers
own:
  driver = redirect
  domains = customer.test
  data = :blackhole:
others:
  driver = dnslookup
  transport = smtp
begin transports
smtp:
  driver = smtp
  hosts_avoid_tls = *
";

const OPENSMTPD: &str = "\
listen on 127.0.0.1 port 2502 hostname mail.customer.test
mta limit session-keepalive 0
table nobody { \"@\" = \"nobody\" }
action own mda \"cat >/dev/null\" virtual <nobody>
action others relay helo mail.customer.test
match from any for domain \"customer.test\" action own
match from any for any action others
";

//! Agents beside a router, which sends them mail in both directions as `weir-agent router-config` has it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use weir_tests::components::{AgentConfig, Backend, FILTER_PORT, FilterConfig, Frr, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink, cable, ip};
use weir_tests::probe::{Way, time_until, way};
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(one_of_two_agents_is_killed);

#[test]
fn frr_and_one_of_two_agents_is_killed() -> Result<()> {
    one_is_killed(Router::Frr, Steering::Own(Backend::Ebpf))
}

#[test]
fn with_rules_of_nftables_one_of_two_agents_is_killed() -> Result<()> {
    one_is_killed(Router::Linux, Steering::Rules("nftables"))
}

#[test]
fn with_rules_of_iptables_one_of_two_agents_is_killed() -> Result<()> {
    one_is_killed(Router::Linux, Steering::Rules("iptables"))
}

const CONFIG: &str = "/etc/weir/agent.toml";
const ROUTING: &str = "for i in -4 -6; do ip $i rule; ip $i route show table all; done; nft list tables";
const SCRIPT: &str = "/etc/steer.sh";

/// How long a customer waits for a connection here; customers' servers wait longer, and try again.
const TRY: Duration = Duration::from_millis(500);

/// What the router's configuration is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Router {
    Linux,
    Frr,
}

impl Router {
    fn recipe(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Frr => "frr",
        }
    }
}

/// What brings mail into an agent on its own host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Steering {
    Own(Backend),
    /// The rules that `router-config` prints under this name.
    Rules(&'static str),
}

/// A router between customer and internet, where the lab's gateway would be.
pub(crate) fn router(lab: &Lab) -> Result<Host> {
    let router = lab.host("router")?;
    ip(&lab.gateway, &["link del cust0", "link del inet0"].map(String::from))?;
    for (interface, host, network) in [("cust0", &lab.customer, 1), ("inet0", &lab.internet, 2)] {
        cable(&router, interface, host, "eth0")?;
        let lines = |own: u8| {
            [format!("addr add 10.{network}.0.{own}/16 dev"), format!("addr add fd0{network}::{own}/32 dev")]
        };
        ip(&router, &lines(1).map(|line| format!("{line} {interface}")))?;
        ip(host, &lines(2).map(|line| format!("{line} eth0")))?;
        let via = [format!("10.{network}.0.1"), format!("fd0{network}::1")];
        ip(host, &via.map(|router| format!("route add default via {router}")))?;
    }
    Ok(router)
}

/// An agent's host on a cable of its own to the router: `arm0` there, `armN` here, in 10.(5+N).0.0/24 and fd0(5+N)::/64.
pub(crate) fn arm(router: &Host, agent: &Host, number: u8) -> Result<()> {
    let (network, interface) = (5 + number, format!("arm{number}"));
    cable(router, &interface, agent, "arm0")?;
    let addresses = |own: u8, interface: &str| {
        [
            format!("addr add 10.{network}.0.{own}/24 dev {interface}"),
            format!("addr add fd0{network}::{own}/64 dev {interface}"),
        ]
    };
    ip(router, &addresses(1, &interface))?;
    ip(agent, &addresses(2, "arm0"))?;
    let via = [format!("10.{network}.0.1"), format!("fd0{network}::1")];
    ip(agent, &via.map(|router| format!("route add default via {router}")))
}

/// Waits until the cables carry.
pub(crate) fn settle(hosts: &[&Host]) -> Result<()> {
    hosts.iter().try_for_each(|host| {
        wait_until("IPv6 addresses that can be used", PATIENCE, || {
            Ok(host.sh("ip -6 addr show tentative")?.trim().is_empty())
        })
    })
}

/// What customers met.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    number: AtomicUsize,
    failed: AtomicUsize,
    straight: AtomicUsize,
}

impl Load {
    /// One message after the other until it is over: the subjects of those that were taken, each with the time.
    fn go_on(&self, lab: &Lab) -> Vec<(String, Instant)> {
        let mut taken = Vec::new();
        while !self.over.load(Relaxed) {
            let subject = format!("load-{}", self.number.fetch_add(1, Relaxed));
            match send(lab, &subject) {
                Ok(way) => {
                    self.straight.fetch_add(usize::from(way == Way::Straight), Relaxed);
                    taken.push((subject, Instant::now()));
                }
                Err(_) => {
                    self.failed.fetch_add(1, Relaxed);
                }
            }
        }
        taken
    }

    /// Two customers go on, while `act` does something, until it is `over`: what was taken, and what `act` says.
    fn around<T: Send>(
        &self,
        lab: &Lab,
        act: impl FnOnce() -> Result<T> + Send,
        over: impl Fn() -> Result<bool>,
    ) -> Result<(Vec<(String, Instant)>, T)> {
        thread::scope(|scope| {
            let loading = [(); 2].map(|()| scope.spawn(|| self.go_on(lab)));
            let begun = || Ok(self.number.load(Relaxed) > 20);
            let outcome = wait_until("some messages", PATIENCE, begun)
                .and_then(|()| act())
                .and_then(|acted| wait_until("what follows", PATIENCE, over).map(|()| acted));
            self.over.store(true, Relaxed);
            let mut taken = Vec::new();
            for each in loading {
                taken.extend(each.join().map_err(|_| anyhow!("a panic"))?);
            }
            Ok((taken, outcome?))
        })
    }

    /// All that was taken has arrived, by way of an agent.
    fn judge(&self, taken: &[(String, Instant)], killed: Instant, destination: &Server) -> Result<()> {
        let next =
            taken.iter().map(|(_, at)| *at).filter(|at| *at > killed).min().context("none after it")?;
        eprintln!(
            "{} messages taken, {} tries failed; the first after the kill was taken {} ms later",
            taken.len(),
            self.failed.load(Relaxed),
            next.duration_since(killed).as_millis()
        );
        let sessions = destination.sessions();
        let messages = sessions.iter().flat_map(|session| &session.messages);
        let subject = |message: &Vec<u8>| {
            let text = String::from_utf8_lossy(message).into_owned();
            text.lines().find_map(|line| line.strip_prefix("Subject: ")).map(str::to_owned)
        };
        let arrived: BTreeSet<String> = messages.filter_map(subject).collect();
        let lost: Vec<_> = taken.iter().filter(|(subject, _)| !arrived.contains(subject)).collect();
        ensure!(lost.is_empty(), "taken and not delivered: {lost:?}");
        let straight = self.straight.load(Relaxed);
        ensure!(straight == 0, "{straight} went past the agents");
        Ok(())
    }
}

fn send(lab: &Lab, subject: &str) -> Result<Way> {
    let to = (Family::V4.destination(), 25).into();
    let mut client = Client::connect_within(&lab.customer, Family::V4.customer(), to, TRY)?;
    let extensions = client.greet("mail.customer.test")?;
    let message = format!("Subject: {subject}\n\nshort\n");
    client.send_message("a@customer.test", &["user@destination.test"], message.as_bytes())?.expect(250)?;
    client.command("QUIT")?.expect(221)?;
    Ok(if extensions.announces("STARTTLS") { Way::Straight } else { Way::Intercepted })
}

/// On this host, with a filter node of its own.
fn start(host: &Host, steering: Steering) -> Result<(WeirAgent, WeirFilter)> {
    let node = SocketAddr::from(([127, 0, 0, 1], FILTER_PORT));
    let filter = FilterConfig { listen: vec![node], ..FilterConfig::node(0) };
    let filter = filter.to_toml().replace("proxies = [", "proxies = [\"127.0.0.1/32\", ");
    let filter = WeirFilter::start_as(host, 0, &filter)?;
    let backend = match steering {
        Steering::Own(backend) => backend,
        Steering::Rules(_) => Backend::Tproxy,
    };
    let config = AgentConfig {
        customer_interfaces: vec!["arm0".into()],
        internet_interfaces: vec!["arm0".into()],
        nodes: vec![node],
        customer_lines: "[metrics]\nlisten = [\"[::]:9125\"]\n".into(),
        ..AgentConfig::new(backend).closed()
    };
    if let Steering::Rules(recipe) = steering {
        let config = config.to_toml().replace("backend = \"tproxy\"", "backend = \"external\"");
        WeirAgent::configure(host, &config)?;
        host.sh(&printed(host, &[recipe])?)?;
        return Ok((WeirAgent::start_with(host, &config)?, filter));
    }
    Ok((WeirAgent::start(host, &config)?, filter))
}

/// What a command of an agent's host says.
fn printed(host: &Host, words: &[&str]) -> Result<String> {
    let printed = WeirAgent::command(host, &[&["router-config", "--config", CONFIG], words].concat())?;
    ensure!(printed.success, "{}", printed.output);
    Ok(printed.output)
}

fn sessions(host: &Host) -> Result<u64> {
    WeirAgent::status(host)?["counters"]["sessions"].as_u64().context("sessions")
}

fn print(lab: &Lab, router: Router, more: &[&str]) -> Result<String> {
    let words = [
        router.recipe(),
        "--from-customers",
        "cust0",
        "--from-internet",
        "inet0",
        "--agent",
        "10.5.0.2,fd05::2",
        "--agent",
        "10.6.0.2,fd06::2",
    ];
    printed(&lab.gateway, &[&words[..], more].concat())
}

fn one_of_two_agents_is_killed(backend: Backend) -> Result<()> {
    one_is_killed(Router::Linux, Steering::Own(backend))
}

fn one_is_killed(kind: Router, steering: Steering) -> Result<()> {
    Lab::run("beside-router", NarrowLink::Nowhere, |lab| {
        let (router, second) = (router(lab)?, lab.host("gateway2")?);
        let frr = if kind == Router::Frr { Some(Frr::start(&router)?) } else { None };
        arm(&router, &lab.gateway, 0)?;
        arm(&router, &second, 1)?;
        settle(&[&router, &lab.gateway, &second, &lab.customer, &lab.internet])?;
        let before = router.sh(ROUTING)?;
        let [destination, _destination_v6] =
            Family::BOTH.map(|family| Server::start(&lab.internet, family.destination(), Script::default()));
        let destination = destination?;
        let (first_agent, _first_filter) = start(&lab.gateway, steering)?;
        let (_second_agent, _second_filter) = start(&second, steering)?;
        router.write(SCRIPT, print(lab, kind, &[])?)?;
        let mut watch = Command::new("sh");
        watch.args([SCRIPT, "watch"]);
        let watch = router.spawn("steer", watch)?;
        for family in Family::BOTH {
            time_until(Way::Intercepted, &lab.customer, family.customer(), family.destination())?;
        }
        ensure!(sessions(&lab.gateway)? > 0 && sessions(&second)? == 0, "not the preferred agent");

        let load = Load::default();
        let (taken, killed) = load.around(
            lab,
            || {
                first_agent.kill()?;
                Ok(Instant::now())
            },
            || Ok(sessions(&second)? > 20),
        )?;
        load.judge(&taken, killed, &destination)?;
        the_one_that_came_back_waits(lab, &second, steering)?;
        drop(watch);
        router.sh(&print(lab, kind, &["--undo"])?)?;
        let after = router.sh(ROUTING)?;
        ensure!(after == before, "left on the router:\n{after}\nbefore:\n{before}");
        for family in Family::BOTH {
            let way = way(&lab.customer, family.customer(), family.destination())?;
            ensure!(way == Way::Straight, "{family:?} after the undoing");
        }
        if let Some(frr) = frr {
            what_is_lost_is_put_back(lab, &router, frr)?;
        }
        Ok(())
    })
}

/// By way of an agent, in both families.
fn comes_to_an_agent(lab: &Lab) -> Result<()> {
    for family in Family::BOTH {
        time_until(Way::Intercepted, &lab.customer, family.customer(), family.destination())?;
    }
    Ok(())
}

fn goes_nowhere(lab: &Lab, when: &str) -> Result<()> {
    for family in Family::BOTH {
        let way = way(&lab.customer, family.customer(), family.destination());
        ensure!(way.is_err(), "{family:?} {when}: {way:?}");
    }
    Ok(())
}

/// On a router with a way to the internet, by which FRR would find any next hop, while the script goes on.
fn what_is_lost_is_put_back(lab: &Lab, router: &Host, frr: Frr) -> Result<()> {
    router.sh("ip route add default via 10.2.0.2; ip -6 route add default via fd02::2")?;
    let mut watch = Command::new("sh");
    watch.args([SCRIPT, "watch"]);
    let _watch = router.spawn("steer", watch)?;
    comes_to_an_agent(lab)?;
    router.sh("nft flush ruleset")?;
    comes_to_an_agent(lab).context("after nftables were reloaded")?;
    router.sh("ip link set arm0 down; ip link set arm1 down")?;
    goes_nowhere(lab, "without the agents' hosts")?;
    router.sh("ip link set arm0 up; ip link set arm1 up; ip addr add fd05::1/64 dev arm0; ip addr add fd06::1/64 dev arm1")?;
    comes_to_an_agent(lab).context("when the hosts are back")?;
    frr.stop()?;
    goes_nowhere(lab, "without FRR")?;
    let _frr = Frr::start(router)?;
    comes_to_an_agent(lab).context("after FRR was started again")
}

/// A session with the second agent outlives the return of the first.
fn the_one_that_came_back_waits(lab: &Lab, second: &Host, steering: Steering) -> Result<()> {
    let to = (Family::V4.destination(), 25).into();
    let mut open = Client::connect_from(&lab.customer, Family::V4.customer(), to)?;
    open.greet("mail.customer.test")?;
    let _first = start(&lab.gateway, steering)?;
    let had = sessions(second)?;
    for number in 0..3 {
        // As long as the router takes to look again.
        thread::sleep(Duration::from_secs(1));
        send(lab, &format!("back-{number}"))?;
    }
    ensure!(sessions(second)? == had + 3 && sessions(&lab.gateway)? == 0, "the router went back");
    let message = b"Subject: over the return\n\nshort\n";
    open.send_message("a@customer.test", &["user@destination.test"], message)?.expect(250)?;
    Ok(())
}

//! What `weir-agent doctor` finds on a host where something is wrong, and that what it tells to do mends it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{CUSTOMER_PREFIXES, Family, Lab, NarrowLink, Snapshot};
use weir_tests::probe::{Way, way};
use weir_tests::smtp::{Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(
    a_host_that_is_well_and_stays_as_it_is,
    forwarding_that_is_off,
    routes_that_are_missing,
    another_proxy,
    an_input_policy_that_drops,
    what_a_dead_agent_left,
);

const CONFIG: &str = "/etc/weir/agent.toml";

/// A gateway has a way to the internet.
const DEFAULT_ROUTES: &str =
    "ip -4 route add default dev inet0 via 10.2.0.2; ip -6 route add default dev inet0 via fd02::2";

struct Examined {
    status: Option<i32>,
    findings: Vec<Value>,
}

impl Examined {
    /// The check's findings of this state.
    fn of(&self, check: &str, state: &str) -> Vec<&Value> {
        self.findings
            .iter()
            .filter(|finding| finding["check"] == check && finding["state"] == state)
            .collect()
    }

    /// What the only problem of this check says, and what mends it.
    fn problem(&self, check: &str) -> Result<(String, String)> {
        let problems = self.of(check, "problem");
        let [problem] = problems[..] else { anyhow::bail!("{check}: {:#?}", self.findings) };
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
        Ok((text("words"), text("command")))
    }
}

fn examine(lab: &Lab) -> Result<Examined> {
    let run = WeirAgent::command(&lab.gateway, &["doctor", "--json", "--config", CONFIG])?;
    let report: Value = serde_json::from_str(run.output.trim()).with_context(|| run.output.clone())?;
    ensure!(report["exit_status"] == run.code.unwrap_or(-1), "{report:#}");
    let findings = report["findings"].as_array().context("findings")?.clone();
    Ok(Examined { status: run.code, findings })
}

/// Nothing is wrong, with warnings or not.
fn is_well(lab: &Lab, when: &str) -> Result<Examined> {
    let examined = examine(lab)?;
    ensure!(examined.status == Some(0), "{when}: {:#?}", examined.findings);
    Ok(examined)
}

fn ready(name: &str, config: &AgentConfig, work: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    Lab::run(name, NarrowLink::Nowhere, |lab| {
        lab.gateway.sh(DEFAULT_ROUTES)?;
        WeirAgent::configure(&lab.gateway, &config.to_toml())?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        work(lab)
    })
}

/// Breaks the host, expects the finding, does what it tells to do, and expects that all is well.
fn broken_and_mended(lab: &Lab, breakage: &str, check: &str, words: &str) -> Result<()> {
    lab.gateway.sh(breakage)?;
    let (said, command) = examine(lab)?.problem(check)?;
    ensure!(said.contains(words), "{words:?} is not in {said:?}");
    ensure!(!command.is_empty(), "{said}: no command");
    lab.gateway.sh(&command)?;
    is_well(lab, &format!("after `{command}`")).map(drop)
}

fn a_host_that_is_well_and_stays_as_it_is(backend: Backend) -> Result<()> {
    for config in [AgentConfig::new(backend), AgentConfig::new(backend).closed()] {
        ready("doctor-well", &config, |lab| {
            let before = Snapshot::of(&lab.gateway)?;
            let examined = is_well(lab, "without an agent")?;
            ensure!(examined.of("back_end", "ok").len() == 1, "{:#?}", examined.findings);
            ensure!(examined.of("filter_node", "ok").len() == 2, "{:#?}", examined.findings);
            ensure!(examined.of("agent", "skipped").len() == 1, "{:#?}", examined.findings);
            let changes = Snapshot::of(&lab.gateway)?.changes_since(&before);
            ensure!(changes.is_empty(), "the doctor changed:\n{changes}");

            let _destination = Postfix::destination(&lab.internet)?;
            let agent = WeirAgent::start(&lab.gateway, &config)?;
            let before = Snapshot::of(&lab.gateway)?;
            let examined = is_well(lab, "beside an agent")?;
            ensure!(examined.of("agent", "ok").len() == 1, "{:#?}", examined.findings);
            let changes = Snapshot::of(&lab.gateway)?.changes_since(&before);
            // The agent's heart beats on.
            let changes: Vec<&str> = changes.lines().filter(|line| !line.contains(" expires ")).collect();
            ensure!(changes.is_empty(), "the doctor changed:\n{}", changes.join("\n"));
            let to = Family::V4.destination();
            ensure!(way(&lab.customer, Family::V4.customer(), to)? == Way::Intercepted);
            let table = WeirAgent::command(&lab.gateway, &["doctor"])?.output;
            let is_command = |line: &str| line.contains("mend it with: ");
            ensure!(table.lines().all(|line| line.chars().count() <= 80 || is_command(line)), "{table}");
            agent.stop()
        })?;
    }
    Ok(())
}

fn forwarding_that_is_off(backend: Backend) -> Result<()> {
    ready("doctor-forwarding", &AgentConfig::new(backend), |lab| {
        let off = "echo 0 >/proc/sys/net/ipv4/ip_forward";
        broken_and_mended(lab, off, "forwarding", "mail will not flow straight")?;
        let off = "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding";
        // The kernel forgets what it learnt, not what it was told.
        broken_and_mended(lab, off, "forwarding", "net.ipv6.conf.all.forwarding is 0")?;
        let off = "echo 0 >/proc/sys/net/ipv4/conf/cust0/forwarding";
        broken_and_mended(lab, off, "forwarding", "net.ipv4.conf.cust0.forwarding is 0")
    })
}

fn routes_that_are_missing(backend: Backend) -> Result<()> {
    ready("doctor-routes", &AgentConfig::new(backend), |lab| {
        lab.gateway.sh("ip -4 route del default; ip -6 route del default")?;
        let examined = examine(lab)?;
        let problems = examined.of("route_internet", "problem");
        ensure!(problems.len() == 2, "one for each family: {:#?}", examined.findings);
        for (problem, router) in problems.iter().zip(["10.2.0.2", "fd02::2"]) {
            let command = problem["command"].as_str().unwrap_or_default().replace("ROUTER", router);
            lab.gateway.sh(&command)?;
        }
        is_well(lab, "with default routes")?;

        lab.gateway.sh("ip route add 10.1.255.0/24 dev filt0")?;
        let (said, _) = examine(lab)?.problem("route_customers")?;
        ensure!(said.contains("10.1.0.0/16 is routed to filt0"), "{said}");
        lab.gateway.sh("ip route del 10.1.255.0/24 dev filt0")?;

        // Answers may come in where the kernel would not send to, and it is strict.
        let mut config = AgentConfig::new(backend);
        config.internet_interfaces.push("filt0".into());
        WeirAgent::configure(&lab.gateway, &config.to_toml())?;
        is_well(lab, "with two internet interfaces")?;
        let strict = "for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 >$each; done";
        broken_and_mended(lab, strict, "route_internet", "answers that come in on filt0")
    })
}

fn another_proxy(backend: Backend) -> Result<()> {
    ready("doctor-proxy", &AgentConfig::new(backend), |lab| {
        let chain = |name: &str, kind: &str, hook: &str| {
            format!("nft add table ip other; nft 'add chain ip other {name} {{ type {kind} hook {hook}; }}'")
        };
        let prerouting = chain("pre", "filter", "prerouting priority mangle");
        let tproxy =
            "nft add rule ip other pre iifname cust0 tcp dport 25 tproxy to :2526 meta mark set 1 accept";
        broken_and_mended(
            lab,
            &format!("{prerouting}; {tproxy}"),
            "other_proxy",
            "sends port 25 elsewhere (tproxy)",
        )?;
        let nat = chain("nat", "nat", "prerouting priority dstnat");
        let redirect = "nft add rule ip other nat tcp dport '{ 25, 587 }' redirect to :10025";
        broken_and_mended(lab, &format!("{nat}; {redirect}"), "other_proxy", "(redirect)")?;
        let nat = chain("post", "nat", "postrouting priority srcnat");
        let masquerade = "nft add rule ip other post oifname inet0 masquerade";
        // tproxy looks again after NAT.
        if backend == Backend::Ebpf {
            let break_it = format!("{nat}; {masquerade}");
            broken_and_mended(lab, &break_it, "source_address", "another source address")?;
            lab.gateway.sh("nft flush chain ip other post")?;
            let mut masqueraded = AgentConfig::new(backend);
            masqueraded.customer_lines = format!("masqueraded = {CUSTOMER_PREFIXES:?}");
            WeirAgent::configure(&lab.gateway, &masqueraded.to_toml())?;
            lab.gateway.sh(masquerade)?;
            is_well(lab, "with customers whose address is hidden")?;
        }
        broken_and_mended(
            lab,
            "ip rule add pref 50 iif cust0 lookup 55",
            "policy_rules",
            "comes before weir's",
        )
    })
}

/// Found, mended, and then mail is intercepted indeed.
fn an_input_policy_that_drops(backend: Backend) -> Result<()> {
    let config = AgentConfig::new(backend);
    ready("doctor-input", &config, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        lab.gateway.sh("nft add table inet fw
             nft 'add chain inet fw input { type filter hook input priority filter; policy drop; }'
             nft add rule inet fw input iifname lo accept
             nft add rule inet fw input iifname filt0 accept
             nft add rule inet fw input icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }' accept")?;
        broken_and_mended(lab, "true", "firewall_input", "drops steered packets")?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        for family in Family::BOTH {
            let found = way(&lab.customer, family.customer(), family.destination())?;
            ensure!(found == Way::Intercepted, "{family:?}");
        }
        agent.stop()?;
        // Without neighbour discovery there is no IPv6.
        lab.gateway
            .sh("nft flush chain inet fw input; nft add rule inet fw input iifname '{ lo, filt0 }' accept")?;
        let examined = examine(lab)?;
        ensure!(examined.of("firewall_input", "problem").len() == 2, "{:#?}", examined.findings);
        for problem in examined.of("firewall_input", "problem") {
            lab.gateway.sh(problem["command"].as_str().unwrap_or_default())?;
        }
        is_well(lab, "with both let in").map(drop)
    })
}

fn what_a_dead_agent_left(backend: Backend) -> Result<()> {
    let config = AgentConfig::new(backend).closed();
    ready("doctor-dead", &config, |lab| {
        WeirAgent::start(&lab.gateway, &config)?.kill()?;
        let examined = is_well(lab, "it can be started again")?;
        let [left] = examined.of("policy_rules", "warning")[..] else {
            anyhow::bail!("{:#?}", examined.findings)
        };
        ensure!(left["command"] == "weir-agent cleanup", "{left}");
        WeirAgent::cleanup(&lab.gateway)?;
        let examined = is_well(lab, "after the cleanup")?;
        ensure!(examined.of("policy_rules", "ok").len() == 1, "{:#?}", examined.findings);
        Ok(())
    })
}

/// A setting that the agent minds while it runs.
#[test]
fn what_a_running_agent_says_is_wrong() -> Result<()> {
    let config = AgentConfig::new(Backend::Tproxy);
    ready("doctor-running", &config, |lab| {
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        lab.gateway.sh("echo 2 >/proc/sys/net/ipv4/tcp_syncookies")?;
        wait_until("the agent's own words", PATIENCE, || {
            let examined = examine(lab)?;
            ensure!(examined.status == Some(1), "{:#?}", examined.findings);
            let said = examined.of("agent", "problem");
            Ok(said.iter().any(|one| one["words"].to_string().contains("net.ipv4.tcp_syncookies is 2")))
        })?;
        let (_, command) = examine(lab)?.problem("syn_cookies")?;
        lab.gateway.sh(&command)?;
        wait_until("an agent that is content", PATIENCE, || Ok(examine(lab)?.status == Some(0)))?;
        agent.stop()
    })
}

/// What does not depend on the back end.
#[test]
fn nodes_ports_interfaces_and_files() -> Result<()> {
    let config = AgentConfig::new(Backend::Ebpf);
    Lab::run("doctor-others", NarrowLink::Nowhere, |lab| {
        lab.gateway.sh(DEFAULT_ROUTES)?;
        WeirAgent::configure(&lab.gateway, &config.to_toml())?;
        let filter = WeirFilter::start_both(&lab.filter, |config| config)?;
        is_well(lab, "as it should be")?;
        drop(filter);
        let examined = examine(lab)?;
        let down = examined.of("filter_node", "problem");
        ensure!(examined.status == Some(1) && down.len() == 2, "{:#?}", examined.findings);
        ensure!(down[0]["words"].as_str().is_some_and(|words| words.contains("not reached")), "{down:?}");

        let stranger = Server::start_at(&lab.filter, config.nodes[0], Script::default())?;
        let examined = examine(lab)?;
        let refuses = |finding: &&Value| {
            let words = finding["words"].as_str().unwrap_or_default();
            words.contains("does not announce XCLIENT") && words.contains("smtp.proxies")
        };
        ensure!(examined.of("filter_node", "problem").iter().any(refuses), "{:#?}", examined.findings);
        drop(stranger);

        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let taken = lab.gateway.in_network(|| Ok(std::net::TcpListener::bind("[::]:2525")?))?;
        let (said, _) = examine(lab)?.problem("listen_port")?;
        ensure!(said.contains("2525 is taken by"), "{said}");
        drop(taken);

        lab.gateway.sh("ip link set inet0 down")?;
        let (said, command) = examine(lab)?.problem("interfaces")?;
        ensure!(said.contains("inet0 is down"), "{said}");
        lab.gateway.sh(&command)?;
        // With the interface its routes went, and its IPv6 address.
        lab.gateway.sh(&format!("ip -6 addr replace fd02::1/32 dev inet0; {DEFAULT_ROUTES}"))?;
        is_well(lab, "with the interface up again")?;

        // The state of the host's limit of connections that wait is its own.
        lab.gateway.sh("echo 128 >/proc/sys/net/core/somaxconn")?;
        let examined = is_well(lab, "a warning is no problem")?;
        let [warning] = examined.of("accept_queue", "warning")[..] else {
            anyhow::bail!("{:#?}", examined.findings)
        };
        lab.gateway.sh(warning["command"].as_str().unwrap_or_default())?;
        ensure!(examine(lab)?.of("accept_queue", "ok").len() == 1);

        let spool = "[spool]\ndirectory = \"/var/spool/weir\"";
        WeirAgent::configure(&lab.gateway, &config.to_toml().replace("[spool]", spool))?;
        let others = "install -d -m 0700 -o nobody /var/spool/weir";
        broken_and_mended(lab, others, "spool", "no file can be made in /var/spool/weir")?;

        let gone = config.to_toml().replace("[spool]", "[spool]\ndirectory = \"/var/nowhere\"");
        WeirAgent::configure(&lab.gateway, &gone)?;
        let (said, _) = examine(lab)?.problem("configuration")?;
        ensure!(said.contains("spool.directory"), "{said}");
        let nowhere = WeirAgent::command(&lab.gateway, &["doctor", "--config", "/etc/weir/nowhere.toml"])?;
        ensure!(nowhere.code == Some(2) && nowhere.output.contains("cannot be read"), "{}", nowhere.output);
        Ok(())
    })
}

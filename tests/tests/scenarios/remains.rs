//! What is left on the gateway when the agent is gone: nothing. Compared is everything of the host that
//! `weir_tests::lab::Snapshot` knows.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink, Snapshot};
use weir_tests::probe::{Way, way};
use weir_tests::wait::PATIENCE;

on_both_back_ends!(
    nothing_after_a_stop_in_open,
    nothing_after_cleanup,
    nothing_after_kill_restart_and_stop,
    nothing_after_a_start_that_failed,
    settings_of_others_stay,
);

/// As on a host where nft may not change anything.
const NFT_THAT_ONLY_LISTS: &str = "\
#!/bin/sh
case \"$*\" in *list*|--version) exec /tmp/nft \"$@\" ;; esac
echo 'Error: nft may only look' >&2
exit 1
";

fn nothing_after_a_stop_in_open(backend: Backend) -> Result<()> {
    unchanged("remains-stop", &AgentConfig::new(backend), |lab, config| {
        let agent = WeirAgent::start(&lab.gateway, config)?;
        intercepts(lab)?;
        agent.stop()
    })
}

fn nothing_after_cleanup(backend: Backend) -> Result<()> {
    let open = AgentConfig::new(backend);
    for (name, config) in [("remains-open", open.clone()), ("remains-closed", open.closed())] {
        unchanged(name, &config, |lab, config| {
            let agent = WeirAgent::start(&lab.gateway, config)?;
            intercepts(lab)?;
            agent.kill()?;
            WeirAgent::cleanup(&lab.gateway)?;
            // Twice: cleaning what is clean is no error.
            WeirAgent::cleanup(&lab.gateway)
        })?;
    }
    unchanged("remains-stopped", &AgentConfig::new(backend).closed(), |lab, config| {
        WeirAgent::start(&lab.gateway, config)?.stop()?;
        WeirAgent::cleanup(&lab.gateway)
    })
}

fn nothing_after_kill_restart_and_stop(backend: Backend) -> Result<()> {
    unchanged("remains-kill", &AgentConfig::new(backend), |lab, config| {
        for _ in 0..3 {
            let agent = WeirAgent::start(&lab.gateway, config)?;
            intercepts(lab)?;
            agent.kill()?;
        }
        let agent = WeirAgent::start(&lab.gateway, config)?;
        intercepts(lab)?;
        agent.stop()
    })
}

/// Starts that fail early, in the middle and late.
fn nothing_after_a_start_that_failed(backend: Backend) -> Result<()> {
    let good = AgentConfig::new(backend);
    let mut missing = good.clone();
    missing.internet_interfaces.push("nowhere0".into());
    unchanged("failed-interface", &missing, |lab, config| must_fail(&lab.gateway, config, "nowhere0"))?;

    unchanged("failed-port", &good, |lab, config| {
        let taken = lab.gateway.in_network(|| Ok(TcpListener::bind("[::]:2525")?))?;
        must_fail(&lab.gateway, config, "2525")?;
        drop(taken);
        Ok(())
    })?;

    // The last steps fail: by then rules, routes and programs are in place.
    unchanged("failed-late", &good.closed(), |lab, config| {
        let reason = match backend {
            Backend::Ebpf => {
                lab.gateway.sh("mount -o remount,ro /sys/fs/bpf")?;
                "/sys/fs/bpf"
            }
            Backend::Tproxy => {
                lab.gateway.write("/tmp/looking-nft", NFT_THAT_ONLY_LISTS)?;
                lab.gateway.sh("cp /usr/sbin/nft /tmp/nft; chmod 755 /tmp/looking-nft
                     mount --bind /tmp/looking-nft /usr/sbin/nft")?;
                "nft may only look"
            }
        };
        must_fail(&lab.gateway, config, reason)?;
        lab.gateway.sh(match backend {
            Backend::Ebpf => "mount -o remount,rw /sys/fs/bpf",
            Backend::Tproxy => "umount /usr/sbin/nft; rm /tmp/nft /tmp/looking-nft",
        })?;
        Ok(())
    })
}

/// Rules and programs of other people on the same interfaces survive a start and a stop.
fn settings_of_others_stay(backend: Backend) -> Result<()> {
    Lab::run("others", NarrowLink::Nowhere, |lab| {
        lab.gateway.sh(
            "tc qdisc add dev cust0 clsact
             tc filter add dev cust0 ingress protocol ip prio 7 u32 match ip dport 80 0xffff action ok
             ip rule add fwmark 7 lookup 107; ip -6 rule add fwmark 7 lookup 107
             ip route add blackhole 192.0.2.0/24 table 107
             nft add table inet provider
             nft 'add chain inet provider forward { type filter hook forward priority 0; policy accept; }'",
        )?;
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(backend);
        WeirAgent::configure(&lab.gateway, &config.to_toml())?;
        let before = Snapshot::of(&lab.gateway)?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        for family in Family::BOTH {
            assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Intercepted);
        }
        agent.stop()?;
        let changes = Snapshot::of(&lab.gateway)?.changes_since(&before);
        ensure!(changes.is_empty(), "changed on the gateway:\n{changes}");
        Ok(())
    })
}

/// Does `work` in a lab and compares the gateway before and after.
fn unchanged(
    name: &str,
    config: &AgentConfig,
    work: impl FnOnce(&Lab, &AgentConfig) -> Result<()>,
) -> Result<()> {
    Lab::run(name, NarrowLink::Nowhere, |lab| {
        WeirAgent::configure(&lab.gateway, &config.to_toml())?;
        let before = Snapshot::of(&lab.gateway)?;
        work(lab, config)?;
        let changes = Snapshot::of(&lab.gateway)?.changes_since(&before);
        ensure!(changes.is_empty(), "{name}: changed on the gateway:\n{changes}");
        Ok(())
    })
}

/// Something was installed: a message goes through it.
fn intercepts(lab: &Lab) -> Result<()> {
    let server =
        weir_tests::smtp::Server::start(&lab.internet, Family::V4.destination(), Default::default())?;
    let found = way(&lab.customer, Family::V4.customer(), server.address().ip())?;
    ensure!(found == Way::Intercepted, "not intercepted");
    Ok(())
}

fn must_fail(gateway: &Host, config: &AgentConfig, reason: &str) -> Result<()> {
    let mut process = WeirAgent::launch(gateway, &config.to_toml())?;
    let status = process.wait_exit(PATIENCE)?;
    let output = process.output();
    ensure!(!status.success(), "it ended with {status}:\n{output}");
    ensure!(output.contains(reason), "the reason does not name {reason}:\n{output}");
    Ok(())
}

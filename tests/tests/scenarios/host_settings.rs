//! Gateways are set up in many ways; interception has to work with these.

use anyhow::Result;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{HAM, Way, way};
use weir_tests::smtp::Client;
use weir_tests::wait::PATIENCE;

on_both_back_ends!(strict_reverse_path_filter, marks_in_source_validation, syn_cookies_always);

fn strict_reverse_path_filter(backend: Backend) -> Result<()> {
    intercepts_with(backend, "net/ipv4/conf/*/rp_filter", 1)
}

/// wg-quick sets it.
fn marks_in_source_validation(backend: Backend) -> Result<()> {
    intercepts_with(backend, "net/ipv4/conf/*/src_valid_mark", 1)
}

/// The connection begins with the third packet. nftables cannot recognise it without connection tracking:
/// there the agent says what to change.
fn syn_cookies_always(backend: Backend) -> Result<()> {
    if backend == Backend::Ebpf {
        return intercepts_with(backend, "net/ipv4/tcp_syncookies", 2);
    }
    Lab::run("cookies", NarrowLink::Nowhere, |lab| {
        lab.gateway.sh("echo 2 >/proc/sys/net/ipv4/tcp_syncookies")?;
        let mut agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        agent.process().wait_output("net.ipv4.tcp_syncookies is 2", PATIENCE)
    })
}

fn intercepts_with(backend: Backend, setting: &str, value: u8) -> Result<()> {
    Lab::run("setting", NarrowLink::Nowhere, |lab| {
        lab.gateway.sh(&format!("for each in /proc/sys/{setting}; do echo {value} >$each; done"))?;
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let to = family.destination();
            assert_eq!(way(&lab.customer, family.customer(), to)?, Way::Intercepted, "{family:?}");
            let mut client = Client::connect(&lab.customer, (to, 25).into())?;
            client.greet("mail.customer.test")?;
            let user = format!("{family:?}").to_lowercase();
            client
                .send_message("a@customer.test", &[&format!("{user}@{}", family.domain())], HAM)?
                .expect(250)?;
            assert!(destination.wait_stored(&user)?.came_from(family.customer()));
        }
        Ok(())
    })
}

//! weir-filter by itself, spoken to as an agent would.

use std::net::SocketAddr;

use anyhow::Result;
use weir_tests::components::{FilterConfig, Spamd, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::Client;

/// A proxy speaks for its customers; the reason and the id are in the reply.
#[test]
fn judges_for_proxies() -> Result<()> {
    Lab::run("filter-proxy", NarrowLink::Nowhere, |lab| {
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        let filter = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0).asking(spamd.address()))?;
        for (family, literal) in [(Family::V4, "10.1.0.2"), (Family::V6, "IPV6:fd01::2")] {
            for (message, code) in [(HAM, 250), (GTUBE, 550)] {
                let mut client = connect(lab, family)?;
                assert!(client.greet("gateway.test")?.announces("XCLIENT"), "{}", client.transcript());
                client
                    .command(&format!(
                        "XCLIENT ADDR={literal} PORT=4711 HELO=mail.customer.test PROTO=ESMTP"
                    ))?
                    .expect(220)?;
                client.command("EHLO mail.customer.test")?.expect(250)?;
                let id = format!("id-{family:?}-{code}");
                client.command(&format!("XFORWARD IDENT={id}"))?.expect(250)?;
                let reply = client
                    .send_message("a@customer.test", &["b@v4.destination.test"], message)?
                    .expect(code)?;
                let line = filter.wait_message(&id)?;
                assert_eq!(line.field("verdict"), if code == 250 { "accept" } else { "reject" });
                assert_eq!(line.field("customer"), family.customer().to_string());
                assert!(code == 250 || reply.text().contains(&id), "{}", reply.text());
            }
        }
        filter.stop()
    })
}

/// Everybody else gets 554 at connect: whoever may use XCLIENT can speak for every customer.
#[test]
fn refuses_everybody_else() -> Result<()> {
    Lab::run("filter-others", NarrowLink::Nowhere, |lab| {
        let _filter = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0))?;
        for family in Family::BOTH {
            let mut client = Client::connect(&lab.customer, node(family))?;
            client.expect(554)?;
            assert!(client.is_closed()?, "{}", client.transcript());
        }
        Ok(())
    })
}

fn connect(lab: &Lab, family: Family) -> Result<Client> {
    Client::connect(&lab.gateway, node(family))
}

fn node(family: Family) -> SocketAddr {
    (family.filter_node(0), 10025).into()
}

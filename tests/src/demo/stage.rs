//! The cast of the demo: the customer's and the destination's Postfix, spamd, two filter nodes.

use anyhow::Result;
use weir_tests::components::{AgentConfig, Backend, Postfix, Spamd, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab};

use crate::report::Report;

/// Low, so that the demo soon meets it. It holds for each node: they do not share counters.
pub(crate) const MESSAGES_PER_MINUTE: u32 = 6;

pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) customer: Postfix<'a>,
    pub(crate) destination: Postfix<'a>,
    pub(crate) filters: [WeirFilter; 2],
    pub(crate) agent: Option<WeirAgent>,
    pub(crate) config: AgentConfig,
    _spamd: Spamd,
}

impl<'a> Stage<'a> {
    pub(crate) fn set(lab: &'a Lab, backend: Backend, report: &Report) -> Result<Self> {
        let destination = report.preparation("internet: Postfix as mx.destination.test", || {
            Postfix::destination(&lab.internet)
        })?;
        let customer = report
            .preparation("customer: Postfix as mail.customer.test", || Postfix::customer(&lab.customer))?;
        let spamd = report.preparation("filter:   spamd (SpamAssassin)", || {
            Spamd::start(&lab.filter, Family::V4.filter_node(0))
        })?;
        let filters = report.preparation("filter:   two weir-filter nodes", || {
            WeirFilter::start_both(&lab.filter, |node| {
                node.asking(spamd.address()).limited_to(MESSAGES_PER_MINUTE)
            })
        })?;
        let config = AgentConfig::new(backend);
        let agent = report
            .preparation(&format!("gateway:  weir-agent, steering by {}", backend.name()), || {
                WeirAgent::start(&lab.gateway, &config)
            })?;
        Ok(Self { lab, customer, destination, filters, agent: Some(agent), config, _spamd: spamd })
    }
}

//! What others say about a message, and the operator of whom it comes from: names and lists in the DNS, maps.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Map, Value, json};

use crate::config::{CheckMode as Mode, Config, Envelope};
use crate::dns::{Dns, List, Listing};
use crate::envelope::{self, Check, Fault};
use crate::fetch::Fetcher;
use crate::maps::Maps;
use crate::message::Transaction;
use crate::together::together;

#[derive(Debug)]
pub struct Outside {
    dns: Dns,
    lists: Vec<List>,
    maps: Maps,
    fetcher: Fetcher,
    envelope: Envelope,
    /// Messages that did not pass a check, in the order of [`Check::ALL`].
    faults: [AtomicU64; Check::ALL.len()],
}

impl Outside {
    /// # Errors
    /// What of the configuration will not do, and why.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            dns: Dns::new(&config.dns)?,
            lists: config.dns.lists.iter().map(List::new).collect(),
            maps: Maps::new(&config.maps)?,
            fetcher: Fetcher::new(&config.script.http_hosts, config.script.http_ca_file.as_deref())?,
            envelope: config.envelope,
            faults: Default::default(),
        })
    }

    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    /// HTTP for scripts.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The list with this name.
    pub fn list(&self, name: &str) -> Option<&List> {
        self.lists.iter().find(|list| list.name() == name)
    }

    /// What each list says of a message, in their order.
    pub async fn listings(&self, transaction: &Transaction) -> Vec<(&List, Listing)> {
        let address = transaction.customer.address;
        let domain = transaction.envelope.sender.path.domain();
        let asking = self.lists.iter().map(|list| list.look_up(&self.dns, address, domain.as_deref()));
        let said = together(asking).await;
        self.lists.iter().zip(said).collect()
    }

    /// What is wrong with HELO and envelope: what refuses the message, if anything does. Names are looked for only if how
    /// it is written does not refuse it.
    pub async fn fault(&self, transaction: &Transaction) -> Option<Fault> {
        let written = self.weigh(transaction, envelope::written(transaction, &self.envelope));
        if written.is_some() {
            return written;
        }
        self.weigh(transaction, envelope::looked_up(transaction, &self.envelope, &self.dns).await)
    }

    /// Counts and logs faults; the first that refuses.
    fn weigh(&self, transaction: &Transaction, faults: Vec<Fault>) -> Option<Fault> {
        let mut refuses = None;
        for fault in faults {
            let (id, check) = (&transaction.id, fault.check.name());
            tracing::info!(id, check, fault = fault.text, "the envelope does not pass");
            if let Some(place) = Check::ALL.iter().position(|check| *check == fault.check) {
                self.faults.iter().skip(place).take(1).for_each(|count| {
                    count.fetch_add(1, Relaxed);
                });
            }
            if refuses.is_none() && fault.check.mode(&self.envelope) == Mode::Reject {
                refuses = Some(fault);
            }
        }
        refuses
    }

    pub fn status(&self) -> Value {
        let lists: Map<String, Value> =
            self.lists.iter().map(|list| (list.name().to_owned(), list.status())).collect();
        let faults: Map<String, Value> = Check::ALL
            .iter()
            .zip(&self.faults)
            .map(|(check, count)| (check.name().replace('-', "_"), count.load(Relaxed).into()))
            .collect();
        json!({
            "dns": self.dns.status(),
            "lists": lists,
            "maps": self.maps.status(),
            "envelope": faults,
            "http": self.fetcher.status(),
        })
    }
}

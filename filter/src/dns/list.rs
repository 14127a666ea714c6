//! A list in the DNS (RFC 5782): what it is asked, and what its answers mean.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::name::{is_name, reversed};
use super::values::{Values, is_error};
use super::{Answer, Dns, Kind};
use crate::config::DnsList;

/// What stands before the zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Asks {
    /// The customer's address, its octets or nibbles reversed.
    #[default]
    Address,
    /// The sender's domain. A bounce is not asked about.
    SenderDomain,
    /// Both, the domain first. IPv4 only.
    SenderDomainAndAddress,
}

/// What becomes of what is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// SpamAssassin and rspamd are not asked. All other scanners are, and limits hold.
    Allow,
    /// It is bulk mail.
    Bulk,
    /// 451
    Defer,
    /// 550
    Reject,
}

/// What a list says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    Listed(Ipv4Addr),
    NotListed,
    /// It could not be asked, or says that it will not answer: nobody knows.
    Unknown,
}

#[derive(Debug)]
pub struct List {
    name: String,
    zone: String,
    asks: Asks,
    values: Vec<Values>,
    action: Use,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    asked: AtomicU64,
    listed: AtomicU64,
    errors: AtomicU64,
    away: AtomicU64,
}

impl List {
    pub fn new(config: &DnsList) -> Self {
        Self {
            name: config.name.clone(),
            zone: config.zone.trim_end_matches('.').to_owned(),
            asks: config.asks,
            values: config.values.clone(),
            action: config.action,
            counts: Counts::default(),
        }
    }

    /// One of addresses that the configuration does not name: every answer means listed.
    pub fn of_zone(zone: &str) -> Self {
        Self {
            name: zone.to_owned(),
            zone: zone.trim_end_matches('.').to_owned(),
            asks: Asks::Address,
            values: vec![Values::all()],
            action: Use::Allow,
            counts: Counts::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn action(&self) -> Use {
        self.action
    }

    /// Whether this address is listed, or this sender's domain.
    pub async fn look_up(&self, dns: &Dns, address: IpAddr, domain: Option<&str>) -> Listing {
        let Some(question) = self.question(address, domain) else { return Listing::NotListed };
        self.counts.asked.fetch_add(1, Relaxed);
        let answers = match dns.ask(&question, Kind::A).await {
            Answer::Records(records) => records,
            Answer::Nothing { .. } => return Listing::NotListed,
            Answer::Away(_) => {
                self.counts.away.fetch_add(1, Relaxed);
                return Listing::Unknown;
            }
        };
        let answers: Vec<Ipv4Addr> = answers.iter().filter_map(super::Record::v4).collect();
        match meaning(&answers, &self.values) {
            Ok(Some(answer)) => {
                self.counts.listed.fetch_add(1, Relaxed);
                Listing::Listed(answer)
            }
            Ok(None) => Listing::NotListed,
            Err(error) => {
                self.counts.errors.fetch_add(1, Relaxed);
                if dns.list_complained.is_time() {
                    let list = &self.name;
                    tracing::warn!(list, answer = %error, "a DNS list answers with an error: it says nothing of anybody");
                }
                Listing::Unknown
            }
        }
    }

    /// The name that is asked. None: it cannot know.
    fn question(&self, address: IpAddr, domain: Option<&str>) -> Option<String> {
        let zone = &self.zone;
        let domain = domain.filter(|domain| is_name(domain)).map(|domain| domain.trim_end_matches('.'));
        let question = match self.asks {
            Asks::Address => format!("{}.{zone}", reversed(address)),
            Asks::SenderDomain => format!("{}.{zone}", domain?),
            Asks::SenderDomainAndAddress if !address.to_canonical().is_ipv4() => return None,
            Asks::SenderDomainAndAddress => format!("{}.{}.{zone}", domain?, reversed(address)),
        };
        is_name(&question).then_some(question)
    }

    pub fn status(&self) -> Value {
        let Counts { asked, listed, errors, away } = &self.counts;
        json!({
            "asked": asked.load(Relaxed),
            "listed": listed.load(Relaxed),
            "errors": errors.load(Relaxed),
            "away": away.load(Relaxed),
        })
    }
}

/// The first answer that means listed. The error: one that says something of the list, and so nothing of anybody.
pub(super) fn meaning(answers: &[Ipv4Addr], values: &[Values]) -> Result<Option<Ipv4Addr>, Ipv4Addr> {
    if let Some(error) = answers.iter().find(|answer| is_error(**answer)) {
        return Err(*error);
    }
    Ok(answers.iter().copied().find(|answer| values.iter().any(|values| values.contains(*answer))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(asks: Asks) -> List {
        List::new(&DnsList {
            name: "l".into(),
            zone: "list.test.".into(),
            asks,
            values: vec!["127.0.*.3".parse().unwrap()],
            action: Use::Reject,
        })
    }

    #[test]
    fn what_is_asked() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.1.0.2".parse().unwrap(), "fd01::2".parse().unwrap());
        let address = list(Asks::Address);
        assert_eq!(address.question(v4, None).unwrap(), "2.0.1.10.list.test");
        assert!(address.question(v6, None).unwrap().ends_with("1.0.d.f.list.test"));
        let domain = list(Asks::SenderDomain);
        assert_eq!(domain.question(v6, Some("example.org.")).unwrap(), "example.org.list.test");
        assert_eq!(domain.question(v4, None), None);
        assert_eq!(domain.question(v4, Some("[10.1.0.2]")), None);
        assert_eq!(domain.question(v4, Some(&["a".repeat(62).as_str(); 4].join("."))), None);
        let both = list(Asks::SenderDomainAndAddress);
        assert_eq!(both.question(v4, Some("example.org")).unwrap(), "example.org.2.0.1.10.list.test");
        assert_eq!(both.question(v6, Some("example.org")), None);
    }

    #[test]
    fn only_what_is_in_the_set_is_a_listing_and_an_error_never() {
        let values = ["127.0.*.3".parse().unwrap(), "127.0.0.0/16".parse().unwrap()];
        let meaning = |answers: &[[u8; 4]]| {
            let answers: Vec<Ipv4Addr> = answers.iter().map(|octets| Ipv4Addr::from(*octets)).collect();
            meaning(&answers, &values)
        };
        let told = |octets: [u8; 4]| Ipv4Addr::from(octets);
        assert_eq!(meaning(&[[127, 0, 5, 3]]), Ok(Some(told([127, 0, 5, 3]))));
        assert_eq!(meaning(&[[127, 1, 0, 4]]), Ok(None));
        assert_eq!(meaning(&[]), Ok(None));
        // The set would have them.
        assert_eq!(meaning(&[[127, 0, 0, 255]]), Err(told([127, 0, 0, 255])));
        assert_eq!(meaning(&[[127, 0, 5, 3], [127, 255, 255, 254]]), Err(told([127, 255, 255, 254])));
        assert_eq!(meaning(&[[10, 0, 0, 3]]), Err(told([10, 0, 0, 3])));
    }
}

//! Name servers and lists in the DNS, where anything is asked of them.

use std::net::{IpAddr, Ipv4Addr};

use weir_daemon::finding::Finding;

use crate::config::{CheckMode, Config, DnsList};
use crate::dns::{Answer, Asks, Dns, Kind, is_error, reversed};

const NAMES: &str = "dns";
const LISTS: &str = "dns_lists";

/// Every list of addresses has the first and not the second (RFC 5782 section 5).
const LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const NOT_LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

/// Known to every resolver that works.
const ROOT_SERVER: &str = "a.root-servers.net";

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let envelope = &config.envelope;
    let exist = [envelope.sender_domain_exists, envelope.recipient_domain_exists];
    let wanted = !config.dns.lists.is_empty() || exist.iter().any(|check| *check != CheckMode::Off);
    if !wanted {
        return vec![Finding::skipped(NAMES, "no list is configured, nor a check that a domain exists")];
    }
    let dns = match Dns::new(&config.dns) {
        Ok(dns) => dns,
        Err(error) => return vec![Finding::problem(NAMES, format!("{error:#}"))],
    };
    let mut findings = vec![match dns.ask(ROOT_SERVER, Kind::A).await {
        Answer::Records(_) => Finding::ok(NAMES, "name servers answer"),
        Answer::Nothing { .. } => {
            let words =
                format!("name servers know no {ROOT_SERVER}: they do not look for answers themselves");
            Finding::warning(NAMES, words)
        }
        Answer::Away(cause) => {
            let words =
                format!("no answer ({cause}): no list is heard, and no domain is missing; see dns.servers");
            Finding::problem(NAMES, words)
        }
    }];
    for list in &config.dns.lists {
        findings.push(of_list(list, &dns).await);
    }
    findings
}

async fn of_list(list: &DnsList, dns: &Dns) -> Finding {
    let name = &list.name;
    if list.asks != Asks::Address {
        return Finding::skipped(LISTS, format!("{name}: lists of domains have no test entry"));
    }
    let ask = async |address: Ipv4Addr| {
        let zone = list.zone.trim_end_matches('.');
        dns.ask(&format!("{}.{zone}", reversed(IpAddr::V4(address))), Kind::A).await
    };
    let (listed, other) = (ask(LISTED).await, ask(NOT_LISTED).await);
    if let Answer::Away(cause) = &listed {
        return Finding::problem(LISTS, format!("{name}: no answer ({cause}): nobody is listed"));
    }
    let answers = [&listed, &other].into_iter().flat_map(|answer| match answer {
        Answer::Records(records) => records.iter().filter_map(crate::dns::Record::v4).collect(),
        Answer::Nothing { .. } | Answer::Away(_) => Vec::new(),
    });
    if let Some(error) = answers.into_iter().find(|answer| is_error(*answer)) {
        let words = format!("{name}: it answers with the error {error}: it will not answer this name server");
        return Finding::problem(LISTS, words);
    }
    match (listed, other) {
        (_, Answer::Records(_)) => Finding::problem(
            LISTS,
            format!("{name}: it lists everybody ({NOT_LISTED} is its test for nobody)"),
        ),
        (Answer::Records(_), _) => {
            Finding::ok(LISTS, format!("{name}: has its test entry, and not everybody"))
        }
        _ => Finding::warning(LISTS, format!("{name}: has no test entry {LISTED} (RFC 5782): is it in use?")),
    }
}

#[cfg(test)]
mod tests {
    use weir_daemon::config::parse;

    use super::*;
    use crate::dns::tests::{a, server};

    #[tokio::test]
    async fn lists_are_known_by_their_test_entries() {
        let records = [
            ("a.root-servers.net", a("198.41.0.4")),
            ("2.0.0.127.good.test", a("127.0.0.2")),
            ("2.0.0.127.all.test", a("127.0.0.2")),
            ("1.0.0.127.all.test", a("127.0.0.2")),
            ("2.0.0.127.limit.test", a("127.255.255.254")),
        ];
        let (address, _) = server(&records).await;
        let list = |name: &str| {
            format!(
                "[[dns.lists]]\nname = \"{name}\"\nzone = \"{name}.test\"\nvalues = [\"127.0.0.2\"]\nuse = \"bulk\"\n"
            )
        };
        let smtp = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n";
        let lists = ["good", "all", "limit", "empty"].map(list).concat();
        let text = format!("{smtp}[dns]\nservers = [\"{address}\"]\ntimeout_ms = 300\n{lists}");
        let findings = check(&parse::<Config>("f", &text).unwrap()).await;
        let words: Vec<&str> = findings.iter().map(|finding| finding.words.as_str()).collect();
        assert_eq!(words[0], "name servers answer");
        assert!(words[1].starts_with("good: has its test entry"), "{words:?}");
        assert!(words[2].starts_with("all: it lists everybody"), "{words:?}");
        assert!(words[3].starts_with("limit: it answers with the error 127.255.255.254"), "{words:?}");
        assert!(words[4].starts_with("empty: has no test entry"), "{words:?}");
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let nobody = format!(
            "{smtp}[envelope]\nsender_domain_exists = \"log\"\n[dns]\nservers = [\"{}\"]\ntimeout_ms = 200\n",
            silent.local_addr().unwrap()
        );
        let findings = check(&parse::<Config>("f", &nobody).unwrap()).await;
        assert!(findings[0].words.starts_with("no answer ("), "{findings:?}");
        let findings = check(&parse::<Config>("f", smtp).unwrap()).await;
        assert!(findings[0].words.starts_with("no list is configured"), "{findings:?}");
    }
}

//! Every scanner that is configured, asked as a message would ask it: is it there, does it find what it has to find, and
//! nothing where there is nothing.

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;
use weir_daemon::finding::Finding;

use super::probe::{Kind, message};
use super::signatures;
use crate::config::{Config, Engine};
use crate::scan::clamd::Clamd;
use crate::scan::icap::{Icap, Options};
use crate::scan::rspamd::Rspamd;
use crate::scan::spamd::Spamd;
use crate::scan::{Finding as Found, Report, Sample, ScanError, Scanner};

const SPAMASSASSIN: &str = "spamassassin";
const RULES: &str = "spamassassin_rules";
const RSPAMD: &str = "rspamd";
const CLAMAV: &str = "clamav";
const ICAP: &str = "icap";

/// A scanner that is silent for so long will not do for messages either.
const PATIENCE: Duration = Duration::from_secs(8);

/// Hits on every message that weir shows to a SpamAssassin with weir's configuration (packaging/spamassassin/weir.cf).
const MARK: &str = "WEIR_RULES";

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let (spamassassin, rspamd, clamav, icap) =
        tokio::join!(spamassassin(config), rspamd(config), clamav(config), icap(config));
    [spamassassin, rspamd, clamav, icap].concat()
}

/// What it said, and how long it took.
async fn ask<S: Scanner>(scanner: &S, kind: Kind) -> Result<(S::Found, Duration), String> {
    let message = message(kind);
    let began = Instant::now();
    let found = within(scanner.scan(Sample::new(&message, u64::MAX))).await?;
    Ok((found, began.elapsed()))
}

async fn within<T>(work: impl Future<Output = Result<T, ScanError>>) -> Result<T, String> {
    match timeout(PATIENCE, work).await {
        Ok(answer) => answer.map_err(|cause| cause.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

/// It cannot be asked.
fn away(check: &'static str, whom: impl Display, cause: &str, service: &str) -> Finding {
    let words = format!("{whom}: {cause}; messages are not scanned by it");
    Finding::problem(check, words).mended_by(format!("systemctl restart {service}"))
}

async fn spamassassin(config: &Config) -> Vec<Finding> {
    let Some(section) = &config.spamassassin else {
        return vec![Finding::skipped(SPAMASSASSIN, "not configured")];
    };
    let spamd = Spamd::new(section.address.clone());
    let whom = format!("spamd at {}", section.address);
    let found = match ask(&spamd, Kind::Spam).await {
        Err(cause) => return vec![away(SPAMASSASSIN, whom, &cause, "spamd")],
        Ok((report, _)) if !has(&report, "GTUBE") => {
            let words = format!("{whom} does not know its own test string: it has no rules");
            return vec![
                Finding::problem(SPAMASSASSIN, words).mended_by("sa-update && systemctl restart spamd"),
            ];
        }
        Ok((report, took)) => {
            let words = format!("{whom} gives the test for spam {:.0}, in {took:.1?}", report.score);
            Finding::ok(SPAMASSASSIN, words)
        }
    };
    let rules = match ask(&spamd, Kind::Harmless).await {
        Err(cause) => vec![away(SPAMASSASSIN, whom, &cause, "spamd")],
        Ok((report, _)) => rules(&report),
    };
    [vec![found], rules].concat()
}

/// What can be seen of its configuration in the names of the tests that hit a harmless message.
fn rules(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    let reload = "systemctl restart spamd";
    findings.push(if has(report, MARK) {
        Finding::ok(RULES, "weir's configuration is in force")
    } else {
        let words =
            "weir's configuration is not in force: lists on the network may be asked for every message";
        Finding::warning(RULES, words).mended_by(format!(
            "install -m 0644 packaging/spamassassin/weir.cf /etc/spamassassin/ && {reload}"
        ))
    });
    if has(report, "RDNS_NONE") {
        let words = "RDNS_NONE counts against everybody, for weir looks up no names";
        findings.push(
            Finding::warning(RULES, words)
                .mended_by(format!("echo 'score RDNS_NONE 0' >>/etc/spamassassin/local.cf && {reload}")),
        );
    }
    if has(report, "ALL_TRUSTED") || has(report, "NO_RELAYS") {
        let words = "it trusts the customer's address (ALL_TRUSTED or NO_RELAYS hits): his mail counts as your own; set \
                     trusted_networks to what is really yours";
        findings.push(Finding::warning(RULES, words).mended_by(format!(
            "echo 'trusted_networks 127.0.0.0/8' >>/etc/spamassassin/local.cf && {reload}"
        )));
    }
    if report.score >= 4.0 {
        let words = format!("a harmless message has score {:.1}: {}", report.score, report.symbols);
        findings.push(Finding::warning(RULES, words));
    }
    findings
}

fn has(report: &Report, symbol: &str) -> bool {
    report.symbols.split(',').any(|one| one.trim() == symbol)
}

async fn rspamd(config: &Config) -> Vec<Finding> {
    let Some(section) = &config.rspamd else {
        return vec![Finding::skipped(RSPAMD, "not configured")];
    };
    let rspamd = Rspamd::new(section.address.clone());
    let whom = format!("rspamd at {}", section.address);
    if let Err(cause) = within(rspamd.ping()).await {
        return vec![away(RSPAMD, whom, &cause, "rspamd")];
    }
    vec![match (ask(&rspamd, Kind::Spam).await, ask(&rspamd, Kind::Harmless).await) {
        (Err(cause), _) | (_, Err(cause)) => away(RSPAMD, whom, &cause, "rspamd"),
        (Ok((spam, _)), _) if !has(&spam, "GTUBE") => {
            let words = format!(
                "{whom} does not know the test for spam: gtube_patterns is off, or its rules are not read"
            );
            Finding::problem(RSPAMD, words).mended_by("rspamadm configtest")
        }
        (Ok(_), Ok((harmless, _))) if has(&harmless, "HFILTER_HOSTNAME_UNKNOWN") => {
            let words = format!(
                "{whom}: HFILTER_HOSTNAME_UNKNOWN counts against everybody, for weir looks up no names"
            );
            Finding::warning(RSPAMD, words).mended_by(
                "echo 'symbols { HFILTER_HOSTNAME_UNKNOWN { score = 0.0; } }' >>/etc/rspamd/local.d/hfilter_group.conf && \
                 systemctl restart rspamd",
            )
        }
        (Ok(_), Ok((harmless, _))) if harmless.score >= 4.0 => {
            let words =
                format!("{whom}: a harmless message has score {:.1}: {}", harmless.score, harmless.symbols);
            Finding::warning(RSPAMD, words)
        }
        (Ok((spam, took)), Ok(_)) => {
            let words = format!("{whom} gives the test for spam {:.0}, in {took:.1?}", spam.score);
            Finding::ok(RSPAMD, words)
        }
    }]
}

async fn clamav(config: &Config) -> Vec<Finding> {
    let Some(section) = &config.clamav else {
        return vec![Finding::skipped(CLAMAV, "not configured")];
    };
    let clamd = Clamd::new(section.address.clone());
    let whom = format!("clamd at {}", section.address);
    let version = match within(clamd.say("PING")).await {
        Ok(answer) if answer == "PONG" => within(clamd.say("VERSION")).await,
        Ok(answer) => Err(format!("answers PING with {answer:?}")),
        Err(cause) => Err(cause),
    };
    match version {
        Err(cause) => vec![away(CLAMAV, whom, &cause, "clamav-daemon")],
        Ok(version) => {
            let engine = engine(CLAMAV, &whom, &clamd, "clamav-daemon").await;
            vec![engine, signatures::check(&version, SystemTime::now())]
        }
    }
}

async fn icap(config: &Config) -> Vec<Finding> {
    let Some(section) = &config.icap else {
        return vec![Finding::skipped(ICAP, "not configured")];
    };
    let mut findings = Vec::new();
    for one in &section.engines {
        findings.push(icap_engine(one).await);
    }
    findings
}

async fn icap_engine(one: &Engine) -> Finding {
    let icap = Icap::new(one.address.clone(), one.service.clone());
    let whom = format!("{} at {}/{}", one.name, one.address, one.service);
    match within(icap.options()).await {
        Err(cause) => Finding::problem(ICAP, format!("{whom}: {cause}; messages are not scanned by it")),
        Ok(Options { code: 200, methods, service, .. }) if methods.contains("RESPMOD") => {
            engine(ICAP, &format!("{whom} ({service})"), &icap, &one.name).await
        }
        Ok(Options { code: 200, methods, .. }) => {
            let words =
                format!("{whom} does {methods:?}, and not RESPMOD: it is another service that is wanted");
            Finding::problem(ICAP, words)
        }
        Ok(Options { code, reason, .. }) => {
            let words = format!("{whom} answers OPTIONS with {code} {reason}: is the service's name right?");
            Finding::problem(ICAP, words)
        }
    }
}

/// A virus engine has to find the test file, and nothing in a harmless message.
async fn engine<S>(check: &'static str, whom: &str, scanner: &S, service: &str) -> Finding
where
    S: Scanner<Found = Found>,
{
    match (ask(scanner, Kind::Virus).await, ask(scanner, Kind::Harmless).await) {
        (Err(cause), _) | (_, Err(cause)) => away(check, whom, &cause, service),
        (Ok((Found::Clean, _)), _) => {
            let words = format!(
                "{whom} does not find the test file of virus engines: it has no signatures, or does not look"
            );
            Finding::problem(check, words).mended_by(format!("freshclam && systemctl restart {service}"))
        }
        (Ok(_), Ok((Found::Infected(name), _))) => {
            Finding::problem(check, format!("{whom} finds {name} in a harmless message"))
        }
        (Ok((Found::Infected(name), took)), Ok((Found::Clean, _))) => {
            Finding::ok(check, format!("{whom} finds the test file ({name}), in {took:.1?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_daemon::finding::State;

    use super::*;

    #[test]
    fn the_configuration_is_seen_in_what_hits() {
        let states = |symbols: &str, score| -> Vec<State> {
            let report = Report { score, symbols: symbols.into() };
            rules(&report).iter().map(|finding| finding.state).collect()
        };
        assert_eq!(states("NO_RECEIVED,WEIR_RULES", 0.1), [State::Ok]);
        let warning = State::Warning;
        assert_eq!(states("ALL_TRUSTED,RDNS_NONE", 4.5), [warning, warning, warning, warning]);
    }

    #[tokio::test]
    async fn scanners_that_are_away_are_problems_with_what_mends_them() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n[spamassassin]\naddress = \"{nobody}\"\n\
             [rspamd]\naddress = \"{nobody}\"\n[clamav]\naddress = \"{nobody}\"\n\
             [icap]\nengines = [{{ name = \"one\", address = \"{nobody}\", service = \"avscan\" }}]\n"
        );
        let findings = check(&weir_daemon::config::parse("filter.toml", &text).unwrap()).await;
        let named: Vec<(&str, State)> =
            findings.iter().map(|finding| (finding.check, finding.state)).collect();
        let problem = State::Problem;
        assert_eq!(named, [SPAMASSASSIN, RSPAMD, CLAMAV, ICAP].map(|name| (name, problem)));
        assert!(findings[0].words.contains("cannot connect") && findings[0].command.is_some());
    }
}

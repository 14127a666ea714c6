//! Checks of HELO and envelope: how they are written, and whether their domains exist.

use weir_smtp::envelope::Path;

use crate::config::{CheckMode as Mode, Envelope as Config};
use crate::dns::{Dns, Domain, is_name};
use crate::message::Transaction;

/// Domains of recipients that are looked for.
const MAX_DOMAINS: usize = 50;

/// Octets before and behind the `@` (RFC 5321 section 4.5.3.1).
const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 255;

/// What is checked, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    HeloRequired,
    StrictSyntax,
    SenderFqdn,
    SenderDomainExists,
    RecipientFqdn,
    RecipientDomainExists,
}

impl Check {
    pub const ALL: [Self; 6] = [
        Self::HeloRequired,
        Self::StrictSyntax,
        Self::SenderFqdn,
        Self::SenderDomainExists,
        Self::RecipientFqdn,
        Self::RecipientDomainExists,
    ];

    /// As the configuration has it; with a hyphen it is the rule's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::HeloRequired => "helo-required",
            Self::StrictSyntax => "strict-syntax",
            Self::SenderFqdn => "sender-fqdn",
            Self::SenderDomainExists => "sender-domain-exists",
            Self::RecipientFqdn => "recipient-fqdn",
            Self::RecipientDomainExists => "recipient-domain-exists",
        }
    }

    pub fn mode(self, config: &Config) -> Mode {
        match self {
            Self::HeloRequired => config.helo_required,
            Self::StrictSyntax => config.strict_syntax,
            Self::SenderFqdn => config.sender_fqdn,
            Self::SenderDomainExists => config.sender_domain_exists,
            Self::RecipientFqdn => config.recipient_fqdn,
            Self::RecipientDomainExists => config.recipient_domain_exists,
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub check: Check,
    /// Enhanced status code.
    pub status: &'static str,
    pub text: String,
}

fn fault(check: Check, status: &'static str, text: impl Into<String>) -> Fault {
    Fault { check, status, text: text.into() }
}

/// What is wrong with an envelope as it is written, of what is to be checked.
pub fn written(transaction: &Transaction, config: &Config) -> Vec<Fault> {
    let on = |check: Check| check.mode(config) != Mode::Off;
    let sender = &transaction.envelope.sender.path;
    let mut recipients = transaction.envelope.recipients.iter().map(|recipient| &recipient.path);
    let mut faults = Vec::new();
    if on(Check::HeloRequired) && transaction.customer.helo.as_deref().is_none_or(str::is_empty) {
        faults.push(fault(Check::HeloRequired, "5.5.1", "Say who you are first, with EHLO"));
    }
    if on(Check::StrictSyntax) {
        if !sender.is_null() && !is_mailbox(sender.as_bytes()) {
            let text = "The sender's address is not written as RFC 5321 has it";
            faults.push(fault(Check::StrictSyntax, "5.1.7", text));
        }
        if recipients.clone().any(|path| !is_postmaster(path) && !is_mailbox(path.as_bytes())) {
            let text = "A recipient's address is not written as RFC 5321 has it";
            faults.push(fault(Check::StrictSyntax, "5.1.3", text));
        }
    }
    if on(Check::SenderFqdn) && !sender.is_null() && !is_qualified(sender) {
        faults.push(fault(Check::SenderFqdn, "5.1.7", "The sender's address needs a domain in full"));
    }
    if on(Check::SenderDomainExists) && has_no_domain(sender) {
        faults.push(fault(
            Check::SenderDomainExists,
            "5.1.8",
            "The sender's address has no domain that can exist",
        ));
    }
    if on(Check::RecipientDomainExists) && recipients.clone().any(has_no_domain) {
        let text = "A recipient's address has no domain that can exist";
        faults.push(fault(Check::RecipientDomainExists, "5.1.2", text));
    }
    if on(Check::RecipientFqdn) && recipients.any(|path| !is_postmaster(path) && !is_qualified(path)) {
        faults.push(fault(Check::RecipientFqdn, "5.1.3", "Each recipient's address needs a domain in full"));
    }
    faults
}

/// What is wrong with its domains, of what is to be checked. A domain of which nobody knows is not.
pub async fn looked_up(transaction: &Transaction, config: &Config, dns: &Dns) -> Vec<Fault> {
    let mut domains: Vec<(Check, String)> = Vec::new();
    let envelope = &transaction.envelope;
    if Check::SenderDomainExists.mode(config) != Mode::Off {
        domains.extend(to_look_up(&envelope.sender.path).map(|domain| (Check::SenderDomainExists, domain)));
    }
    if Check::RecipientDomainExists.mode(config) != Mode::Off {
        let mut found: Vec<String> = Vec::new();
        for domain in envelope.recipients.iter().filter_map(|recipient| to_look_up(&recipient.path)) {
            if found.len() < MAX_DOMAINS && !found.contains(&domain) {
                found.push(domain);
            }
        }
        domains.extend(found.into_iter().map(|domain| (Check::RecipientDomainExists, domain)));
    }
    let names: Vec<&str> = domains.iter().map(|(_, domain)| domain.as_str()).collect();
    let states = dns.domains(&names).await;
    let faults = domains.iter().zip(states).filter_map(|((check, domain), state)| {
        let sender = *check == Check::SenderDomainExists;
        let (whose, missing, null) =
            if sender { ("sender", "5.1.8", "5.7.27") } else { ("recipient", "5.1.2", "5.1.10") };
        match state {
            Domain::Exists | Domain::Away => None,
            Domain::Missing => {
                let text = format!("The {whose}'s domain {domain} has neither MX nor address");
                Some(fault(*check, missing, text))
            }
            Domain::NullMx => {
                Some(fault(*check, null, format!("The {whose}'s domain {domain} takes no mail (RFC 7505)")))
            }
        }
    });
    faults.collect()
}

/// None where there is nothing to be looked for: a bounce, an address in brackets, and what [`has_no_domain`].
fn to_look_up(path: &Path) -> Option<String> {
    path.domain().filter(|domain| is_name(domain))
}

/// What stands behind the `@` cannot be a name and is no address in brackets; or there is none, in what needs one.
fn has_no_domain(path: &Path) -> bool {
    let none = path.domain().is_none_or(|domain| !is_name(&domain) && !is_literal(domain.as_bytes()));
    none && !path.is_null() && !is_postmaster(path)
}

/// Without a domain it is every server's own (RFC 5321 section 4.5.1).
fn is_postmaster(path: &Path) -> bool {
    path.as_bytes().eq_ignore_ascii_case(b"postmaster")
}

/// The domain has several labels, the last of which is no number; or it is an address in brackets.
fn is_qualified(path: &Path) -> bool {
    let Some(domain) = path.domain() else { return false };
    if domain.starts_with('[') {
        return is_literal(domain.as_bytes());
    }
    let name = domain.strip_suffix('.').unwrap_or(&domain);
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|octet| octet.is_ascii_digit());
    is_name(name) && name.contains('.') && !number
}

/// `Mailbox` of RFC 5321 section 4.1.2, with the letters of RFC 6531.
fn is_mailbox(path: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(path) else { return false };
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let quoted = local.strip_prefix('"').and_then(|inner| inner.strip_suffix('"'));
    let local_is_fine = match quoted {
        Some(inner) => is_quoted(inner),
        None => local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext)),
    };
    let domain_is_fine =
        if domain.starts_with('[') { is_literal(domain.as_bytes()) } else { is_domain(domain) };
    local.len() <= MAX_LOCAL && domain.len() <= MAX_DOMAIN && local_is_fine && domain_is_fine
}

fn is_atext(one: char) -> bool {
    !one.is_ascii() || one.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(one)
}

/// What stands between the quotes.
fn is_quoted(inner: &str) -> bool {
    let mut characters = inner.chars();
    while let Some(one) = characters.next() {
        let fine = match one {
            '\\' => characters.next().is_some_and(|next| next == ' ' || next.is_ascii_graphic()),
            '"' => false,
            _ => one == ' ' || one.is_ascii_graphic() || !one.is_ascii(),
        };
        if !fine {
            return false;
        }
    }
    true
}

/// Labels of letters, digits and hyphens, these not at an end; no dot at the end.
fn is_domain(domain: &str) -> bool {
    let inside = |one: char| !one.is_ascii() || one.is_ascii_alphanumeric() || one == '-';
    let label = |label: &str| !label.starts_with('-') && !label.ends_with('-') && label.chars().all(inside);
    is_name(domain) && !domain.ends_with('.') && domain.split('.').all(label)
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3).
fn is_literal(domain: &[u8]) -> bool {
    let inner = domain.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let Some(inner) = inner.and_then(|inner| std::str::from_utf8(inner).ok()) else { return false };
    match inner.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => {
            address.parse::<std::net::Ipv6Addr>().is_ok()
        }
        _ => inner.parse::<std::net::Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_smtp::envelope::Mailbox;

    use super::*;
    use crate::dns::tests::{a, asking, asking_briefly, mx, server};
    use crate::scan::tests::message;

    fn mailbox(path: &str) -> Mailbox {
        Mailbox { path: Path::new(path.as_bytes()), parameters: Vec::new() }
    }

    fn transaction(helo: Option<&str>, sender: &str, recipients: &[&str]) -> Transaction {
        let mut transaction = message().transaction;
        transaction.customer.helo = helo.map(str::to_owned);
        transaction.envelope.sender = mailbox(sender);
        transaction.envelope.recipients = recipients.iter().map(|path| mailbox(path)).collect();
        transaction
    }

    const ALL: Config = Config {
        helo_required: Mode::Reject,
        strict_syntax: Mode::Reject,
        sender_fqdn: Mode::Log,
        sender_domain_exists: Mode::Reject,
        recipient_fqdn: Mode::Reject,
        recipient_domain_exists: Mode::Reject,
    };

    fn found(transaction: &Transaction, config: &Config) -> Vec<(Check, &'static str)> {
        written(transaction, config).iter().map(|fault| (fault.check, fault.status)).collect()
    }

    #[test]
    fn each_check_finds_its_fault_where_it_is_on() {
        let fine = transaction(Some("h"), "a@example.org", &["b@example.net", "Postmaster", "c@[10.1.0.2]"]);
        assert_eq!(found(&fine, &ALL), []);
        let bounce = transaction(Some("h"), "", &["b@example.net"]);
        assert_eq!(found(&bounce, &ALL), []);
        let bad = transaction(None, "a", &["b@localhost", "@x:c@example.net"]);
        let expected = [
            (Check::HeloRequired, "5.5.1"),
            (Check::StrictSyntax, "5.1.7"),
            (Check::StrictSyntax, "5.1.3"),
            (Check::SenderFqdn, "5.1.7"),
            (Check::SenderDomainExists, "5.1.8"),
            (Check::RecipientFqdn, "5.1.3"),
        ];
        assert_eq!(found(&bad, &ALL), expected);
        assert_eq!(found(&bad, &Config::default()), []);
        for (check, status) in expected {
            let mut one = Config::default();
            match check {
                Check::HeloRequired => one.helo_required = Mode::Log,
                Check::StrictSyntax => one.strict_syntax = Mode::Log,
                Check::SenderFqdn => one.sender_fqdn = Mode::Log,
                Check::SenderDomainExists => one.sender_domain_exists = Mode::Log,
                _ => one.recipient_fqdn = Mode::Log,
            }
            assert!(found(&bad, &one).contains(&(check, status)), "{check:?}");
            assert!(found(&bad, &one).iter().all(|(found, _)| *found == check), "{check:?}");
        }
    }

    #[test]
    fn what_can_have_no_domain_has_none_that_exists() {
        let domains = Config {
            sender_domain_exists: Mode::Reject,
            recipient_domain_exists: Mode::Reject,
            ..Config::default()
        };
        for path in ["root", "x@", "x@.", "x@a..b", "x@a b", "x@[x]", "x@[IPv6:1]", "@"] {
            let faults = found(&transaction(None, path, &["b@example.org", path]), &domains);
            let expected = [(Check::SenderDomainExists, "5.1.8"), (Check::RecipientDomainExists, "5.1.2")];
            assert_eq!(faults, expected, "{path}");
        }
        let mut octets = transaction(None, "", &["b@example.org"]);
        octets.envelope.sender.path = Path::new(&b"x@\xff.example"[..]);
        assert_eq!(found(&octets, &domains), [(Check::SenderDomainExists, "5.1.8")]);
        for path in
            ["", "Postmaster", "x@a_b.example", "x@org", "x@[192.0.2.1]", "x@[IPv6:::1]", "x@bücher.example"]
        {
            assert_eq!(found(&transaction(None, path, &["b@example.org", path]), &domains), [], "{path}");
        }
    }

    #[test]
    fn what_is_a_mailbox() {
        for path in [
            "a@b",
            "a.b+c@example.org",
            "\"a b\\\"@\"@example.org",
            "\"\"@example.org",
            "jürgen@bücher.example",
            "a@[192.0.2.1]",
            "a@[IPv6:2001:db8::1]",
            "o'neil/x=y@ex-ample.org",
        ] {
            assert!(is_mailbox(path.as_bytes()), "{path}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for path in [
            "",
            "a",
            "@b",
            "a@",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a b@c",
            "a@b@c",
            "a@-b.example",
            "a@b-.example",
            "a@b.example.",
            "a@b..example",
            "a@b_c.example",
            "<a@b>",
            "a@[192.0.2]",
            "a@[IPv6:1]",
            "a@[x",
            "\"a\"b\"@c",
            "\"a\\\"@c",
            "\"@c",
            "@x:a@b",
            "a(x)@b",
            "a,b@c",
            &long,
        ] {
            assert!(!is_mailbox(path.as_bytes()), "{path}");
        }
        assert!(!is_mailbox(b"\xff@b"));
    }

    #[test]
    fn what_is_qualified() {
        for path in ["a@example.org", "a@example.org.", "a@[192.0.2.1]", "a@xn--bcher-kva.example"] {
            assert!(is_qualified(&Path::new(path)), "{path}");
        }
        for path in ["a", "a@localhost", "a@192.0.2.1", "a@.org", "a@org.", "a@[x]", ""] {
            assert!(!is_qualified(&Path::new(path)), "{path}");
        }
    }

    #[tokio::test]
    async fn domains_that_are_not_there_are_told_from_those_nobody_knows() {
        let records = [("there.example", a("192.0.2.1")), ("null.example", mx("."))];
        let (address, _) = server(&records).await;
        let dns = asking(address);
        let looked_up = async |dns: &Dns, sender: &str, recipients: &[&str]| {
            let faults = looked_up(&transaction(None, sender, recipients), &ALL, dns).await;
            faults.into_iter().map(|fault| (fault.status, fault.text)).collect::<Vec<_>>()
        };
        assert_eq!(looked_up(&dns, "a@there.example", &["b@there.example", "c@[10.1.0.2]"]).await, []);
        let brief = asking_briefly(address);
        assert_eq!(looked_up(&brief, "", &["postmaster", "b@silent.example", "c@broken.example"]).await, []);
        let faults = looked_up(&dns, "a@null.example", &["b@there.example", "c@gone.example"]).await;
        assert_eq!(
            faults,
            [
                ("5.7.27", "The sender's domain null.example takes no mail (RFC 7505)".to_owned()),
                ("5.1.2", "The recipient's domain gone.example has neither MX nor address".to_owned()),
            ]
        );
        let off = Config::default();
        let gone = transaction(None, "a@gone.example", &["b@gone.example"]);
        assert_eq!(super::looked_up(&gone, &off, &dns).await, []);
    }

    #[tokio::test]
    async fn no_more_domains_are_looked_for_than_there_may_be() {
        let (address, asked) = server(&[]).await;
        let dns = asking(address);
        let recipients: Vec<String> = (0..200).map(|number| format!("r@{number}.example")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let faults = looked_up(&transaction(None, "", &recipients), &ALL, &dns).await;
        assert_eq!(faults.len(), MAX_DOMAINS);
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), MAX_DOMAINS);
    }

    proptest! {
        #[test]
        fn no_path_panics(path in prop::collection::vec(any::<u8>(), 0..60), like in "[a\"\\\\@.\\[\\]:1-]{0,20}") {
            for path in [Path::new(path), Path::new(like)] {
                let transaction = Transaction {
                    envelope: weir_smtp::Envelope {
                        sender: Mailbox { path: path.clone(), parameters: Vec::new() },
                        recipients: vec![Mailbox { path: path.clone(), parameters: Vec::new() }],
                    },
                    ..message().transaction
                };
                written(&transaction, &ALL);
                // What is written as it should be has a local part and a domain.
                prop_assert!(!is_mailbox(path.as_bytes()) || path.domain().is_some());
            }
        }
    }
}

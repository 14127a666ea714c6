//! Service extensions (RFC 5321 section 2.2): which EHLO keywords of a destination a customer gets to see.
//!
//! The table is an allow-list. A keyword is offered only when everything it promises is relayed; one
//! that is not in the table is withheld.

use crate::envelope::{Mailbox, Parameter};
use crate::reply::Reply;

/// One EHLO keyword.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    pub keyword: &'static str,
    pub relayed: bool,
    /// Parameters that the extension adds to MAIL.
    pub mail: &'static [&'static str],
    /// Parameters that the extension adds to RCPT.
    pub rcpt: &'static [&'static str],
    /// What relaying it needs, or why it is withheld.
    pub reason: &'static str,
}

const fn relayed(
    keyword: &'static str,
    mail: &'static [&'static str],
    rcpt: &'static [&'static str],
    reason: &'static str,
) -> Rule {
    Rule { keyword, relayed: true, mail, rcpt, reason }
}

const fn withheld(keyword: &'static str, reason: &'static str) -> Rule {
    Rule { keyword, relayed: false, mail: &[], rcpt: &[], reason }
}

/// What decides besides the table.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The agent's own limit in octets.
    pub max_size: u64,
    /// The agent's own limits of recipients in a message and messages in a session.
    pub max_recipients: u64,
    pub max_messages: u64,
    /// AUTH may be offered: nobody would send a password in clear who would not have without the agent.
    pub auth: bool,
    /// Every filter node takes BINARYMIME, in chunks.
    pub binary: bool,
}

/// Every keyword that was decided on.
pub const RULES: &[Rule] = &[
    relayed("8BITMIME", &["BODY"], &[], "RFC 6152: the body is passed on octet by octet"),
    relayed(
        "AUTH",
        &["AUTH"],
        &[],
        "RFC 4954: only where the destination offers no STARTTLS, or the operator wants it: a password would \
         travel in clear where it would not have without the agent",
    ),
    relayed(
        "BINARYMIME",
        &["BODY"],
        &[],
        "RFC 3030 section 3: only with CHUNKING, and only where every filter node announces both: a message that \
         DATA cannot carry must find a node that can judge it",
    ),
    relayed(
        "CHUNKING",
        &[],
        &[],
        "RFC 3030: chunks go to filter nodes that take them as chunks, and to the destination as one chunk after \
         the verdict; for other nodes a message that DATA cannot carry exactly is refused",
    ),
    relayed(
        "DELIVERBY",
        &["BY"],
        &[],
        "RFC 2852: passed on verbatim; the destination counts from MAIL, which it hears before the verdict",
    ),
    relayed("DSN", &["RET", "ENVID"], &["NOTIFY", "ORCPT"], "RFC 3461: parameters are passed on verbatim"),
    relayed("ENHANCEDSTATUSCODES", &[], &[], "RFC 2034: the destination's replies are passed on verbatim"),
    relayed("EXPN", &[], &[], "RFC 5321 section 4.1.1.7: the command is relayed"),
    relayed(
        "FUTURERELEASE",
        &["HOLDFOR", "HOLDUNTIL"],
        &[],
        "RFC 4865: passed on verbatim; the message is judged when it is handed in, and held by the destination",
    ),
    relayed("HELP", &[], &[], "RFC 5321 section 4.1.1.8: the command is relayed"),
    relayed(
        "LIMITS",
        &[],
        &[],
        "RFC 9422: RCPTMAX and MAILMAX are the smaller of the destination's and the agent's, others as they are",
    ),
    relayed(
        "MT-PRIORITY",
        &["MT-PRIORITY"],
        &[],
        "RFC 6710: passed on verbatim; the agent has no queue in which one message could overtake another",
    ),
    relayed("MTRK", &["MTRK"], &[], "RFC 3885: passed on verbatim; tracking begins at the destination"),
    relayed("NO-SOLICITING", &["SOLICIT"], &[], "RFC 3865: passed on verbatim"),
    relayed("PIPELINING", &[], &[], "RFC 2920: commands and replies keep their order"),
    relayed("RRVS", &[], &["RRVS"], "RFC 7293: passed on verbatim, the destination checks it"),
    relayed("SIZE", &["SIZE"], &[], "RFC 1870: the smaller of the destination's limit and the agent's"),
    relayed("SMTPUTF8", &["SMTPUTF8"], &[], "RFC 6531: paths and body are passed on octet by octet"),
    relayed("SUBMITTER", &["SUBMITTER"], &[], "RFC 4405: passed on verbatim, the destination checks it"),
    relayed("VRFY", &[], &[], "RFC 5321 section 4.1.1.6: the command is relayed"),
    withheld("ATRN", "RFC 2645: turns the session round, no message could be judged"),
    withheld("BURL", "RFC 4468: the body would not pass through the filter"),
    withheld("CHECKPOINT", "RFC 1845: a message that is taken up in its middle could not be judged whole"),
    withheld("CONNEG", "RFC 4141: the body would be converted after the destination said what it can show"),
    withheld("CONPERM", "RFC 4141: others could change the body after it was judged"),
    withheld("ETRN", "RFC 1985: starts deliveries outside the session"),
    withheld("PRDR", "no RFC: a reply for each recipient after the body, while there is one verdict on all"),
    withheld("REQUIRETLS", "RFC 8689: the customer's side has no TLS"),
    withheld("SAML", "RFC 821 section 3.4: obsolete, writes to a terminal"),
    withheld("SEND", "RFC 821 section 3.4: obsolete, writes to a terminal"),
    withheld("SOML", "RFC 821 section 3.4: obsolete, writes to a terminal"),
    withheld("STARTTLS", "RFC 3207: a message in TLS could not be judged"),
    withheld("TURN", "RFC 821 section 3.8: turns the session round, no message could be judged"),
    withheld("UTF8SMTP", "RFC 5336: obsolete, and its ALT-ADDRESS was never used"),
    withheld("XCLIENT", "nobody but the agent says who the customer is"),
    withheld("XFORWARD", "nobody but the agent says who the customer is"),
];

/// Extensions whose parameters a filter node is told. Others are between customer and destination: a node that
/// knows them would judge by what it could do itself, or act on them.
const TOLD_TO_NODES: [&str; 5] = ["8BITMIME", "BINARYMIME", "DSN", "SIZE", "SMTPUTF8"];

/// What a server announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions {
    keywords: Vec<(String, Vec<u8>)>,
}

impl Extensions {
    /// From the 250 reply to EHLO; its first line is the server's greeting.
    pub fn from_reply(reply: &Reply) -> Self {
        Self { keywords: reply.lines().skip(1).filter_map(split_keyword).collect() }
    }

    pub fn has(&self, keyword: &str) -> bool {
        self.parameters(keyword).is_some()
    }

    /// What stands behind a keyword.
    pub fn parameters(&self, keyword: &str) -> Option<&[u8]> {
        self.keywords.iter().find(|(name, _)| name == keyword).map(|(_, rest)| rest.as_slice())
    }

    /// The limit of RFC 1870. `None`: there is none, or none is said.
    pub fn size(&self) -> Option<u64> {
        let digits = std::str::from_utf8(self.parameters("SIZE")?).ok()?;
        digits.parse().ok().filter(|size| *size > 0)
    }
}

/// What a customer was offered of it.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    rules: Vec<&'static Rule>,
}

impl Offer {
    /// The destination's EHLO reply with only what is relayed, and the keywords left in it.
    pub fn from_reply(reply: &Reply, terms: Terms) -> (Self, Reply) {
        let announced = Extensions::from_reply(reply);
        let mut rules = Vec::new();
        let mut lines: Vec<Vec<u8>> = reply.lines().take(1).map(<[u8]>::to_vec).collect();
        for line in reply.lines().skip(1) {
            let Some(rule) = split_keyword(line).and_then(|(keyword, _)| rule(&keyword)) else { continue };
            let met = match rule.keyword {
                "AUTH" => terms.auth,
                "BINARYMIME" => terms.binary && announced.has("CHUNKING"),
                _ => true,
            };
            if !rule.relayed || rules.contains(&rule) || !met {
                continue;
            }
            rules.push(rule);
            lines.push(match rule.keyword {
                "SIZE" => {
                    let size = announced.size().map_or(terms.max_size, |size| size.min(terms.max_size));
                    format!("SIZE {size}").into_bytes()
                }
                "LIMITS" => limits(line, terms),
                _ => line.to_vec(),
            });
        }
        let shown = Reply::from_lines(reply.code(), lines).unwrap_or_else(|| reply.clone());
        (Self { rules }, shown)
    }

    pub fn has(&self, keyword: &str) -> bool {
        self.rules.iter().any(|rule| rule.keyword == keyword)
    }

    /// The first parameter of MAIL that no offered extension defines.
    pub fn unknown_in_mail<'a>(&self, sender: &'a Mailbox) -> Option<&'a Parameter> {
        self.unknown(sender, |rule| rule.mail)
    }

    /// The first parameter of RCPT that no offered extension defines.
    pub fn unknown_in_rcpt<'a>(&self, recipient: &'a Mailbox) -> Option<&'a Parameter> {
        self.unknown(recipient, |rule| rule.rcpt)
    }

    fn unknown<'a>(
        &self,
        mailbox: &'a Mailbox,
        defined: impl Fn(&Rule) -> &'static [&'static str],
    ) -> Option<&'a Parameter> {
        let known = |parameter: &Parameter| {
            // The value BINARYMIME of BODY belongs to an extension of its own (RFC 3030 section 3).
            let binary = parameter.is("BODY") && mailbox.is_binary();
            self.rules.iter().any(|rule| defined(rule).iter().any(|keyword| parameter.is(keyword)))
                && (!binary || self.has("BINARYMIME"))
        };
        mailbox.parameters.iter().find(|parameter| !known(parameter))
    }
}

/// LIMITS (RFC 9422) with what the agent allows, where that is less.
fn limits(line: &[u8], terms: Terms) -> Vec<u8> {
    let own = [("MAILMAX", terms.max_messages), ("RCPTMAX", terms.max_recipients)];
    let limit = |word: &[u8]| {
        let (name, value) = std::str::from_utf8(word).ok()?.split_once('=')?;
        let (_, own) = own.iter().find(|(own, _)| name.eq_ignore_ascii_case(own))?;
        Some(format!("{name}={}", value.parse::<u64>().ok()?.min(*own)).into_bytes())
    };
    let words = line.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
    let mut shown: Vec<Vec<u8>> = words.map(|word| limit(word).unwrap_or_else(|| word.to_vec())).collect();
    for (name, own) in own {
        let said = |word: &Vec<u8>| word.to_ascii_uppercase().starts_with(format!("{name}=").as_bytes());
        if !shown.iter().any(said) {
            shown.push(format!("{name}={own}").into_bytes());
        }
    }
    shown.join(&b' ')
}

fn rule(keyword: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.keyword == keyword)
}

/// The parameters of `mailbox` that a server with these extensions understands, to be said to it.
pub fn understood(mailbox: &Mailbox, announced: &Extensions) -> Vec<Parameter> {
    let known = |parameter: &&Parameter| {
        let relevant = |rule: &&Rule| TOLD_TO_NODES.contains(&rule.keyword) && announced.has(rule.keyword);
        RULES
            .iter()
            .filter(relevant)
            .any(|rule| rule.mail.iter().chain(rule.rcpt).any(|keyword| parameter.is(keyword)))
    };
    mailbox.parameters.iter().filter(known).cloned().collect()
}

fn split_keyword(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let line = line.trim_ascii();
    // Old servers announce `AUTH=LOGIN` with an equals sign.
    let end = line.iter().position(|octet| matches!(octet, b' ' | b'=')).unwrap_or(line.len());
    let keyword = std::str::from_utf8(&line[..end]).ok()?.to_ascii_uppercase();
    let rest = line.get(end + 1..).unwrap_or_default().trim_ascii().to_vec();
    (!keyword.is_empty()).then_some((keyword, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;

    fn ehlo(keywords: &str) -> Reply {
        Reply::new(250, format!("mx.example greets you\n{keywords}"))
    }

    fn terms(max_size: u64) -> Terms {
        Terms { max_size, max_recipients: 100, max_messages: 20, auth: false, binary: false }
    }

    #[test]
    fn auth_is_offered_on_terms() {
        let reply = ehlo("AUTH PLAIN LOGIN\nAUTH=PLAIN");
        let (offer, shown) = Offer::from_reply(&reply, Terms { auth: true, ..terms(1) });
        assert!(offer.has("AUTH"));
        assert_eq!(shown.lines().nth(1).unwrap(), b"AUTH PLAIN LOGIN");
        assert_eq!(shown.lines().count(), 2);
        assert!(!Offer::from_reply(&reply, terms(1)).0.has("AUTH"));
        let announced = Extensions::from_reply(&reply);
        assert_eq!(understood(&mailbox("MAIL FROM:<a@b> AUTH=<>"), &announced), []);
    }

    fn mailbox(line: &str) -> Mailbox {
        match Command::parse(line.as_bytes()) {
            Ok(Command::Mail(mailbox) | Command::Rcpt(mailbox)) => mailbox,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn starttls_and_unknown_keywords_are_withheld_and_the_rest_is_as_it_was() {
        let reply = ehlo("PIPELINING\nSIZE 1000\nStartTLS\nX-NEW\nAUTH PLAIN\nAUTH=PLAIN\n8bitmime\nBURL");
        let (offer, shown) = Offer::from_reply(&reply, terms(10_000));
        assert_eq!(
            shown.to_bytes(),
            b"250-mx.example greets you\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8bitmime\r\n"
        );
        assert!(offer.has("8BITMIME") && !offer.has("STARTTLS"));
    }

    #[test]
    fn the_smaller_size_is_offered() {
        for (announced, offered) in [("SIZE", "50"), ("SIZE 0", "50"), ("SIZE 49", "49"), ("SIZE 51", "50")] {
            let (_, shown) = Offer::from_reply(&ehlo(announced), terms(50));
            assert_eq!(shown.lines().nth(1).unwrap(), format!("SIZE {offered}").as_bytes(), "{announced}");
        }
        let (offer, shown) = Offer::from_reply(&ehlo("HELP"), terms(50));
        assert!(!offer.has("SIZE"));
        assert_eq!(shown.lines().count(), 2);
    }

    #[test]
    fn binary_is_offered_with_chunking_where_every_node_takes_it() {
        let offered = |keywords: &str, binary| {
            Offer::from_reply(&ehlo(keywords), Terms { binary, ..terms(1) }).0.has("BINARYMIME")
        };
        assert!(offered("BINARYMIME\nCHUNKING", true));
        assert!(!offered("BINARYMIME\nCHUNKING", false));
        assert!(!offered("BINARYMIME", true));
    }

    #[test]
    fn the_smaller_limits_are_offered() {
        for (announced, offered) in [
            ("LIMITS RCPTMAX=200 MAILMAX=10", "LIMITS RCPTMAX=100 MAILMAX=10"),
            ("limits mailmax=21 RCPTDOMAINMAX=1", "limits mailmax=20 RCPTDOMAINMAX=1 RCPTMAX=100"),
            ("LIMITS", "LIMITS MAILMAX=20 RCPTMAX=100"),
            ("LIMITS RCPTMAX=all MAILMAX=", "LIMITS RCPTMAX=all MAILMAX="),
        ] {
            let (_, shown) = Offer::from_reply(&ehlo(announced), terms(50));
            assert_eq!(shown.lines().nth(1).unwrap(), offered.as_bytes());
        }
    }

    #[test]
    fn parameters_of_what_was_not_offered_are_unknown() {
        let (offer, _) = Offer::from_reply(&ehlo("SIZE\nDSN\nREQUIRETLS"), terms(50));
        assert_eq!(offer.unknown_in_mail(&mailbox("MAIL FROM:<a@b> size=3 RET=HDRS")), None);
        let mail = mailbox("MAIL FROM:<a@b> SIZE=3 REQUIRETLS");
        assert_eq!(offer.unknown_in_mail(&mail).unwrap().as_bytes(), b"REQUIRETLS");
        assert!(offer.unknown_in_mail(&mailbox("MAIL FROM:<a@b> NOTIFY=NEVER")).is_some());
        assert_eq!(offer.unknown_in_rcpt(&mailbox("RCPT TO:<a@b> NOTIFY=NEVER")), None);
        let (offer, _) = Offer::from_reply(&ehlo("8BITMIME\nBINARYMIME"), terms(50));
        assert_eq!(offer.unknown_in_mail(&mailbox("MAIL FROM:<a@b> BODY=7bit")), None);
        assert!(offer.unknown_in_mail(&mailbox("MAIL FROM:<a@b> BODY=binarymime")).is_some());
    }

    #[test]
    fn a_filter_node_hears_only_what_it_announced() {
        let announced = Extensions::from_reply(&ehlo("SIZE\n8BITMIME"));
        let sender = mailbox("MAIL FROM:<a@b> SIZE=3 RET=HDRS BODY=8BITMIME SMTPUTF8");
        let said: Vec<_> = understood(&sender, &announced).iter().map(|p| p.as_bytes().to_vec()).collect();
        assert_eq!(said, [b"SIZE=3".to_vec(), b"BODY=8BITMIME".to_vec()]);
    }

    #[test]
    fn the_table_is_sorted_and_gives_a_reason_for_everything() {
        for half in [true, false] {
            let keywords: Vec<_> = RULES.iter().filter(|r| r.relayed == half).map(|r| r.keyword).collect();
            assert!(keywords.is_sorted(), "{keywords:?}");
        }
        assert!(RULES.iter().all(|rule| !rule.reason.is_empty()));
    }
}

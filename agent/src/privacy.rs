//! Everything that an agent stores of people: `docs/privacy-agent.md` is generated from this, and tests compare it with
//! the files as they are.

use weir_daemon::privacy::{self, Place, field, sections};

const TRACE: &str = "to see what became of it";
const ABUSE: &str = "to answer complaints and find who sends spam";
const SAME: &str = "the same";
const RULE: &str = "to do what was said, also after a restart";

const MESSAGES: Place = Place {
    title: "Log lines (`message relayed`, one a message)",
    place: "standard error, which systemd's journal takes",
    kept: "the journal's business (journald.conf, `MaxRetentionSec=`)",
    deleted: "with the journal: `journalctl --vacuum-time=`",
    fields: &[
        field("timestamp", "when, UTC", TRACE),
        field("level", "`INFO`", SAME),
        field("message", "`message relayed`", SAME),
        field("target", "the part of the program", SAME),
        field("id", "the id that agent and node share", TRACE),
        field("customer", "the customer's IP address and port", ABUSE),
        field("destination", "the destination's", TRACE),
        field("helo", "what the customer's server calls itself", ABUSE),
        field("recipients", "number of recipients", TRACE),
        field("size", "octets", TRACE),
        field("bare_lf", "number of line ends that are none", TRACE),
        field("bare_cr", SAME, TRACE),
        field("mode", "where it is not `enforce`", TRACE),
        field("verdict", "accept, defer or reject", TRACE),
        field("outcome", "what became of it", TRACE),
        field("reason", "why, if something failed", TRACE),
        field("fault", "whose failure it was", TRACE),
        field("tls", "how it went to the destination, where TLS is spoken", TRACE),
        field("node", "address of the filter node", TRACE),
        field(
            "filter_reply",
            "what the node said, with `[address]` for mail addresses unless `log.addresses` is set",
            TRACE,
        ),
        field("reply", "what the destination said, in the same way", TRACE),
        field("node_failures", "nodes that failed, and how", TRACE),
        field("suspect", "whether he makes nodes fail", TRACE),
        field("duration_ms", "milliseconds", "to find what is slow"),
    ],
};

const RULES: Place = Place {
    title: "Exemptions and blocks by command (`policy.json`, fields of a rule)",
    place: "`state.directory`, and the kernel's tables",
    kept: "until the rule is over: what `weir-agent exempt` and `block` say, or `relay.wanted_tls`",
    deleted: "`weir-agent unexempt`, `weir-agent unblock`",
    fields: &[
        field("kind", "what rule it is", RULE),
        field("customer", "address of a customer whose mail to one destination goes past weir", RULE),
        field("destination", "and of the destination", RULE),
        field("prefix", "of customers, or of destinations", RULE),
        field("refusal", "how one who is blocked is turned away", RULE),
        field("until", "when it is over", "to end it then"),
        field("by", "an operator, or the agent itself", RULE),
        field("reason", "as the operator said it", RULE),
    ],
};

const REFUSALS: Place = Place {
    title: "Customers who were refused lately (`refusals.json`, fields of an entry)",
    place: "`state.directory`; only with `relay.wanted_tls = \"exempt\"`",
    kept: "a day after the last refusal",
    deleted: "stop the agent, remove the file",
    fields: &[
        field("source", "IPv4 address or IPv6 /64", "who was refused is not let past because he wants TLS"),
        field("until", "when it is over", "to forget it then"),
    ],
};

const NODE_BLOCKS: Place = Place {
    title: "Blocks by filter nodes (`node-blocks.json`, fields of an entry)",
    place: "`state.directory`; only with `[filter.channel]`",
    kept: "until the block is over, as the node says",
    deleted: "`weir-filter unblock`, at the node",
    fields: &[
        field("node", "whose block it is", RULE),
        field("who", "the customer, as the provider names him, or a prefix", RULE),
        field("prefixes", "his addresses", RULE),
        field("until", "when it is over", "to end it then"),
        field("text", "what he is told", RULE),
    ],
};

const AUDIT: Place = Place {
    title: "Audit log (`agent-audit.jsonl`, fields of a line)",
    place: "`state.directory`: a line for each command that changes something (`exempt`, `block`, `mode`, `drain`, `release` and \
            their undoing), written before it is done. One that cannot be written is in the agent's log, and done all the same",
    kept: "as long as the operator keeps the file: it only grows, and weir never removes it; purging the package does",
    deleted: "by the operator, with the file",
    fields: privacy::AUDIT,
};

const PLACES: [Place; 5] = [MESSAGES, RULES, REFUSALS, NODE_BLOCKS, AUDIT];

/// `docs/privacy-agent.md`.
pub fn document() -> String {
    HEAD.to_owned() + &sections(&PLACES)
}

const HEAD: &str = "# What weir-agent stores of people

What the filter nodes store: [privacy.md](privacy.md). A model notice to customers: [privacy-notice.md](privacy-notice.md).

Nothing of a message: its body is in memory, or in a file without a name below `spool.directory`, until its verdict and the
destination's reply, and gone with the process. Sender and recipients are in memory while the session lasts, and written nowhere.

In memory only, until the agent ends: who wanted TLS and where (`weir-agent status`), who sent most in the last minute (`weir-agent
top`), who sent line ends that are none, and who made nodes fail; addresses of customers and destinations, and counts. The kernel's
tables have the addresses and ports of open connections, and customers' addresses with the number of their connections; they go
with the agent, or with `weir-agent cleanup`.

Besides the line for each message (below) log lines tell of sessions that are turned away, of destinations that mask their banner, and of exemptions, blocks and
modes as they begin and end: with addresses or prefixes of customers and destinations, and the operator's reason.

A customer who is not to be intercepted at all is named in `customers.exempt`: nothing of his is stored here, and his packets are not
looked at beyond their addresses and ports.
";

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde::de::DeserializeOwned;
    use weir_daemon::reference::check_generated;

    use super::{PLACES, document};

    /// What serde says that there could be in place of `?` in this.
    fn expected<T: DeserializeOwned>(text: &str) -> BTreeSet<String> {
        let error = serde_json::from_str::<T>(text).err().unwrap().to_string();
        let (_, expected) = error.split_once("expected").unwrap();
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// That the page has the fields of what is in a file, of every `kind` where there are kinds, and no others.
    pub(crate) fn describes<T: DeserializeOwned>(file: &str) {
        let place = PLACES.iter().find(|place| place.title.contains(&format!("`{file}`"))).unwrap();
        let mut described: BTreeSet<String> = place.names().into_iter().map(str::to_owned).collect();
        let fields: BTreeSet<String> = if described.remove("kind") {
            let kinds = expected::<T>(r#"{"kind":"?"}"#);
            kinds.iter().flat_map(|kind| expected::<T>(&format!(r#"{{"kind":"{kind}","?":0}}"#))).collect()
        } else {
            expected::<T>(r#"{"?":0}"#)
        };
        assert_eq!(fields, described, "{file}");
    }

    #[test]
    fn the_document_is_what_is_stored() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/privacy-agent.md");
        check_generated(&path, &document()).unwrap();
    }
}

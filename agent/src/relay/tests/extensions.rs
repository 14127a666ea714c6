//! The documentation's table of extensions.

use std::fmt::Write;
use std::path::Path;

use weir_daemon::reference;
use weir_smtp::extension::RULES;

#[test]
fn the_documentation_has_the_table() {
    let mut text = String::from(
        "# Service extensions\n\n\
         What a customer gets to see of a destination's answer to EHLO: the table that the agent works with\n\
         (`smtp/src/extension.rs`), written by its tests; do not edit. A keyword that is not in it is withheld.\n\n\
         | keyword | offered | parameters of MAIL | of RCPT | reason |\n|---|---|---|---|---|\n",
    );
    for rule in RULES {
        let offered = if rule.relayed { "yes" } else { "no" };
        let (mail, rcpt) = (rule.mail.join(", "), rule.rcpt.join(", "));
        let _ = writeln!(text, "| {} | {offered} | {mail} | {rcpt} | {} |", rule.keyword, rule.reason);
    }
    text.push_str(
        "\nA destination's offer is shown with its lines in their order. The first answer to EHLO does not count where \
         TLS with\nthe destination comes about: the customer sees the second.\n",
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/extensions.md");
    reference::check_generated(&path, &text).unwrap();
}

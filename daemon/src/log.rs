//! Logs on standard error: one JSON object a line, or text for people.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Json,
    Text,
}

/// What stands in place of a mail address in a text.
const ADDRESS: &str = "[address]";

/// Whether log lines have mail addresses that others wrote.
static ADDRESSES: AtomicBool = AtomicBool::new(false);

/// From now on log lines have the mail addresses that others wrote, or not.
pub fn show_addresses(shown: bool) {
    ADDRESSES.store(shown, Relaxed);
}

/// What another machine said, as it is logged.
pub fn said(text: impl Display) -> String {
    let text = text.to_string();
    if ADDRESSES.load(Relaxed) { text } else { without_addresses(&text) }
}

/// Every word that holds a mail address is replaced as a whole, for nobody knows where in it the address ends.
pub fn without_addresses(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(without_address).collect()
}

/// `word`: with the white space behind it. Where it ends with an `@`, it may have been cut there.
fn without_address(word: &str) -> String {
    let bare = word.trim_end();
    match bare.rfind('@') {
        Some(1..) => format!("{ADDRESS}{}", word.get(bare.len()..).unwrap_or_default()),
        Some(0) | None => word.to_owned(),
    }
}

/// Starts logging; `RUST_LOG` selects by level and module, the default is `info`. A second call
/// changes nothing.
pub fn init(format: Format) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Err means that logging has been started before.
    let _ = match format {
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
        Format::Text => lines.with_ansi(false).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::without_addresses;

    #[test]
    fn addresses_are_replaced_and_nothing_else() {
        for (text, without) in [
            ("550 <r@example.net>: no such user\r\n", "550 [address] no such user\r\n"),
            ("a\t\"x y\"@example.net,b@c  d@", "a\t\"x [address]  [address]"),
            ("<@relay.example:r@example.net> gone", "[address] gone"),
            ("5.1.1 [r\u{e4}t@example.net] no", "5.1.1 [address] no"),
            ("only @ sign, or @example.net; a. b", "only @ sign, or @example.net; a. b"),
            ("", ""),
        ] {
            assert_eq!(without_addresses(text), without);
        }
    }
}

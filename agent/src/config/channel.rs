//! `[filter.channel]`: what the agent and filter nodes say to each other beside mail.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;
use weir_daemon::http::Uri;

/// A slow channel to the nodes beside mail, over HTTP: who is blocked (`weir-filter block`) is fetched, what destinations
/// answered is reported. Their side is `[channel]` of weir-filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Where the nodes listen for it, each `http://address:port`, or `https`. Whoever is blocked on any of them is blocked; what a node
    /// said last holds while it is away.
    #[schemars(example = ["http://10.3.0.11:10026", "http://10.3.0.12:10026"])]
    pub nodes: Vec<String>,
    /// A file with the secret that agents and nodes share: a line of 32 characters or more, as
    /// `openssl rand -hex 32` makes it, that others than its owner and group cannot read. Read at the start.
    #[schemars(example = &"/etc/weir/channel.token")]
    pub token_file: PathBuf,
    /// For `https`: a file in PEM with the authorities that the nodes' certificates must be signed by; as `filter.tls.ca_file`. A
    /// certificate must be made out to the address or name in `nodes`.
    pub ca_file: Option<PathBuf>,
}

/// Each costs two connections.
const MAX_NODES: usize = 64;

pub(super) fn check(channel: &Channel, problems: &mut Problems) {
    if channel.nodes.is_empty() || channel.nodes.len() > MAX_NODES {
        problems.add(
            "filter.channel.nodes",
            format!("names {} nodes; accepted: 1 to {MAX_NODES}", channel.nodes.len()),
        );
    }
    for (index, url) in channel.nodes.iter().enumerate() {
        let key = format!("filter.channel.nodes[{index}]");
        let uri: Option<Uri> = url.parse().ok();
        let plain = uri.as_ref().is_some_and(|uri| uri.host().is_some() && matches!(uri.path(), "" | "/"));
        match uri.as_ref().and_then(Uri::scheme_str) {
            Some("http") if plain => {}
            Some("https") if plain && channel.ca_file.is_some() => {}
            Some("https") if plain => {
                problems.add("filter.channel.ca_file", "is missing: whose certificates are trusted?");
            }
            _ => problems.add(&key, "must be http://address:port or https://address:port"),
        }
        if channel.nodes[..index].contains(url) {
            problems.add(&key, "is named twice");
        }
    }
    if !channel.token_file.is_absolute() {
        problems.add("filter.channel.token_file", "must be an absolute path");
    }
    if channel.ca_file.as_ref().is_some_and(|file| !file.is_absolute()) {
        problems.add("filter.channel.ca_file", "must be an absolute path");
    }
}

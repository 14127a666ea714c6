//! What the operator can ask of a running node, over the control socket.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use weir_daemon::audit::Actor;

use crate::blocks::Who;
use crate::rate::{Away, Moment, Shown};
use crate::serve::Node;
use crate::status::status;

/// Counts in one answer, at most.
const MAX_SHOWN: usize = 10_000;

/// The longest that counts are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request, as it is on the socket: `{"request": "customer_changed", "address": ...}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status {},
    /// The address is another customer's from now on.
    CustomerChanged {
        address: IpAddr,
    },
    /// The keys with most.
    RatesTop {
        #[serde(default)]
        namespace: Option<String>,
        limit: usize,
    },
    /// What is counted for these keys and beneath them.
    RatesShow {
        keys: Vec<String>,
    },
    /// Drops what is counted for these keys and beneath them.
    RatesClear {
        #[serde(default)]
        namespace: Option<String>,
        keys: Vec<String>,
    },
    /// Refuses this customer's or prefix's mail for so many seconds, here and at the agents.
    Block {
        who: Who,
        seconds: u64,
        #[serde(default)]
        reason: String,
    },
    Unblock {
        who: Who,
    },
    Blocks {},
}

impl Request {
    /// As it is sent.
    pub fn to_json(&self) -> Value {
        json!(self)
    }

    /// What it is called in the audit log; questions that change nothing are not in it.
    fn action(&self) -> Option<&'static str> {
        match self {
            Self::Status {} | Self::RatesTop { .. } | Self::RatesShow { .. } | Self::Blocks {} => None,
            Self::CustomerChanged { .. } => Some("customer-changed"),
            Self::RatesClear { .. } => Some("rates clear"),
            Self::Block { .. } => Some("block"),
            Self::Unblock { .. } => Some("unblock"),
        }
    }
}

/// What is counted for these keys, and how good their mail has been.
async fn shown(node: &Node, keys: &[String], now: Moment) -> Result<Vec<Shown>, Away> {
    let counters = node.policy.counters();
    let mut shown = Vec::new();
    for key in keys {
        if let Some(reputation) = &node.reputation {
            shown.extend(reputation.shown(counters, key, now).await?);
        }
    }
    shown.extend(counters.show(keys, MAX_SHOWN, now).await?);
    shown.truncate(MAX_SHOWN);
    Ok(shown)
}

/// For what may ask other machines. Others who ask wait meanwhile.
fn wait<T>(work: impl Future<Output = Result<T, Away>>) -> Result<T, Away> {
    let in_time = async { tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(Away)) };
    tokio::runtime::Handle::current().block_on(in_time)
}

/// The answer; an error is what the operator is told. May block. `listen` are the addresses listened on.
///
/// # Errors
/// If the request is none, or cannot be fulfilled.
pub fn answer(node: &Node, listen: &[String], request: &Value, actor: Actor) -> Result<Value, String> {
    let asked = Request::deserialize(request).map_err(|error| error.to_string())?;
    if let Some(action) = asked.action() {
        node.audit.require(actor, action, request)?;
    }
    let (counters, now) = (node.policy.counters(), node.clock.now());
    match asked {
        Request::Status {} => Ok(status(node, listen)),
        Request::Block { who, seconds, reason } => {
            let (customers, duration) = (&node.customers, Duration::from_secs(seconds));
            let blocked = node.blocks.block(customers, &who, duration, &reason, "operator");
            blocked.map_err(|error| error.to_string())?;
            let told = node.blocks.for_agents(customers).blocks;
            let prefixes = told.into_iter().find(|block| block.who == who.to_string());
            Ok(json!({ "who": who, "prefixes": prefixes.map(|block| block.prefixes) }))
        }
        Request::Unblock { who } => {
            node.blocks.unblock(&who).map_err(|error| error.to_string())?;
            Ok(json!({ "who": who }))
        }
        Request::Blocks {} => Ok(node.blocks.list(&node.customers)),
        Request::CustomerChanged { address } => {
            node.customer_changed(address);
            tracing::info!(%address, "another customer's from now on: its counts are dropped");
            Ok(json!({ "address": address }))
        }
        Request::RatesTop { namespace, limit } => {
            let top = counters.top(namespace.as_deref(), limit.min(MAX_SHOWN), now);
            Ok(json!(wait(top).map_err(|away| away.to_string())?))
        }
        Request::RatesShow { keys } => {
            let shown = wait(shown(node, &keys, now)).map_err(|away| away.to_string())?;
            Ok(json!(shown))
        }
        Request::RatesClear { namespace, keys } => {
            let cleared = counters.clear(namespace.as_deref(), &keys);
            tracing::info!(namespace, cleared, "counts cleared by an operator");
            Ok(json!({ "cleared": cleared }))
        }
    }
}

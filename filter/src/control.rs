//! What the operator can ask of a running node, over the control socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::serve::Node;
use crate::status::status;

/// A request, as it is on the socket: `{"request": "customer_changed", "address": ...}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status {},
    /// The address is another customer's from now on.
    CustomerChanged {
        address: IpAddr,
    },
}

impl Request {
    /// As it is sent.
    pub fn to_json(&self) -> Value {
        json!(self)
    }
}

/// The answer; an error is what the operator is told. May block. `listen` are the addresses listened on.
///
/// # Errors
/// If the request is none, or cannot be fulfilled.
pub fn answer(node: &Node, listen: &[String], request: &Value) -> Result<Value, String> {
    match Request::deserialize(request).map_err(|error| error.to_string())? {
        Request::Status {} => Ok(status(node, listen)),
        Request::CustomerChanged { address } => {
            node.customer_changed(address);
            tracing::info!(%address, "another customer's from now on: its counts are dropped");
            Ok(json!({ "address": address }))
        }
    }
}

//! A message as it was received.

use std::net::{IpAddr, SocketAddr};

use weir_smtp::Envelope;
use weir_smtp::data::Findings;
use weir_smtp::xclient::Protocol;

use crate::body::Body;

/// Who the customer is and whom he meant to reach, as the proxy said with XCLIENT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    pub address: IpAddr,
    pub port: Option<u16>,
    /// What he said in EHLO or HELO; none if the proxy does not know.
    pub helo: Option<String>,
    pub protocol: Option<Protocol>,
    pub destination: Option<Destination>,
}

/// Where the customer's connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// One mail transaction, from MAIL to the end of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The agent's id of the message, or one made here.
    pub id: String,
    pub customer: Customer,
    pub envelope: Envelope,
    pub findings: Findings,
}

/// A transaction with its body.
#[derive(Debug)]
pub struct Message {
    pub transaction: Transaction,
    pub body: Body,
}

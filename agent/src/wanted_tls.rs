//! Who would have used TLS: a customer that asked for STARTTLS, or left after EHLO without it, where the
//! destination offers it. Such mail is stuck while the pair is intercepted, so the operator must see it.

use std::net::IpAddr;

use serde::Serialize;

use crate::top::Top;

#[derive(Debug, Default)]
pub struct WantedTls(Top<(IpAddr, IpAddr)>);

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    pub customer: IpAddr,
    pub destination: IpAddr,
    pub sessions: u64,
}

impl WantedTls {
    pub fn note(&self, customer: IpAddr, destination: IpAddr) {
        self.0.note((customer, destination));
    }

    /// The pairs with the most sessions, most first.
    pub fn top(&self) -> Vec<Pair> {
        let pair = |((customer, destination), sessions)| Pair { customer, destination, sessions };
        self.0.top().into_iter().map(pair).collect()
    }
}

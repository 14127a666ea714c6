//! Who would have used TLS: a customer that asked for STARTTLS, or left after EHLO without it, where the
//! destination offers it. Such mail is stuck while the pair is intercepted, so the operator must see it; and where
//! `relay.wanted_tls` says so, the pair is exempted without him.

use std::net::IpAddr;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::steer;
use crate::top::Top;

#[derive(Debug, Default)]
pub struct WantedTls {
    seen: Top<(IpAddr, IpAddr)>,
    /// Who exempts them.
    tell: Option<mpsc::Sender<steer::Pair>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    pub customer: IpAddr,
    pub destination: IpAddr,
    pub sessions: u64,
}

impl WantedTls {
    /// Tells of each session as well. What the receiver has no room for is told with the pair's next session.
    pub fn telling(tell: mpsc::Sender<steer::Pair>) -> Self {
        Self { seen: Top::default(), tell: Some(tell) }
    }

    pub fn note(&self, customer: IpAddr, destination: IpAddr) {
        if let (Some(tell), Some(pair)) = (&self.tell, steer::Pair::new(customer, destination)) {
            let _ = tell.try_send(pair);
        }
        self.seen.note((customer, destination));
    }

    /// The pairs with the most sessions, most first.
    pub fn top(&self) -> Vec<Pair> {
        let pair = |((customer, destination), sessions)| Pair { customer, destination, sessions };
        self.seen.top().into_iter().map(pair).collect()
    }
}

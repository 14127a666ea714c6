//! What is known of a message while it is judged. What costs time is found out when first asked
//! for, and once.

use crate::body::Body;
use crate::customers::{Customer, Identity, Owner};
use crate::message::{Message, Transaction};
use crate::scan::{Results, Scanned, Scanners};

#[derive(Debug)]
pub struct Facts<'m> {
    message: &'m Message,
    owner: Owner,
    results: Results<'m>,
}

impl<'m> Facts<'m> {
    pub fn new(message: &'m Message, scanners: &'m Scanners) -> Self {
        Self { message, owner: Owner::default(), results: Results::new(message, scanners) }
    }

    pub fn transaction(&self) -> &Transaction {
        &self.message.transaction
    }

    pub fn body(&self) -> &Body {
        &self.message.body
    }

    /// Whose address the customer's is, as far as it is known.
    #[must_use]
    pub fn with_owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Who the provider knows the customer as.
    pub fn customer(&self) -> Option<&Customer> {
        self.owner.customer.as_deref()
    }

    /// Who is always limited, whatever else the message says of itself.
    pub fn identity(&self) -> Identity {
        self.owner.identity(self.message.transaction.customer.address)
    }

    /// Whether this node has this scanner.
    pub fn has_scanner(&self, name: &str) -> bool {
        self.results.scanners().has(name)
    }

    /// What scanners say of it.
    pub fn results(&self) -> &Results<'m> {
        &self.results
    }

    /// SpamAssassin's report; asks it now if nobody did before.
    pub async fn spamassassin(&self) -> &Scanned {
        self.results.spamassassin().await
    }

    /// Nobody is to look at the message: no scanner is asked.
    #[must_use]
    pub fn closed(self) -> Self {
        Self { results: self.results.closed(), ..self }
    }

    /// What SpamAssassin said before, in place of asking it: messages that are judged again, and tests.
    #[must_use]
    pub fn with_spamassassin(self, scanned: Scanned) -> Self {
        Self { results: self.results.with_spamassassin(scanned), ..self }
    }

    /// SpamAssassin's report if it was asked.
    pub fn spamassassin_if_known(&self) -> Option<&Scanned> {
        self.results.spamassassin_if_known()
    }
}

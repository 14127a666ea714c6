//! What is known of a message while it is judged. What costs time is found out when first asked
//! for, and once.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::blocks::Blocker;
use crate::body::Body;
use crate::content::Opened;
use crate::customers::{Customer, Identity, Owner};
use crate::files::{Files, MAX_DEPTH};
use crate::inside::Inside;
use crate::message::{Message, Transaction};
use crate::outbreak::Finding;
use crate::outside::Outside;
use crate::quarantine::Quarantine;
use crate::rate::Moment;
use crate::reputation::Reputation;
use crate::scan::{Results, Scanned, Scanners};

#[derive(Debug)]
pub struct Facts<'m> {
    message: &'m Message,
    owner: Owner,
    results: Results<'m>,
    inside: Option<&'m Inside>,
    outside: Option<&'m Outside>,
    quarantine: Option<&'m Quarantine>,
    blocker: Option<&'m Blocker>,
    reputation: Option<&'m Reputation>,
    /// Nobody is to look at what the customer writes.
    closed: bool,
    content: OnceCell<Arc<Opened>>,
    files: OnceCell<Files>,
    /// By the depth that was asked for.
    files_to: [OnceCell<Files>; MAX_DEPTH + 1],
    outbreak: OnceCell<Option<Finding>>,
}

impl<'m> Facts<'m> {
    pub fn new(message: &'m Message, scanners: &'m Scanners) -> Self {
        Self {
            message,
            owner: Owner::default(),
            results: Results::new(message, scanners),
            inside: None,
            outside: None,
            quarantine: None,
            blocker: None,
            reputation: None,
            closed: false,
            content: OnceCell::new(),
            files: OnceCell::new(),
            files_to: Default::default(),
            outbreak: OnceCell::new(),
        }
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

    /// Lets the inside of the message be looked at.
    #[must_use]
    pub fn with_inside(self, inside: &'m Inside) -> Self {
        Self { inside: Some(inside), ..self }
    }

    /// Lets a sample of it be taken.
    #[must_use]
    pub fn with_quarantine(self, quarantine: Option<&'m Quarantine>) -> Self {
        Self { quarantine, ..self }
    }

    /// Where a sample of it goes, if there are samples.
    pub fn quarantine(&self) -> Option<&'m Quarantine> {
        self.quarantine
    }

    /// Lets policy block whoever sends it.
    #[must_use]
    pub fn with_blocker(self, blocker: &'m Blocker) -> Self {
        Self { blocker: Some(blocker), ..self }
    }

    pub fn blocker(&self) -> Option<&'m Blocker> {
        self.blocker
    }

    /// Lets policy ask for the reputation of whoever sends it.
    #[must_use]
    pub fn with_reputation(self, reputation: Option<&'m Reputation>) -> Self {
        Self { reputation, ..self }
    }

    /// None where there are no reputations.
    pub fn reputation(&self) -> Option<&'m Reputation> {
        self.reputation
    }

    /// What can be asked of its inside, by whoever may look.
    pub fn inside(&self) -> Option<&'m Inside> {
        self.inside
    }

    /// Lets others be asked about it.
    #[must_use]
    pub fn with_outside(self, outside: &'m Outside) -> Self {
        Self { outside: Some(outside), ..self }
    }

    /// Who can be asked about it.
    pub fn outside(&self) -> Option<&'m Outside> {
        self.outside
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Its headers and parts. None where nobody may look.
    pub async fn content(&self) -> Option<&Arc<Opened>> {
        let inside = self.inside.filter(|_| !self.closed && self.results.spared().is_none())?;
        Some(self.content.get_or_init(|| inside.read(self.message)).await)
    }

    /// Its files, archives opened.
    pub async fn files(&self) -> Option<&Files> {
        let (inside, content) = (self.inside?, self.content().await?);
        Some(self.files.get_or_init(|| inside.files(self.message, Arc::clone(content))).await)
    }

    /// Whether others send it too. Counts it, once. None if that is not known.
    pub async fn outbreak(&self, now: Moment) -> Option<&Finding> {
        let (inside, content) = (self.inside?, self.content().await?);
        let customer = self.customer().map(|customer| customer.id.as_str());
        let count = || inside.outbreak(self.message, Arc::clone(content), customer, now);
        self.outbreak.get_or_init(count).await.as_ref()
    }

    /// What was found out about others who send it, if somebody asked.
    pub fn outbreak_if_known(&self) -> Option<&Finding> {
        self.outbreak.get()?.as_ref()
    }

    /// What scanners say of it.
    pub fn results(&self) -> &Results<'m> {
        &self.results
    }

    /// SpamAssassin's report; asks it now if nobody did before.
    pub async fn spamassassin(&self) -> &Scanned {
        self.results.spamassassin().await
    }

    /// Files in archives within each other up to this depth, [`MAX_DEPTH`] at most.
    pub async fn files_to(&self, depth: usize) -> Option<&Files> {
        let (inside, content) = (self.inside?, self.content().await?);
        let depth = depth.min(MAX_DEPTH);
        let look = || inside.inspector().look_to(&self.transaction().id, Arc::clone(content), depth);
        Some(self.files_to.get(depth)?.get_or_init(look).await)
    }

    /// Nobody is to look at the message: no scanner is asked.
    #[must_use]
    pub fn closed(self) -> Self {
        Self { results: self.results.closed(), closed: true, ..self }
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

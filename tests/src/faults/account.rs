//! What the customers know against what the destination has: the laws of mail.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::customer::Heard;
use crate::fault::Fault;
use crate::load::{Open, Sent};
use crate::sink::Taken;

/// A fault has effects for so long after it was ended: senders wait for their next retransmission.
const AFTERMATH: Duration = Duration::from_secs(5);

/// So many examples of a broken law are shown.
const EXAMPLES: usize = 10;

/// A fault that was, by the load's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Happened {
    pub(crate) fault: Fault,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
}

/// How it all came out.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) messages: usize,
    pub(crate) octets: u64,
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    pub(crate) deferred: u64,
    pub(crate) connections_lost: u64,
    /// Tries after which only the destination knew whether it had the message.
    pub(crate) left_open: usize,
    pub(crate) duplicates: BTreeMap<String, usize>,
    pub(crate) lost: usize,
    pub(crate) refused_but_delivered: usize,
    pub(crate) altered: usize,
    pub(crate) wrongly_refused: usize,
    pub(crate) unexplained_duplicates: usize,
    pub(crate) unfinished: usize,
    /// Of broken laws.
    pub(crate) examples: Vec<String>,
}

impl Account {
    pub(crate) fn of(sent: &[Sent], taken: &[Taken], happened: &[Happened]) -> Self {
        let mut by_message: HashMap<usize, Vec<&Taken>> = HashMap::new();
        for taken in taken {
            by_message.entry(taken.by.message).or_default().push(taken);
        }
        let mut account = Self::default();
        for sent in sent {
            let taken = by_message.remove(&sent.message).unwrap_or_default();
            account.message(sent, &taken, happened);
        }
        for (message, _) in by_message {
            account.altered += 1;
            account.example(format!("the destination has message {message}, which nobody sent"));
        }
        account
    }

    pub(crate) fn broken(&self) -> usize {
        self.lost
            + self.refused_but_delivered
            + self.altered
            + self.wrongly_refused
            + self.unexplained_duplicates
            + self.unfinished
    }

    fn message(&mut self, sent: &Sent, taken: &[&Taken], happened: &[Happened]) {
        self.messages += 1;
        self.octets += sent.size;
        self.deferred += u64::from(sent.deferred);
        self.connections_lost += u64::from(sent.lost);
        self.left_open += sent.open.len();
        let whole = |taken: &&&Taken| taken.digest == sent.digest && taken.size == sent.size;
        let altered = taken.len() - taken.iter().filter(whole).count();
        if altered > 0 {
            self.altered += altered;
            self.example(format!("message {} arrived altered: {taken:?}", sent.message));
        }
        let acknowledged = match &sent.last {
            Some((number, Heard::Acknowledged)) => {
                self.acknowledged += 1;
                Some(*number)
            }
            Some((_, heard)) => {
                self.refused += 1;
                if !sent.to_be_refused {
                    self.wrongly_refused += 1;
                    self.example(format!("message {} was refused: {heard:?}", sent.message));
                }
                None
            }
            None => {
                self.unfinished += 1;
                self.example(format!("message {} has neither been taken nor refused", sent.message));
                None
            }
        };
        if sent.to_be_refused && (!taken.is_empty() || acknowledged.is_some()) {
            self.refused_but_delivered += 1;
            self.example(format!("message {} is one that the filter refuses: {sent:?}", sent.message));
        }
        if let Some(number) = acknowledged
            && !taken.iter().any(|taken| taken.by.number == number)
        {
            self.lost += 1;
            self.example(format!("message {} was acknowledged and is not there: {sent:?}", sent.message));
        }
        self.tries(sent, taken, acknowledged, happened);
    }

    /// Every copy that no 250 stands for must have its reason.
    fn tries(&mut self, sent: &Sent, taken: &[&Taken], acknowledged: Option<u32>, happened: &[Happened]) {
        let mut seen = BTreeSet::new();
        for taken in taken {
            let number = taken.by.number;
            // One try brings one copy, however it went.
            let first = seen.insert(number);
            if first && acknowledged == Some(number) {
                continue;
            }
            let open = sent.open.iter().find(|open| first && open.number == number);
            let reason = open.and_then(|open| reason(open, happened));
            match reason {
                Some(reason) => *self.duplicates.entry(reason).or_default() += 1,
                None => {
                    self.unexplained_duplicates += 1;
                    self.example(format!(
                        "try {number} of message {} was delivered, and nothing explains it: {sent:?}",
                        sent.message
                    ));
                }
            }
        }
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text);
        }
    }
}

/// What the customer heard, and what had lost the answer: of the faults that can, the last one to begin before.
fn reason(open: &Open, happened: &[Happened]) -> Option<String> {
    let deferred = matches!(open.heard, Heard::Deferred { .. });
    let at_the_time = happened.iter().filter(|happened| {
        let possible = if deferred {
            happened.fault.can_cut_the_agent_off()
        } else {
            happened.fault.can_cut_the_customer_off()
        };
        possible && happened.began <= open.ended && open.began <= happened.ended + AFTERMATH
    });
    let fault = at_the_time.max_by_key(|happened| happened.began)?.fault;
    let heard = match &open.heard {
        Heard::Deferred { .. } => "the customer heard 421",
        _ => "the customer heard nothing",
    };
    Some(format!("{heard}; {fault}"))
}

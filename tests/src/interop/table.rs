//! The results as a page of the documentation.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::difference::{ALLOWED, Difference};
use super::{Case, Customer, Destination};

/// What came of the messages from one customer to one destination.
#[derive(Debug)]
pub struct Outcome {
    pub customer: Customer,
    pub destination: Destination,
    pub cases: Vec<Case>,
    /// Messages that the destination took.
    pub taken: usize,
    pub differences: Vec<&'static Difference>,
}

const HEAD: &str = "\
# Interoperability

Written by `make test-all`; do not edit. `make test` does a part of it in which every two of customer, destination and
message meet.

Each customer sends each message to each destination twice: straight, and through weir. What both said is
read from the customer's wire and compared octet by octet; only the differences listed below are allowed. What the
destination gets through weir is compared with what the customer sent, and must be the same. The address that the
destination sees is the customer's. Nobody uses TLS, so that it can be read.

Messages: ";

/// The page.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut page = HEAD.to_owned();
    page += &Case::ALL.map(Case::name).join(", ");
    page += ".\n\n| from \\ to |";
    for destination in Destination::ALL {
        page += &format!(" {} |", destination.name());
    }
    page += "\n|---|---|---|---|---|\n";
    for customer in Customer::ALL {
        page += &format!("| {} |", customer.name());
        for destination in Destination::ALL {
            let here =
                |outcome: &&Outcome| outcome.customer == customer && outcome.destination == destination;
            page += &outcomes.iter().find(here).map_or(" not run |".to_owned(), cell);
        }
        page.push('\n');
    }
    page += "\nEach field: messages with the same transcript / messages taken by the destination, without weir and \
             through it alike; the differences met.\n\n| | difference | reason |\n|---|---|---|\n";
    for (number, difference) in ALLOWED.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| {} | {} | {} |", letter(number), difference.name, difference.reason);
    }
    page += "\nmsmtp and nullmailer send a message to nobody when one of its recipients is refused: with weir as \
             without it.\n";
    page
}

fn cell(outcome: &Outcome) -> String {
    let names: BTreeSet<_> = outcome.differences.iter().map(|difference| difference.name).collect();
    let letters: Vec<_> = (0..ALLOWED.len())
        .filter(|number| names.contains(ALLOWED[*number].name))
        .map(|number| letter(number).to_string())
        .collect();
    format!(" {} / {}: {} |", outcome.cases.len(), outcome.taken, letters.join(" "))
}

fn letter(number: usize) -> char {
    char::from(b'a' + u8::try_from(number).unwrap_or(25))
}

//! Whose messages have an LF without CR or a CR without LF: programs that are broken, or that try to smuggle.

use std::net::IpAddr;

use serde::Serialize;

use crate::relay::record::Record;
use crate::source::Source;
use crate::top::Top;

#[derive(Debug, Default)]
pub struct BareLineEnds {
    lf: Top<Source>,
    cr: Top<Source>,
}

/// Customers with the most such messages, most first.
#[derive(Debug, Serialize)]
pub struct Customers {
    pub bare_lf: Vec<Customer>,
    pub bare_cr: Vec<Customer>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Customer {
    pub customer: String,
    pub messages: u64,
}

impl BareLineEnds {
    pub fn note(&self, customer: IpAddr, record: &Record) {
        for (table, found) in [(&self.lf, record.bare_lf), (&self.cr, record.bare_cr)] {
            if found > 0 {
                table.note(Source::of(customer));
            }
        }
    }

    pub fn top(&self) -> Customers {
        let customer =
            |(source, messages): (Source, u64)| Customer { customer: source.to_string(), messages };
        let of = |table: &Top<Source>| table.top().into_iter().map(customer).collect();
        Customers { bare_lf: of(&self.lf), bare_cr: of(&self.cr) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_customers_are_told_apart_by_their_64() {
        let shown = |address: &str| Source::of(address.parse().unwrap()).to_string();
        assert_eq!(shown("10.1.0.2"), "10.1.0.2");
        assert_eq!(shown("::ffff:10.1.0.2"), "10.1.0.2");
        assert_eq!(shown("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    }
}

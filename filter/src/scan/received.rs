//! The header lines that a mail server would have added before a scanner sees the message. They are
//! put into the scanner's copy only: without them it knows neither the customer's address nor the
//! reverse-path, and looks neither up.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use weir_smtp::xclient::Protocol;

use crate::message::Transaction;

/// Longer names are cut: they come from the customer.
const MAX_NAME: usize = 255;

/// Return-Path and Received, in the form in which Postfix writes them.
pub(super) fn lines(transaction: &Transaction, now: SystemTime) -> String {
    let customer = &transaction.customer;
    let sender = plain(transaction.envelope.sender.path.as_bytes(), b"<>");
    let helo = customer.helo.as_deref().map_or_else(String::new, |helo| plain(helo.as_bytes(), b"()<>[]; "));
    let helo = if helo.is_empty() { "unknown".to_string() } else { helo };
    let address = match customer.address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("IPv6:{address}"),
    };
    let protocol = customer.protocol.unwrap_or(Protocol::Esmtp).name();
    let id = plain(transaction.id.as_bytes(), b"()<>[]; ");
    format!(
        "Return-Path: <{sender}>\r\n\
         Received: from {helo} (unknown [{address}])\r\n\
         \tby weir-filter (Postfix) with {protocol} id {id};\r\n\
         \t{}\r\n",
        date(now)
    )
}

/// Only what can't end the line or change its meaning.
pub(super) fn plain(text: &[u8], excluded: &[u8]) -> String {
    let octets = text.iter().take(MAX_NAME).filter(|octet| !excluded.contains(octet));
    octets.map(|octet| if (b' '..=b'~').contains(octet) { char::from(*octet) } else { '?' }).collect()
}

/// A date as RFC 5322 section 3.3 writes it, in UTC.
pub(crate) fn date(now: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Years that begin on 1 March put the leap day last; eras of 400 years are all alike.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    let name = |names: &[&'static str], index: u64| {
        usize::try_from(index).ok().and_then(|at| names.get(at)).copied()
    };
    format!(
        "{}, {day} {} {year} {:02}:{:02}:{:02} +0000",
        name(&DAYS, days % 7).unwrap_or_default(),
        name(&MONTHS, month).unwrap_or_default(),
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{date, lines};
    use crate::scan::tests::transaction;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(at(1_709_251_199), "Thu, 29 Feb 2024 23:59:59 +0000");
        assert_eq!(at(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 +0000");
    }

    #[test]
    fn a_customer_cannot_add_lines_or_another_address() {
        let mut transaction = transaction();
        transaction.customer.helo = Some("evil (unknown [1.2.3.4])\r\nX-Spam: no".into());
        transaction.id = "a; b\r\nc".into();
        let text = lines(&transaction, UNIX_EPOCH);
        assert_eq!(
            text,
            "Return-Path: <s@example.org>\r\n\
             Received: from evilunknown1.2.3.4??X-Spam:no (unknown [10.1.0.2])\r\n\
             \tby weir-filter (Postfix) with ESMTP id ab??c;\r\n\
             \tThu, 1 Jan 1970 00:00:00 +0000\r\n"
        );
    }
}

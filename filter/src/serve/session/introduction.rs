//! What comes before mail: EHLO, STARTTLS, and by XCLIENT and XFORWARD whose mail it is.

use weir_smtp::Reply;
use weir_smtp::xclient::{ATTRIBUTES, REPEATED, Xclient};
use weir_smtp::xforward::{IDENT, Xforward};

use super::{Mode, Output, Session};
use crate::message::{Customer, Destination};

/// What becomes of STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    Off,
    Offered,
    /// In clear nothing is said of customers, and no mail is taken.
    Required,
}

impl Session {
    pub(super) fn hello(&mut self, name: &[u8], extended: bool) -> Reply {
        self.reset();
        self.greeted = true;
        if let Some(customer) = &mut self.customer
            && customer.helo.is_none()
        {
            customer.helo = Some(text(name));
        }
        let own = &self.settings.name;
        if !extended {
            return Reply::new(250, own);
        }
        let size = self.settings.max_message_size;
        let mut text = format!(
            "{own}\nPIPELINING\nSIZE {size}\n8BITMIME\nBINARYMIME\nCHUNKING\nSMTPUTF8\nDSN\nENHANCEDSTATUSCODES"
        );
        if self.settings.starttls != StartTls::Off && !self.secured {
            text += "\nSTARTTLS";
        }
        // Where XCLIENT is announced a proxy may say it at once, and the customer's address with it.
        if !self.wants_tls() {
            text += &format!("\nXCLIENT {ATTRIBUTES}\n{REPEATED}\nXFORWARD {IDENT}");
        }
        Reply::new(250, text)
    }

    pub(super) fn wants_tls(&self) -> bool {
        self.settings.starttls == StartTls::Required && !self.secured
    }

    /// None where the answer is already given.
    pub(super) fn starttls(&mut self, last: bool) -> Option<Reply> {
        if self.settings.starttls == StartTls::Off {
            return Some(Reply::enhanced(502, "5.5.1", "not offered"));
        }
        if self.secured {
            return Some(Reply::enhanced(503, "5.5.1", "TLS is on already"));
        }
        if self.mail.is_some() {
            return Some(Reply::enhanced(503, "5.5.1", "STARTTLS inside a mail transaction"));
        }
        self.mode = Mode::Handshake;
        // Else the caller goes on with what is behind it, which ends the session.
        if last {
            self.write(&Reply::enhanced(220, "2.0.0", "ready for TLS"));
            self.outputs.push_back(Output::StartTls);
        }
        None
    }

    pub(super) fn secured(&mut self) {
        if !matches!(self.mode, Mode::Handshake) {
            return;
        }
        self.forget_customer();
        self.mode = Mode::Commands;
        self.secured = true;
        self.errors = 0;
    }

    /// As after connect.
    fn forget_customer(&mut self) {
        self.reset();
        self.customer = None;
        self.greeted = false;
    }

    pub(super) fn xclient(&mut self, arguments: &[u8]) -> Reply {
        if self.wants_tls() {
            return tls_first();
        }
        if self.transaction().is_some() {
            return Reply::enhanced(503, "5.5.1", "XCLIENT inside a mail transaction");
        }
        // Whatever comes of it: nothing that follows is mail of the customer before.
        self.forget_customer();
        let said = match Xclient::parse(arguments) {
            Ok(said) => said,
            Err(error) => return Reply::enhanced(501, "5.5.4", error.to_string()),
        };
        let Some(address) = said.address else {
            return Reply::enhanced(501, "5.5.4", "XCLIENT without ADDR: whose mail is it?");
        };
        self.customer = Some(Customer {
            address,
            port: said.port,
            helo: said.helo.map(|helo| text(&helo)),
            protocol: said.protocol,
            destination: said
                .destination_address
                .map(|address| Destination { address, port: said.destination_port }),
        });
        self.greeting()
    }

    pub(super) fn xforward(&mut self, arguments: &[u8]) -> Reply {
        if self.wants_tls() {
            return tls_first();
        }
        if self.transaction().is_some() {
            return Reply::enhanced(503, "5.5.1", "XFORWARD inside a mail transaction");
        }
        match Xforward::parse(arguments) {
            Ok(said) => {
                self.ident = said.ident.map(|ident| text(&ident)).or(self.ident.take());
                Reply::enhanced(250, "2.0.0", "ok")
            }
            Err(error) => Reply::enhanced(501, "5.5.4", error.to_string()),
        }
    }

    pub(super) fn greeting(&self) -> Reply {
        Reply::new(220, format!("{} ESMTP weir-filter", self.settings.name))
    }
}

pub(super) fn tls_first() -> Reply {
    Reply::enhanced(530, "5.7.0", "STARTTLS first")
}

/// A name from outside, for logs and replies: one line, printable.
fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

//! The messages of the matrix.

use std::fmt::Write;

use crate::lab::Family;

const LARGE: usize = 5_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    Plain,
    EightBit,
    /// UTF-8 in header and body; in the addresses as well where both ends take it.
    Utf8,
    FiveMegabytes,
    /// Three recipients, the second of which is refused.
    OneRefused,
    EmptyBody,
}

impl Case {
    pub const ALL: [Self; 6] =
        [Self::Plain, Self::EightBit, Self::Utf8, Self::FiveMegabytes, Self::OneRefused, Self::EmptyBody];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::EightBit => "8-bit",
            Self::Utf8 => "UTF-8",
            Self::FiveMegabytes => "5 MB",
            Self::OneRefused => "one recipient refused",
            Self::EmptyBody => "empty body",
        }
    }

    pub fn recipients(self, family: Family, utf8_addresses: bool) -> Vec<String> {
        let users: &[&str] = match self {
            Self::OneRefused => &["first", "refused", "third"],
            Self::Utf8 if utf8_addresses => &["gr\u{fc}n"],
            _ => &["user"],
        };
        users.iter().map(|user| format!("{user}@{}", family.domain())).collect()
    }

    pub fn sender(self, utf8_addresses: bool) -> &'static str {
        if self == Self::Utf8 && utf8_addresses { "j\u{f6}rg@customer.test" } else { "sender@customer.test" }
    }

    /// Lines ended by LF.
    pub fn message(self) -> Vec<u8> {
        let mut text = format!(
            "From: sender@customer.test\nTo: undisclosed-recipients:;\nSubject: {}\n\
             Date: Sat, 21 Nov 2026 00:00:00 +0000\nMessage-ID: <interop@customer.test>\nMIME-Version: 1.0\n",
            if self == Self::Utf8 { "Gr\u{fc}\u{df}e" } else { self.name() }
        );
        let encoding = if matches!(self, Self::EightBit | Self::Utf8) { "8bit" } else { "7bit" };
        let charset = if self == Self::EightBit { "iso-8859-1" } else { "utf-8" };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: {encoding}\n\n"
        );
        let mut message = text.into_bytes();
        match self {
            Self::Plain | Self::OneRefused => {
                message.extend_from_slice(b"a line\n.\n..\n.dotted\n\nthe end\n");
            }
            Self::EightBit => message.extend_from_slice(b"stra\xdfe \xe4\xf6\xfc\xff\n.\xe4\n"),
            Self::Utf8 => {
                message.extend_from_slice("stra\u{df}e \u{4f60}\u{597d} \u{1f4e8}\n.\u{fc}\n".as_bytes());
            }
            Self::FiveMegabytes => {
                let line = b".0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ\n";
                message.extend(line.iter().cycle().take(LARGE / line.len() * line.len()));
            }
            Self::EmptyBody => {}
        }
        message
    }
}

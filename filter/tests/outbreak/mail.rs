//! A message, and how the engine is asked about it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use weir_filter::content::{Content, Limits, Watch};
use weir_filter::outbreak::{Engine, Finding, Memory, Who};
use weir_filter::rate::Moment;

pub struct Mail {
    pub sender: String,
    pub recipient: String,
    pub subject: String,
    pub html: bool,
    pub body: String,
}

impl Mail {
    fn octets(&self) -> Bytes {
        let kind = if self.html { "text/html" } else { "text/plain" };
        let Self { sender, recipient, subject, body, .. } = self;
        Bytes::from(format!(
            "From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\
             Content-Type: {kind}; charset=utf-8\r\n\r\n{body}\r\n"
        ))
    }
}

pub fn read(mail: &Mail) -> Content {
    Content::read(&mail.octets(), Limits::default(), &Watch::new(Duration::from_secs(60)))
}

/// What the engine says when `customer` sends this at `now`, milliseconds.
pub fn send(engine: &Engine<Memory>, customer: u32, mail: &Mail, now: u64) -> Finding {
    let content = read(mail);
    let signature = engine.signature(&content);
    let name = format!("customer{customer}");
    let who = Who {
        customer: Some(&name),
        address: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | customer & 0x00ff_ffff)),
        sender: &mail.sender,
        recipients: &[&mail.recipient],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(engine.count(signature, &content, who, Moment(now))).unwrap()
}

//! What is run as proxsmtpd's FilterCommand: hands the message to a filter node and says what the node said of it. It is as quick
//! as such a program can be.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::exit;

use anyhow::{Context, Result};

use crate::talk::Talk;

/// Where haproxy has the nodes, on the gateway itself.
pub(crate) const PORT: u16 = 20025;

/// With the environment that proxsmtpd gives: proxsmtpd(8).
pub(crate) fn submit() -> Result<()> {
    let of = |name: &str| std::env::var(name).with_context(|| format!("{name} in the environment"));
    let mut content = std::fs::read(of("EMAIL")?).context("the message")?;
    if !content.ends_with(b"\n") {
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(b".\r\n");
    let mut talk = Talk::open(None, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT))?;
    talk.say(b"EHLO gateway.test\r\n", 250)?;
    talk.say(format!("XCLIENT ADDR={} HELO=customer.test PROTO=ESMTP\r\n", of("CLIENT")?).as_bytes(), 220)?;
    talk.say(b"EHLO gateway.test\r\n", 250)?;
    if let Err(refusal) = talk.send(&content) {
        // Its last line is the customer's reply.
        eprintln!("{refusal:#}");
        exit(1);
    }
    Ok(())
}

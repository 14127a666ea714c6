//! Is a filter node alive, and does it take XCLIENT or XFORWARD from this agent? Asked every `filter.probe_interval`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;
use weir_smtp::extension::Extensions;
use weir_smtp::xclient::{Identity, Protocol};
use weir_smtp::xforward;

use super::Family;
use super::dial::{self, Client, Greeted};
use crate::tls::Peer;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Dial(#[from] dial::Error),
    #[error("did not answer within {0:?}")]
    Silent(Duration),
    #[error(
        "does not announce XCLIENT ADDR or XFORWARD ADDR: is this agent in its list of proxies, or does it want filter.tls?"
    )]
    NoXclient,
    #[error("refused XCLIENT: {0}")]
    XclientRefused(String),
    #[error("refused XFORWARD: {0}")]
    XforwardRefused(String),
}

/// Banner, EHLO, XCLIENT (or XFORWARD) with an address reserved for documentation (RFC 5737, RFC 3849), QUIT. What the node
/// announced.
///
/// # Errors
/// The first thing that did not go as it should.
pub async fn probe(
    node: SocketAddr,
    family: Family,
    hostname: &str,
    tls: Option<Peer>,
    limit: Duration,
) -> Result<Extensions, Error> {
    let probe = async {
        let (client, extensions) = Greeted::dial(node, hostname, tls).await?.into_parts();
        introduce(client, extensions, nobody(family, node)).await
    };
    timeout(limit, probe).await.unwrap_or(Err(Error::Silent(limit)))
}

/// XCLIENT, or XFORWARD where there is none, and QUIT.
async fn introduce(
    mut client: Client,
    extensions: Extensions,
    identity: Identity,
) -> Result<Extensions, Error> {
    let xclient = extensions.parameters("XCLIENT").and_then(|names| identity.command(names).ok());
    if let Some(command) = xclient {
        let said = [command];
        return tell(&mut client, &said, 220, Error::XclientRefused).await.map(|()| extensions);
    }
    let names = extensions.parameters("XFORWARD");
    let xforward = names.and_then(|names| xforward::introduction(&identity, "probe", names));
    let said = xforward.ok_or(Error::NoXclient)?;
    tell(&mut client, &said, 250, Error::XforwardRefused).await.map(|()| extensions)
}

/// Says all of it, and QUIT.
async fn tell(
    client: &mut Client,
    commands: &[String],
    code: u16,
    refused: impl Fn(String) -> Error,
) -> Result<(), Error> {
    let mut wrong = None;
    for command in commands {
        client.say(command).await?;
        wrong = Some(client.reply().await?).filter(|reply| reply.code() != code);
        if wrong.is_some() {
            break;
        }
    }
    client.say("QUIT").await?;
    match wrong {
        None => Ok(client.expect(221).await.map(|_| ())?),
        Some(reply) if reply.code() == 421 => Err(dial::Error::Answer(reply.to_string()).into()),
        Some(reply) => Err(refused(reply.to_string())),
    }
}

/// A customer that nobody has.
fn nobody(family: Family, node: SocketAddr) -> Identity {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    Identity {
        customer: SocketAddr::new(address, 1025),
        destination: node,
        protocol: Protocol::Esmtp,
        helo: b"probe.invalid".to_vec(),
    }
}

//! What is known of a connection to a node.

use std::net::SocketAddr;

use weir_smtp::xclient::{Value, split_attributes};

use super::laws::{Broken, ensure};
use super::peer::Peer;

/// One connection to a node about one message.
#[derive(Debug)]
pub struct Judge {
    pub node: usize,
    pub announces_xclient: bool,
    /// What XFORWARD is announced with, and what of it was said.
    pub announces_xforward: Vec<&'static str>,
    pub forwarded: Vec<String>,
    pub takes_chunks: bool,
    /// Nothing of the message or its customer may be said in clear.
    pub in_clear: bool,
    pub identified: bool,
    /// The connection was kept ready, and nothing was read on it since.
    pub unproven: bool,
    /// Chunks it was sent, and replies of it that were read since the first.
    pub chunks: usize,
    pub chunk_replies: usize,
    /// The message, as it was when its end came.
    pub message: Option<Vec<u8>>,
    pub recipients: usize,
    pub unheard: Vec<u8>,
    /// The code of the first reply that the engine read after the message had gone whole.
    pub verdict: Option<u16>,
}

impl Judge {
    pub fn new(node: usize, peer: &Peer, tls: bool) -> Self {
        Self {
            node,
            announces_xclient: peer.attributes("XCLIENT").contains(&"ADDR"),
            announces_xforward: peer.attributes("XFORWARD"),
            forwarded: Vec::new(),
            takes_chunks: peer.announces("CHUNKING"),
            in_clear: tls,
            identified: false,
            unproven: false,
            chunks: 0,
            chunk_replies: 0,
            message: None,
            recipients: 0,
            unheard: Vec::new(),
            verdict: None,
        }
    }

    /// A node without XCLIENT is told by XFORWARD who the customer is, and nothing else.
    pub fn forwarded(&mut self, arguments: &[u8], customer: SocketAddr, helo: &[u8], id: &str) -> Broken {
        for (name, value) in split_attributes(arguments).map_err(|error| error.to_string())? {
            let expected = match name.as_str() {
                "ADDR" => vec![customer.ip().to_string().into_bytes()],
                "PORT" => vec![customer.port().to_string().into_bytes()],
                "HELO" => vec![helo.to_vec()],
                "IDENT" => vec![id.as_bytes().to_vec()],
                "PROTO" => vec![b"ESMTP".to_vec(), b"SMTP".to_vec()],
                "SOURCE" => vec![b"REMOTE".to_vec()],
                _ => vec![],
            };
            let fits = match &value {
                Value::Text(text) => expected.contains(text),
                Value::Unavailable => name == "NAME" || (name == "HELO" && !(1..=165).contains(&helo.len())),
            };
            let asked = self.announces_xforward.contains(&name.as_str()) && !self.forwarded.contains(&name);
            ensure(fits && asked, || format!("XFORWARD {name}={value:?} does not name the customer"))?;
            self.forwarded.push(name);
        }
        self.identified = self.forwarded.len() == self.announces_xforward.len()
            && self.announces_xforward.contains(&"ADDR");
        Ok(())
    }
}

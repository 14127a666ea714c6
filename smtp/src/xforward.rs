//! XFORWARD: naming a message, and to nodes without XCLIENT also its customer, to a filter node (Postfix's
//! XFORWARD_README). It lives for one transaction, so it is said before each MAIL.

use crate::xclient::{
    AttributeError, Identity, MAX_COMMAND, UNAVAILABLE, Value, address, is_announced, split_attributes,
};
use crate::xtext;

/// The attribute that names a message.
pub const IDENT: &str = "IDENT";

/// The command that says a message's id, without CRLF. `None`: the node did not announce IDENT.
pub fn command(id: &str, announced: &[u8]) -> Option<String> {
    is_announced(announced, IDENT).then(|| format!("XFORWARD {IDENT}={}", xtext::encode(id.as_bytes())))
}

/// The commands that say who the customer is and the message's id, without CRLF, with the attributes that the node
/// announced: one, or several where 512 octets are too few, which a node adds up. `None`: the node did not announce
/// ADDR, and would take all mail as the agent's own.
pub fn introduction(identity: &Identity, id: &str, announced: &[u8]) -> Option<Vec<String>> {
    if !is_announced(announced, "ADDR") {
        return None;
    }
    let attributes = [
        // In Postfix's own order. The name is never looked up.
        ("NAME", UNAVAILABLE.into()),
        ("ADDR", address(identity.customer.ip())),
        ("PORT", identity.customer.port().to_string()),
        ("HELO", identity.helo_value()),
        (IDENT, xtext::encode(id.as_bytes())),
        ("PROTO", identity.protocol.name().into()),
        ("SOURCE", "REMOTE".into()),
    ];
    let mut commands: Vec<String> = Vec::new();
    for (name, value) in attributes.into_iter().filter(|(name, _)| is_announced(announced, name)) {
        let alone = |value: &str| format!("XFORWARD {name}={value}");
        // A name of control characters can be too long for any command.
        let value = if alone(&value).len() + 2 > MAX_COMMAND { UNAVAILABLE.into() } else { value };
        match commands.last_mut() {
            Some(last) if last.len() + name.len() + value.len() + 4 <= MAX_COMMAND => {
                last.push_str(&format!(" {name}={value}"));
            }
            _ => commands.push(alone(&value)),
        }
    }
    Some(commands)
}

/// What one XFORWARD command said. The other attributes of the specification are for mail logs only
/// and are read over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xforward {
    pub ident: Option<Vec<u8>>,
}

impl Xforward {
    pub fn parse(arguments: &[u8]) -> Result<Self, AttributeError> {
        let mut said = Self::default();
        for (name, value) in split_attributes(arguments)? {
            match (name.as_str(), value) {
                (IDENT, Value::Text(text)) => said.ident = Some(text),
                (IDENT | "NAME" | "ADDR" | "PORT" | "PROTO" | "HELO" | "SOURCE", _) => {}
                _ => return Err(AttributeError::Unknown(name)),
            }
        }
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::xclient::Protocol;

    const POSTFIX: &[u8] = b"NAME ADDR PROTO HELO SOURCE PORT IDENT";

    fn identity(customer: &str, helo: &[u8]) -> Identity {
        Identity {
            customer: customer.parse().unwrap(),
            destination: "10.2.0.2:25".parse().unwrap(),
            protocol: Protocol::Esmtp,
            helo: helo.to_vec(),
        }
    }

    #[test]
    fn the_id_is_said_where_it_is_announced() {
        assert_eq!(command("a+b", b"NAME IDENT").unwrap(), "XFORWARD IDENT=a+2Bb");
        assert_eq!(command("a", b"NAME ADDR"), None);
    }

    #[test]
    fn the_id_is_read_and_other_attributes_are_read_over() {
        let said = Xforward::parse(b"NAME=x ident=a+2Bb SOURCE=REMOTE").unwrap();
        assert_eq!(said.ident.unwrap(), b"a+b");
        assert_eq!(Xforward::parse(b"FOO=1"), Err(AttributeError::Unknown("FOO".into())));
        assert_eq!(Xforward::parse(b""), Err(AttributeError::Missing));
    }

    #[test]
    fn the_customer_is_said_with_what_is_announced() {
        let customer = identity("10.1.0.2:40001", b"mail+1.example");
        assert_eq!(
            introduction(&customer, "m-1", POSTFIX).unwrap(),
            [
                "XFORWARD NAME=[UNAVAILABLE] ADDR=10.1.0.2 PORT=40001 HELO=mail+2B1.example IDENT=m-1 PROTO=ESMTP \
              SOURCE=REMOTE"
            ]
        );
        let customer = identity("[fd01::2]:40001", b"x");
        assert_eq!(
            introduction(&customer, "m-1", b"addr Helo").unwrap(),
            ["XFORWARD ADDR=IPV6:fd01::2 HELO=x"]
        );
        assert_eq!(introduction(&customer, "m-1", b"NAME PORT IDENT"), None);
    }

    #[test]
    fn a_long_name_makes_two_commands_and_a_longer_one_is_unavailable() {
        let said = |helo: &[u8]| introduction(&identity("10.1.0.2:40001", helo), "m-1", POSTFIX).unwrap();
        let [first, second, third] = &said(&[b'+'; 165])[..] else { panic!("three commands") };
        assert_eq!(first, "XFORWARD NAME=[UNAVAILABLE] ADDR=10.1.0.2 PORT=40001");
        assert_eq!(second.len(), "XFORWARD HELO=".len() + 165 * 3);
        assert_eq!(third, "XFORWARD IDENT=m-1 PROTO=ESMTP SOURCE=REMOTE");
        for helo in [vec![b'a'; 256], vec![b'+'; 166], vec![]] {
            assert!(said(&helo).concat().contains(" HELO=[UNAVAILABLE] "));
        }
    }

    proptest! {
        #[test]
        fn a_node_that_adds_the_commands_up_knows_the_customer(
            helo in proptest::collection::vec(any::<u8>(), 0..300), port: u16, v6: u128, which in 0_u8..128,
        ) {
            let names = ["NAME", "PORT", "PROTO", "HELO", "SOURCE", "IDENT"];
            let announced = names.iter().enumerate().filter(|(bit, _)| which >> bit & 1 == 1);
            let announced: Vec<_> = announced.map(|(_, name)| *name).chain(["ADDR"]).collect();
            let customer = SocketAddr::new(std::net::IpAddr::V6(v6.into()), port);
            let identity = identity(&customer.to_string(), &helo);
            let commands = introduction(&identity, "m-1", announced.join(" ").as_bytes()).unwrap();
            let mut said = BTreeMap::new();
            for command in &commands {
                prop_assert!(command.len() + 2 <= MAX_COMMAND, "{}", command);
                let arguments = command.strip_prefix("XFORWARD ").unwrap();
                said.extend(split_attributes(arguments.as_bytes()).unwrap());
            }
            prop_assert_eq!(said.len(), announced.len());
            prop_assert!(announced.iter().all(|name| said.contains_key(*name)));
            let text = |value: &str| Value::Text(value.as_bytes().to_vec());
            prop_assert_eq!(&said["ADDR"], &text(&address(customer.ip())));
            prop_assert!(said.get("PORT").is_none_or(|said| *said == text(&port.to_string())));
            prop_assert!(said.get("IDENT").is_none_or(|said| *said == text("m-1")));
            prop_assert!(said.get("SOURCE").is_none_or(|said| *said == text("REMOTE")));
            if let Some(Value::Text(said)) = said.get("HELO") {
                prop_assert_eq!(said, &helo);
            }
        }
    }
}

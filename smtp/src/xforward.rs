//! XFORWARD: naming a message to a filter node (Postfix's XFORWARD_README). Lives for one transaction.

use crate::xclient::{AttributeError, Value, split_attributes};
use crate::xtext;

/// The attribute that names a message.
pub const IDENT: &str = "IDENT";

/// The command that says a message's id, without CRLF. `None`: the node did not announce IDENT.
pub fn command(id: &str, announced: &[u8]) -> Option<String> {
    let takes =
        announced.split(|octet| *octet == b' ').any(|word| word.eq_ignore_ascii_case(IDENT.as_bytes()));
    takes.then(|| format!("XFORWARD {IDENT}={}", xtext::encode(id.as_bytes())))
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
    use super::*;

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
}

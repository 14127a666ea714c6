//! What a message asks of a node, beyond what every server does.

use weir_smtp::Envelope;
use weir_smtp::extension::Extensions;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    utf8: bool,
    binary: bool,
    /// Octets declared.
    size: u64,
}

impl Needs {
    /// Any node will do.
    #[cfg(test)]
    pub const NONE: Self = Self { utf8: false, binary: false, size: 0 };

    pub fn of(envelope: &Envelope) -> Self {
        let sender = &envelope.sender;
        Self {
            utf8: sender.parameter("SMTPUTF8").is_some(),
            binary: sender.is_binary(),
            size: sender.size().unwrap_or(0),
        }
    }

    /// What a node that announced this does not have of it.
    pub fn lacking(self, announced: &Extensions) -> Option<&'static str> {
        if self.utf8 && !announced.has("SMTPUTF8") {
            Some("SMTPUTF8")
        } else if self.binary && !announced.has("CHUNKING") {
            Some("CHUNKING")
        } else if self.binary && !announced.has("BINARYMIME") {
            Some("BINARYMIME")
        } else if announced.size().is_some_and(|limit| self.size > limit) {
            Some("a SIZE as large as it is")
        } else {
            None
        }
    }
}

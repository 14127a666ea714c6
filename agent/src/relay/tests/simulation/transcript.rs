//! What was said in a session, to be read by people.
//!
//! `C:` the customer says, `S:` weir says to it; `D:` the destination says, `>D:` weir says to it; `F:` and
//! `>F:` the same for the filter node; `--` what happens besides. In front the seconds since the beginning.

use super::mouth::Time;

#[derive(Debug, Default)]
pub struct Transcript {
    lines: Option<Vec<String>>,
}

impl Transcript {
    pub fn kept() -> Self {
        Self { lines: Some(Vec::new()) }
    }

    pub fn said(&mut self, who: &str, at: Time, octets: &[u8]) {
        let Some(lines) = &mut self.lines else { return };
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            let mut text = line.escape_ascii().to_string();
            if text.len() > 120 {
                text = format!("{}... ({} octets)", &text[..100], line.len());
            }
            lines.push(format!("{:>9.3} {:>3} {text}", seconds(at), format!("{who}:")));
        }
    }

    pub fn note(&mut self, at: Time, text: &str) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>9.3}  -- {text}", seconds(at)));
        }
    }

    pub fn text(&self) -> String {
        let mut lines = self.lines.clone().unwrap_or_default();
        if lines.len() > 400 {
            let left_out = format!("... {} lines", lines.len() - 300);
            lines.splice(100..lines.len() - 200, [left_out]);
        }
        lines.join("\n")
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a session")]
fn seconds(at: Time) -> f64 {
    at as f64 / 1000.0
}

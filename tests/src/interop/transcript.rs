//! What was said and answered in a session, as the octets on the wire tell it.

use std::fmt;

use anyhow::{Context, Result, ensure};

use super::wire::Connection;

/// A reply, all of its lines without code and separator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: String,
    pub lines: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The connection was made.
    Connect,
    Command(String),
    /// A message after DATA, without the line with the dot alone, dots unstuffed; or all chunks of BDAT so far.
    Message(Vec<u8>),
    /// The client closed its side in the middle of a message after this.
    Unfinished(Vec<u8>),
    /// The client closed its side without QUIT.
    Left,
}

/// Something said, and its answer. `None`: the session was over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub said: Said,
    pub reply: Option<Reply>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    pub steps: Vec<Step>,
}

impl Transcript {
    pub fn of(connection: &Connection) -> Result<Self> {
        let mut replies = replies(connection.answered())?.into_iter();
        let mut rest = connection.said();
        let mut steps = vec![Step { said: Said::Connect, reply: replies.next() }];
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let end = find(rest, b"\r\n").context("an unfinished command")?;
            let command = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 2..];
            let reply = replies.next();
            let verb = command.split(' ').next().unwrap_or_default().to_ascii_uppercase();
            if verb == "BDAT" {
                let size = command.split(' ').nth(1).context("BDAT without a size")?.parse()?;
                ensure!(rest.len() >= size, "an unfinished chunk");
                chunks.extend_from_slice(&rest[..size]);
                rest = &rest[size..];
                steps.push(Step { said: Said::Command(command.clone()), reply: None });
                let so_far = Said::Message(chunks.clone());
                steps.push(Step { said: so_far, reply });
                continue;
            }
            let goes_on = verb == "DATA" && reply.as_ref().is_some_and(|reply| reply.code == "354");
            steps.push(Step { said: Said::Command(command), reply });
            if goes_on {
                let (said, length) = message(rest);
                rest = &rest[length..];
                let reply = if matches!(said, Said::Message(_)) { replies.next() } else { None };
                steps.push(Step { said, reply });
            }
        }
        if !steps
            .iter()
            .any(|step| matches!(&step.said, Said::Command(last) if last.eq_ignore_ascii_case("QUIT")))
        {
            steps.push(Step { said: Said::Left, reply: replies.next() });
        }
        let transcript = Self { steps };
        let answer = replies.next();
        ensure!(answer.is_none(), "an answer to nothing, {answer:?}, after\n{transcript}");
        Ok(transcript)
    }

    /// Messages that were accepted.
    pub fn accepted(&self) -> Vec<&[u8]> {
        let accepted = |step: &Step| step.reply.as_ref().is_some_and(|reply| reply.code == "250");
        self.steps
            .iter()
            .enumerate()
            .filter(|(place, step)| accepted(step) && !self.is_chunk_before_the_last(*place))
            .filter_map(|(_, step)| match &step.said {
                Said::Message(message) => Some(message.as_slice()),
                Said::Connect | Said::Command(_) | Said::Unfinished(_) | Said::Left => None,
            })
            .collect()
    }

    fn is_chunk_before_the_last(&self, place: usize) -> bool {
        place.checked_sub(1).is_some_and(|before| match &self.steps[before].said {
            Said::Command(command) => {
                let command = command.to_ascii_uppercase();
                command.starts_with("BDAT ") && !command.ends_with(" LAST")
            }
            Said::Connect | Said::Message(_) | Said::Unfinished(_) | Said::Left => false,
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 1_000;
        match &self.said {
            Said::Connect => f.write_str("(connect)")?,
            Said::Unfinished(message) => write!(f, "(unfinished) {}", message.escape_ascii())?,
            Said::Left => f.write_str("(left)")?,
            Said::Command(command) => f.write_str(command)?,
            Said::Message(message) => {
                let shown = &message[..message.len().min(SHOWN)];
                write!(f, "({} octets) {}", message.len(), shown.escape_ascii())?;
            }
        }
        match &self.reply {
            Some(reply) => write!(f, "\n    {} {}", reply.code, reply.lines.join(" | ")),
            None => f.write_str("\n    (nothing)"),
        }
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

fn replies(octets: &[u8]) -> Result<Vec<Reply>> {
    let mut replies = Vec::new();
    let mut lines = Vec::new();
    let mut rest = octets;
    while !rest.is_empty() {
        let end = find(rest, b"\r\n").context("an unfinished reply")?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 2..];
        let (code, text) = line.split_at_checked(3).context("a reply without a code")?;
        lines.push(text.get(1..).unwrap_or_default().to_owned());
        if !text.starts_with('-') {
            replies.push(Reply { code: code.to_owned(), lines: std::mem::take(&mut lines) });
        }
    }
    ensure!(lines.is_empty(), "an unfinished reply");
    Ok(replies)
}

/// A message after DATA, dots unstuffed, and its length on the wire.
fn message(octets: &[u8]) -> (Said, usize) {
    let mut message = Vec::with_capacity(octets.len());
    let mut place = 0;
    while let Some(length) = find(&octets[place..], b"\r\n") {
        let line = &octets[place..place + length + 2];
        place += line.len();
        if line == b".\r\n" {
            return (Said::Message(message), place);
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    (Said::Unfinished(octets.to_vec()), octets.len())
}

fn find(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let place = from + octets[from..].iter().position(|octet| *octet == wanted[0])?;
        if octets[place..].starts_with(wanted) {
            return Some(place);
        }
        from = place + 1;
    }
}

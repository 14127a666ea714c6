//! What may differ between a session through weir and the same session without it. Everything else must be the same,
//! octet by octet.

use anyhow::{Result, bail};

use super::transcript::{Said, Step, Transcript};

/// An allowed difference. It is taken out of both transcripts before they are compared.
#[derive(Debug)]
pub struct Difference {
    pub name: &'static str,
    pub reason: &'static str,
    level: Level,
}

#[derive(Debug, Clone, Copy)]
enum Level {
    /// This keyword of the answer to EHLO.
    Keyword(&'static str),
    By(fn(&mut Transcript)),
}

const fn keyword(keyword: &'static str, reason: &'static str) -> Difference {
    Difference { name: keyword, reason, level: Level::Keyword(keyword) }
}

const fn by(name: &'static str, reason: &'static str, level: fn(&mut Transcript)) -> Difference {
    Difference { name, reason, level: Level::By(level) }
}

/// All of them; the table in the documentation is made of this one.
pub const ALLOWED: [Difference; 11] = [
    keyword("STARTTLS", "withheld: a message in TLS could not be judged"),
    keyword("ETRN", "withheld: it starts deliveries outside the session"),
    keyword(
        "PIPECONNECT",
        "withheld: Exim's own; weir cannot vouch for a destination before it has answered",
    ),
    by(
        "answer to a chunk",
        "weir answers each chunk itself: the destination gets one chunk after the verdict, and tells its size",
        chunk_answers,
    ),
    by("354 text", "weir answers DATA itself: the destination hears it after the verdict", go_ahead),
    by("queue id", "the destination's own, another for each message", queue_id),
    by(
        "last words",
        "what a destination says after a customer that left without QUIT reaches nobody",
        last_words,
    ),
    by("date in the banner", "Exim's banner tells the time", banner_date),
    by("Received", "the customer's server writes its own queue id and the time", received),
    by("order of RCPT", "OpenSMTPD names the recipients in any order", recipients_order),
    by("SIZE=", "the size said in MAIL or BDAT counts that Received", size_parameter),
];

impl Difference {
    fn remove(&self, transcript: &mut Transcript) {
        match self.level {
            Level::Keyword(keyword) => remove_keyword(transcript, keyword),
            Level::By(level) => level(transcript),
        }
    }
}

/// The allowed differences between the sessions without and through weir; any other is an error.
pub fn compare(straight: &[Transcript], through: &[Transcript]) -> Result<Vec<&'static Difference>> {
    let differs = |without: Option<usize>| {
        let level = |transcripts: &[Transcript]| {
            let mut transcripts = transcripts.to_vec();
            for transcript in &mut transcripts {
                let rules = ALLOWED.iter().enumerate().filter(|(number, _)| Some(*number) != without);
                rules.for_each(|(_, rule)| rule.remove(transcript));
            }
            transcripts
        };
        let (straight, through) = (level(straight), level(through));
        (straight != through).then_some((straight, through))
    };
    if let Some((straight, through)) = differs(None) {
        bail!("{}", first_difference(&straight, &through));
    }
    let needed = |number: &usize| differs(Some(*number)).is_some();
    Ok((0..ALLOWED.len()).filter(needed).map(|number| &ALLOWED[number]).collect())
}

fn first_difference(straight: &[Transcript], through: &[Transcript]) -> String {
    if straight.len() != through.len() {
        return format!("{} sessions without weir, {} through it", straight.len(), through.len());
    }
    let steps = |all: &[Transcript]| all.iter().flat_map(|one| one.steps.clone()).collect::<Vec<Step>>();
    let (one, other) = (steps(straight), steps(through));
    let place = one.iter().zip(&other).position(|(a, b)| a != b).unwrap_or(one.len().min(other.len()));
    let show = |steps: &[Step]| steps.get(place).map_or("(nothing more)".into(), ToString::to_string);
    let before = one[..place].iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    format!("after\n{before}\n- without weir:\n{}\n- through weir:\n{}", show(&one), show(&other))
}

fn remove_keyword(transcript: &mut Transcript, keyword: &str) {
    for step in &mut transcript.steps {
        if is_command(step, "EHLO")
            && let Some(reply) = &mut step.reply
        {
            let mut place = 0;
            reply.lines.retain(|line| {
                place += 1;
                place == 1 || line.split(' ').next() != Some(keyword)
            });
        }
    }
}

fn is_command(step: &Step, verb: &str) -> bool {
    let is_verb = |word: &str| word.eq_ignore_ascii_case(verb);
    matches!(&step.said, Said::Command(command) if command.split(' ').next().is_some_and(is_verb))
}

/// What is said of a chunk before the last, and sizes in what is said of the last.
fn chunk_answers(transcript: &mut Transcript) {
    let mut last = None;
    for step in &mut transcript.steps {
        if let (Some(last), Some(reply)) = (last, &mut step.reply) {
            let digit = |c: char| if c.is_ascii_digit() { '#' } else { c };
            reply.lines.retain(|_| last);
            reply.lines.iter_mut().for_each(|line| *line = line.chars().map(digit).collect());
        }
        last = match &step.said {
            Said::Command(command) if is_command(step, "BDAT") => Some(command.ends_with(" LAST")),
            _ => None,
        };
    }
}

fn go_ahead(transcript: &mut Transcript) {
    for reply in transcript.steps.iter_mut().filter_map(|step| step.reply.as_mut()) {
        if reply.code == "354" {
            reply.lines.clear();
        }
    }
}

fn queue_id(transcript: &mut Transcript) {
    for step in &mut transcript.steps {
        if let (Said::Message(_), Some(reply)) = (&step.said, &mut step.reply) {
            reply.lines.iter_mut().for_each(|line| *line = without_queue_id(line));
        }
    }
}

/// Postfix, Exim and OpenSMTPD.
fn without_queue_id(line: &str) -> String {
    if let Some((text, _)) = line.split_once("queued as ") {
        return format!("{text}queued as");
    }
    if let Some((text, _)) = line.split_once("id=") {
        return format!("{text}id=");
    }
    match line.split(' ').collect::<Vec<_>>().as_slice() {
        [status, _, rest @ ..] if rest.starts_with(&["Message", "accepted"]) => {
            format!("{status} {}", rest.join(" "))
        }
        _ => line.to_owned(),
    }
}

fn last_words(transcript: &mut Transcript) {
    transcript.steps.retain(|step| step.said != Said::Left);
}

fn banner_date(transcript: &mut Transcript) {
    let Some(Step { said: Said::Connect, reply: Some(reply) }) = transcript.steps.first_mut() else { return };
    for line in &mut reply.lines {
        let days = ["Mon, ", "Tue, ", "Wed, ", "Thu, ", "Fri, ", "Sat, ", "Sun, "];
        if let Some(place) = days.iter().find_map(|day| line.find(day)) {
            line.truncate(place);
        }
    }
}

/// The first header field, if it is this one, with its continuation lines.
fn received(transcript: &mut Transcript) {
    for step in &mut transcript.steps {
        let Said::Message(message) = &mut step.said else { continue };
        while message.starts_with(b"Received:") {
            let mut end = 0;
            loop {
                let line = message[end..].iter().position(|octet| *octet == b'\n');
                end += line.map_or(message.len() - end, |length| length + 1);
                if !matches!(message.get(end), Some(b' ' | b'\t')) {
                    break;
                }
            }
            message.drain(..end);
        }
    }
}

fn recipients_order(transcript: &mut Transcript) {
    for group in
        transcript.steps.chunk_by_mut(|one, next| is_command(one, "RCPT") && is_command(next, "RCPT"))
    {
        group.sort_by_key(|step| match &step.said {
            Said::Command(command) => command.clone(),
            _ => String::new(),
        });
    }
}

fn size_parameter(transcript: &mut Transcript) {
    for step in &mut transcript.steps {
        let (mail, chunk) = (is_command(step, "MAIL"), is_command(step, "BDAT"));
        let Said::Command(command) = &mut step.said else { continue };
        let size = |(place, word): (usize, &str)| {
            let parameter = word.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("SIZE="));
            match () {
                () if mail && parameter => "SIZE=".to_owned(),
                () if chunk && place == 1 => "size".to_owned(),
                () => word.to_owned(),
            }
        };
        *command = command.split(' ').enumerate().map(size).collect::<Vec<_>>().join(" ");
    }
}

#[cfg(test)]
mod tests {
    use super::super::transcript::Reply;
    use super::*;

    fn session(ehlo: &[&str], accepted: &str) -> Transcript {
        let step = |said: &str, code: &str, lines: &[&str]| Step {
            said: Said::Command(said.into()),
            reply: Some(Reply { code: code.into(), lines: lines.iter().map(ToString::to_string).collect() }),
        };
        let message =
            Step { said: Said::Message(b"Subject: a\r\n".to_vec()), ..step("", "250", &[accepted]) };
        Transcript { steps: vec![step("EHLO a", "250", ehlo), step("DATA", "354", &["go"]), message] }
    }

    #[test]
    fn only_what_is_allowed_may_differ_and_is_named() {
        let straight = [session(&["mx", "STARTTLS", "SIZE 5"], "2.0.0 Ok: queued as 1")];
        let through = [session(&["mx", "SIZE 5"], "2.0.0 Ok: queued as 2")];
        let allowed = compare(&straight, &through).unwrap();
        assert_eq!(allowed.iter().map(|each| each.name).collect::<Vec<_>>(), ["STARTTLS", "queue id"]);
        assert!(compare(&through, &through).unwrap().is_empty());
        for other in
            [session(&["mx", "SIZE 6"], "2.0.0 Ok: queued as 2"), session(&["mx", "SIZE 5"], "2.0.0 Fine")]
        {
            assert!(compare(&straight, &[other]).is_err());
        }
        assert!(compare(&straight, &[]).is_err());
    }
}

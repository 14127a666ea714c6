//! What must hold whatever the peers do. Told of everything that happens, it says what was broken.

use std::net::SocketAddr;

use weir_smtp::xclient::{MAX_COMMAND, Xclient};

use super::judge::Judge;
use super::mouth::Time;
use super::oracle::{Heard, Item, Oracle, verb};
use super::peer::{Peer, Sent};
use super::sent::{content, number, replies};
use crate::config::{Mode, WhenUnavailable};
use crate::relay::record::{Outcome, Record, SessionId, Verdict};
use crate::treatment::Treatment;

pub type Broken = Result<(), String>;

#[derive(Debug)]
pub struct Laws {
    pub oracle: Oracle,
    id: SessionId,
    customer: SocketAddr,
    /// As it is said now, and as it was when the message under way began.
    pub treatment: Treatment,
    begun_with: Treatment,
    /// Connections to nodes about the message under way.
    pub judges: Vec<Judge>,
    /// A node was reached, or the agent had no means to reach one.
    pub reached: bool,
    pub records: Vec<Record>,
    /// The message that is complete at the destination, and how many there were.
    delivered: Option<usize>,
    /// Replies of the destination that were read after the message under way was complete there.
    answers: Vec<Vec<u8>>,
    unanswered: Vec<u8>,
    /// Where in the customer's lines the destination's commands have come to.
    passed: usize,
    own_noops: usize,
    own_starttls: bool,
    /// The destination announces it.
    pub starttls_offered: bool,
    own_ehlos: usize,
    last_ehlo: Vec<u8>,
    in_auth: bool,
    awaits_reset: bool,
    /// A first chunk was refused: weir has the destination forget the envelope.
    chunk_refused: bool,
    /// Each RCPT that a node refused before the destination was to hear of it, and each that the destination heard of.
    refused_recipients: Vec<Vec<u8>>,
    told_recipients: Vec<Vec<u8>>,
    /// The number of the destination's last reply that the customer got.
    last_number: Option<usize>,
    /// When the session was told to say nothing more.
    pub farewell: bool,
    pub customer_closed: bool,
}

impl Laws {
    pub fn new(id: SessionId, customer: SocketAddr, treatment: Treatment) -> Self {
        Self {
            oracle: Oracle::new(),
            id,
            customer,
            treatment,
            begun_with: treatment,
            judges: Vec::new(),
            reached: false,
            records: Vec::new(),
            delivered: None,
            answers: Vec::new(),
            unanswered: Vec::new(),
            passed: 0,
            own_noops: 0,
            own_starttls: false,
            starttls_offered: false,
            own_ehlos: 0,
            last_ehlo: Vec::new(),
            in_auth: false,
            awaits_reset: false,
            chunk_refused: false,
            refused_recipients: Vec::new(),
            told_recipients: Vec::new(),
            last_number: None,
            farewell: false,
            customer_closed: false,
        }
    }

    fn id_of_message(&self) -> String {
        format!("{}-{}", self.id, self.oracle.transactions)
    }

    /// The engine said something to the customer. `answered`: what the destination's replies answer, where
    /// it keeps in step.
    pub fn customer_heard(&mut self, octets: &[u8], answered: Option<&[Vec<u8>]>) -> Broken {
        ensure(!self.farewell || self.customer_closed, || "spoke after the last 421".into())?;
        self.oracle.hears(octets);
        while let Some((item, reply)) = self.oracle.next_heard()? {
            ensure(!self.farewell, || "spoke after the last 421".into())?;
            self.farewell = reply.code == 421;
            let accused = reply.text.windows(24).any(|part| part == b"sent what is no SMTP rep");
            ensure(!accused || answered.is_none(), || "a destination in step is accused of garbage".into())?;
            match &item {
                None if reply.code == 421 => {}
                None => return Err(format!("nobody asked for {}", reply.text.escape_ascii())),
                Some(item) => self.reply(item, &reply, answered)?,
            }
            self.oracle.settle();
        }
        Ok(())
    }

    /// The engine begins a message.
    pub fn begins(&mut self) -> Broken {
        self.oracle.begins()?;
        self.begun_with = self.treatment;
        self.judges.clear();
        self.reached = false;
        self.delivered = None;
        self.answers.clear();
        Ok(())
    }

    fn reply(&mut self, item: &Item, reply: &Heard, answered: Option<&[Vec<u8>]>) -> Broken {
        let text = reply.text.escape_ascii().to_string();
        let unfit = || format!("{text} is no answer to {item:?}");
        if let Some(number) = number(&reply.text, 'D') {
            let in_order = self.last_number.is_none_or(|last| last < number);
            self.last_number = Some(number);
            if let Some(answered) = answered {
                ensure(in_order, || format!("{text} comes after a later reply"))?;
                let asked = match item {
                    Item::Greeting => &b""[..],
                    Item::Line(line) => line,
                    Item::Chunk => b"<nothing>",
                    Item::EndOfData => b"<end of data> or DATA",
                };
                let fits = match item {
                    Item::EndOfData => {
                        ["<end of data>", "DATA"].map(str::as_bytes).contains(&&answered[number][..])
                    }
                    // An AUTH exchange that cannot be passed on is cancelled.
                    _ => answered[number] == asked || answered[number] == b"*",
                };
                // A goodbye and a refusal in the middle of a body may come at any time.
                ensure(fits || reply.code == 421, unfit)?;
            }
        }
        match item {
            Item::Greeting => {}
            Item::Line(line) => {
                let goes_on = match reply.code {
                    354 => verb(line) == b"DATA",
                    334 => self.oracle.secret_follows,
                    code => code / 100 != 3,
                };
                ensure(goes_on, unfit)?;
                ensure(reply.code / 100 != 2 || may_pass(line) || self.oracle.is_secret(line), unfit)?;
                self.chunk_refused |= verb(line) == b"BDAT" && reply.code == 554;
                // Only about a recipient a node is asked before the message is there.
                let asked = verb(line) == b"RCPT" && reply.code / 100 > 3;
                let of_node = number(&reply.text, 'F').is_some();
                ensure(asked || !of_node, unfit)?;
                if of_node {
                    self.refused_recipients.push(line.clone());
                    self.recipients_are_withheld(line)?;
                }
                if verb(line) == b"EHLO" {
                    self.no_tls_is_offered(&reply.text)?;
                }
            }
            Item::Chunk if reply.code / 100 == 2 => {
                ensure(reply.text.ends_with(b"octets received\r\n"), unfit)?;
            }
            Item::Chunk | Item::EndOfData => self.end_of_data(reply)?,
        }
        Ok(())
    }

    /// The destination hears of no recipient whom a node refused, unless the customer names him again.
    fn recipients_are_withheld(&self, line: &[u8]) -> Broken {
        let count = |lines: &[Vec<u8>]| lines.iter().filter(|said| *said == line).count();
        let (refused, told) = (count(&self.refused_recipients), count(&self.told_recipients));
        ensure(refused + told <= count(&self.oracle.lines), || {
            format!("{} was refused by a node, and reached the destination", line.escape_ascii())
        })
    }

    fn no_tls_is_offered(&self, text: &[u8]) -> Broken {
        let upper = text.to_ascii_uppercase();
        let offered = ["STARTTLS", "XCLIENT", "XFORWARD", "X-NEW", "ETRN"]
            .into_iter()
            .find(|keyword| upper.windows(keyword.len()).any(|part| part == keyword.as_bytes()));
        ensure(offered.is_none(), || format!("{offered:?} was offered to the customer"))
    }

    /// Law 1: 250 only if the destination said it, after it had the whole message.
    fn end_of_data(&self, reply: &Heard) -> Broken {
        let record = self.records.last().filter(|_| self.records.len() == self.oracle.messages);
        let record = record.ok_or("the customer was told of a message before the log was")?;
        let said = record.reply.as_ref().map(weir_smtp::Reply::to_bytes).unwrap_or_default();
        ensure(said == reply.text, || "the log says another reply than the customer heard".into())?;
        if reply.code / 100 == 2 {
            ensure(record.outcome == Outcome::Delivered, || format!("2xx, but {:?}", record.outcome))?;
        }
        ensure(reply.code / 100 != 3, || "a message was answered 3xx".into())
    }

    /// The engine read octets of the destination's.
    pub fn destination_read(&mut self, octets: &[u8]) {
        for reply in replies(&mut self.unanswered, octets) {
            if self.delivered == Some(self.oracle.messages) {
                self.answers.push(reply);
            }
        }
    }

    /// Own NOOPs, while a message is under way and nothing of the customer's can be passed on.
    pub fn written_to_destination(&mut self, octets: &[u8]) {
        let under_way = self.oracle.messages > self.records.len();
        self.own_starttls |= octets == b"STARTTLS\r\n" && self.starttls_offered;
        self.own_noops += usize::from(under_way && octets == b"NOOP\r\n");
    }

    /// The destination got a command.
    pub fn passed_on(&mut self, line: &[u8], in_step: bool) -> Broken {
        let verb = verb(line);
        if line == b"STARTTLS" && std::mem::take(&mut self.own_starttls) {
            self.own_ehlos += 1;
            return Ok(());
        }
        let auth = std::mem::replace(&mut self.in_auth, verb == b"AUTH")
            && self.oracle.secrets.iter().any(|said| said == line);
        if auth {
            self.in_auth = true;
            return Ok(());
        }
        ensure(line == b"DATA" || verb == b"BDAT" || may_pass(line), || {
            format!("{} reached the destination", line.escape_ascii())
        })?;
        if line == b"DATA" && self.begun_with.mode == Mode::Bypass {
            return self.may_begin();
        }
        if verb == b"DATA" || verb == b"BDAT" {
            return self.may_deliver();
        }
        // The first RSET after a message that was withheld or refused is weir's.
        let withheld = self.records.last().is_some_and(|record| record.outcome == Outcome::Withheld);
        let awaits_reset = std::mem::take(&mut self.awaits_reset);
        ensure(!(awaits_reset && withheld && in_step) || line == b"RSET" || line == b"NOOP", || {
            "the destination keeps the envelope of a message that was withheld".into()
        })?;
        self.awaits_reset = awaits_reset && line == b"NOOP";
        let resets = line == b"RSET" && (awaits_reset || std::mem::take(&mut self.chunk_refused));
        if resets || (line == b"NOOP" && self.own_noops > 0) {
            self.own_noops -= usize::from(line == b"NOOP");
            return Ok(());
        }
        if verb == b"EHLO" {
            let again = self.last_ehlo == line && self.own_ehlos > 0;
            self.own_ehlos -= usize::from(again);
            self.last_ehlo = line.to_vec();
            if again {
                return Ok(());
            }
        }
        self.was_said(line)?;
        if verb == b"RCPT" {
            self.told_recipients.push(line.to_vec());
            self.recipients_are_withheld(line)?;
        }
        Ok(())
    }

    /// The customer said it, after what was passed on before.
    fn was_said(&mut self, line: &[u8]) -> Broken {
        let own = line == b"RSET" || line == b"NOOP";
        loop {
            if let Some(at) = self.oracle.lines[self.passed..].iter().position(|said| said == line) {
                self.passed += at + 1;
                return Ok(());
            }
            if !self.oracle.auth_was_refused() {
                return ensure(own, || {
                    format!("the customer never said {} (or not in this order)", line.escape_ascii())
                });
            }
        }
    }

    /// Nobody is asked: what matters is that only the whole message comes to an end there.
    fn may_begin(&self) -> Broken {
        ensure(self.oracle.messages == self.records.len() + 1, || "DATA without a message".into())
    }

    /// Law 2: without a verdict that says so nothing begins at the destination.
    fn may_deliver(&self) -> Broken {
        ensure(self.oracle.complete && self.oracle.messages == self.records.len() + 1, || {
            "DATA reached the destination without a whole message".into()
        })?;
        let Some(canonical) = self.oracle.canonical() else {
            return Err("a message that must be refused goes to the destination".into());
        };
        let accepts = |judge: &&Judge| judge.verdict.is_some_and(|code| code / 100 == 2);
        match self.judges.iter().find(accepts) {
            Some(judge) if judge.message.as_ref() == Some(&canonical) => Ok(()),
            Some(_) => Err("the node that accepted judged other octets".into()),
            None if self.passes_unjudged() => Ok(()),
            None => Err("goes to the destination without a verdict that accepts".into()),
        }
    }

    /// Nobody could be asked, or nobody's answer matters.
    fn passes_unjudged(&self) -> bool {
        let Treatment { mode, when_unavailable } = self.begun_with;
        mode != Mode::Enforce || (when_unavailable == WhenUnavailable::Accept && !self.reached)
    }

    /// Laws 2 and 3: a message came to its end at the destination.
    pub fn arrived(&mut self, sent: &Sent) -> Broken {
        self.may_deliver()?;
        let message = content(sent)?;
        ensure(Some(&message) == self.oracle.canonical().as_ref(), || {
            format!("the destination got other octets: {}", message.escape_ascii())
        })?;
        ensure(self.delivered != Some(self.oracle.messages), || "one message arrived twice".into())?;
        self.delivered = Some(self.oracle.messages);
        Ok(())
    }

    /// A node got a command.
    pub fn told_node(&mut self, line: &[u8]) -> Broken {
        let id = self.id_of_message();
        let (customer, helo) = (self.customer, self.oracle.helo.clone());
        let Some(judge) = self.judges.last_mut() else { return Err("a node without a message".into()) };
        let open = matches!(verb(line).as_slice(), b"EHLO" | b"STARTTLS" | b"QUIT");
        ensure(open || !judge.in_clear, || format!("said in clear: {}", line.escape_ascii()))?;
        match verb(line).as_slice() {
            b"XCLIENT" => {
                let said = Xclient::parse(&line[8..]).map_err(|error| error.to_string())?;
                let fits = said.address == Some(customer.ip())
                    && said.port.is_none_or(|port| port == customer.port())
                    && said.helo.is_none_or(|name| name == helo);
                ensure(fits && judge.announces_xclient, || {
                    format!("{} does not name the customer", line.escape_ascii())
                })?;
                judge.identified = true;
            }
            b"XFORWARD" if !judge.announces_xclient => {
                ensure(line.len() + 2 <= MAX_COMMAND, || "an XFORWARD that is too long".into())?;
                judge.forwarded(&line[9..], customer, &helo, &id)?;
            }
            b"XFORWARD" => {
                ensure(line == format!("XFORWARD IDENT={id}").as_bytes(), || {
                    format!("{} does not name message {id}", line.escape_ascii())
                })?;
            }
            b"EHLO" | b"QUIT" | b"STARTTLS" => {}
            b"MAIL" | b"RCPT" | b"DATA" => {
                ensure(judge.identified, || "a node that was not told the customer's name got mail".into())?;
                judge.recipients += usize::from(verb(line) == b"RCPT");
            }
            b"BDAT" => {
                ensure(judge.identified && judge.takes_chunks, || {
                    "a chunk for a node that takes none".into()
                })?;
                judge.chunks += 1;
            }
            _ => return Err(format!("a node was told {}", line.escape_ascii())),
        }
        Ok(())
    }

    /// A node got the end of a message.
    pub fn judged(&mut self, sent: &Sent) -> Broken {
        ensure(self.oracle.complete, || "a node got the end of a message that has none".into())?;
        let message = content(sent)?;
        let canonical = self.oracle.canonical();
        ensure(canonical.as_ref() == Some(&message), || {
            format!("a node got other octets: {}", message.escape_ascii())
        })?;
        if let Some(judge) = self.judges.last_mut() {
            judge.message = Some(message);
        }
        Ok(())
    }

    pub fn node_secured(&mut self) {
        if let Some(judge) = self.judges.last_mut() {
            judge.in_clear = false;
        }
    }

    /// `in_clear`: it is to be spoken to in TLS, and is not yet.
    pub fn node_connected(&mut self, node: usize, peer: &Peer, in_clear: bool) {
        self.reached = true;
        self.judges.push(Judge::new(node, peer, in_clear));
    }

    /// A connection to a node was ready: only a good answer shows that it still is one.
    pub fn node_was_ready(&mut self, node: usize, peer: &Peer) {
        let judge = Judge::new(node, peer, false);
        let unproven = judge.announces_xclient || judge.announces_xforward.contains(&"ADDR");
        self.reached |= !unproven;
        self.judges.push(Judge { unproven, ..judge });
    }

    /// The engine read octets of a node's.
    pub fn node_read(&mut self, octets: &[u8]) {
        let Some(judge) = self.judges.last_mut() else { return };
        for reply in replies(&mut judge.unheard, octets) {
            let code =
                reply.get(..3).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok()).unwrap_or(0);
            let good = code / 100 == 2;
            self.reached |= std::mem::take(&mut judge.unproven) && good;
            judge.chunk_replies += usize::from(judge.chunks > 0);
            // An answer before the node has the message is none, but each chunk has one, and one that is refused
            // is the message refused.
            let whole = judge.message.is_some() && judge.chunk_replies == judge.chunks;
            let refused = judge.chunk_replies > 0 && code / 100 != 2;
            if (whole || refused) && judge.verdict.is_none() {
                judge.verdict = Some(code);
            }
        }
    }

    /// `destination_gone`: it closed its side; what was sent to it since is lost.
    pub fn logged(&mut self, record: Record, destination_in_step: bool, destination_gone: bool) -> Broken {
        self.records.push(record);
        let Some(record) = self.records.last() else { return Ok(()) };
        self.awaits_reset = matches!(record.outcome, Outcome::Withheld | Outcome::Refused);
        ensure(self.records.len() == self.oracle.messages, || {
            format!("{} records of {} messages", self.records.len(), self.oracle.messages)
        })?;
        ensure(record.id.as_str() == self.id_of_message(), || format!("record {}", record.id))?;
        let said = record.reply.as_ref().map(weir_smtp::Reply::to_bytes).unwrap_or_default();
        let arrived = self.delivered == Some(self.oracle.messages);
        match record.outcome {
            Outcome::Delivered | Outcome::Refused if arrived => {
                ensure(self.answers.first() == Some(&said) || !destination_in_step, || {
                    "the destination's answer to the message was another".into()
                })?;
                ensure(self.answers.contains(&said) || record.outcome == Outcome::Refused, || {
                    "the destination did not say this after it had the message".into()
                })
            }
            // It said so, before it had the message, and left: nobody can know.
            Outcome::Delivered if destination_gone && !destination_in_step => Ok(()),
            Outcome::Delivered => Err("logged as delivered, and the destination has it not".into()),
            Outcome::Abandoned | Outcome::Withheld if arrived => {
                Err(format!("{:?}, but the destination has it", record.outcome))
            }
            Outcome::Unknown | Outcome::Unreported => {
                let passes = record.verdict == Verdict::Accept || record.mode == Mode::Shadow;
                ensure(passes, || "unknown fate without a verdict".into())
            }
            _ => Ok(()),
        }?;
        self.verdict_fits()
    }

    fn verdict_fits(&self) -> Broken {
        let Some(record) = self.records.last() else { return Ok(()) };
        let Some(node) = record.node else {
            return ensure(record.verdict != Verdict::Accept || self.passes_unjudged(), || {
                "accepted, and no node said so".into()
            });
        };
        let judge = self.judges.iter().rfind(|judge| judge.node == node.0).ok_or("judged by nobody")?;
        if record.verdict == Verdict::Accept {
            ensure(judge.verdict.is_some_and(|code| code / 100 == 2), || {
                format!("accept, but the node said {:?}", judge.verdict)
            })?;
            ensure(judge.recipients == record.recipients, || {
                format!("{} recipients, the node was told {}", record.recipients, judge.recipients)
            })?;
        }
        Ok(())
    }

    /// The session is over. `gone`: the customer left of its own.
    pub fn over(&self, gone: bool, last_is_message: bool) -> Broken {
        ensure(self.records.len() == self.oracle.messages, || {
            format!("{} records of {} messages at the end", self.records.len(), self.oracle.messages)
        })?;
        let said_why = self.farewell || gone || last_is_message || self.said_goodbye();
        ensure(said_why, || "the session ended and the customer was not told why".into())?;
        ensure(self.customer_closed, || "the customer's connection was left open".into())
    }

    fn said_goodbye(&self) -> bool {
        let answered = self.oracle.lines.len().saturating_sub(self.oracle.owed.len());
        self.oracle.lines[..answered].iter().any(|line| verb(line) == b"QUIT")
    }
}

pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Broken {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Commands that a destination may be told; all others are answered by the agent.
fn may_pass(line: &[u8]) -> bool {
    const PASSED: &[&[u8]] =
        &[b"EHLO", b"HELO", b"MAIL", b"RCPT", b"RSET", b"NOOP", b"VRFY", b"EXPN", b"HELP", b"QUIT", b"AUTH"];
    PASSED.contains(&verb(line).as_slice())
}

/// The time within which something must happen while somebody is waited for.
pub const LONGEST_WAIT: Time = 600_000;

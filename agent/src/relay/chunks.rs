//! Between the chunks of a message (RFC 3030): the agent answers each, and reads the customer's next command.

use std::time::Instant;

use weir_smtp::{Command, Reply};

use super::customer::Barrier;
use super::reception::Chunk;
use super::wire::{HIGH_WATER, Leg};
use super::{Phase, Session};

impl Session {
    /// `true`: something was done.
    pub(super) fn go_on_between_chunks(&mut self, now: Instant) -> bool {
        let Phase::Message(message) = &mut self.phase else { return false };
        let reception = message.reception();
        if let Some(size) = reception.unanswered_chunk() {
            reception.chunk_answered();
            let reply = Reply::enhanced(250, "2.0.0", format!("{size} octets received"));
            self.customer.reply(reply, &mut self.wire);
            self.wire.restart(Leg::Customer, now);
            return true;
        }
        if !reception.is_between_chunks() || self.wire.flow(Leg::Customer).outgoing >= HIGH_WATER {
            return false;
        }
        if let Barrier::Farewell(failure) = self.customer.barrier {
            self.cut_short(failure, now);
            return false;
        }
        // What may have to be passed on waits for the answer to a NOOP of ours where groups are not taken.
        if !self.destination.expected.is_empty() && !self.destination.offer.has("PIPELINING") {
            return false;
        }
        match self.customer.next_line() {
            None => return false,
            Some(Ok(line)) => self.command_between_chunks(&line.text, now),
            Some(Err(error)) => self.bad_line(&error),
        }
        true
    }

    /// A chunk that cannot be taken: it is read over, and so are those that follow, whatever they are; each gets the
    /// same answer (RFC 3030 section 2).
    pub(super) fn refuse_chunks(&mut self, chunk: Chunk, refusal: Reply) {
        self.customer.skip = chunk.size;
        self.customer.chunk_refusal = Some(refusal.clone()).filter(|_| !chunk.last);
        self.customer.reply(refusal, &mut self.wire);
    }

    fn command_between_chunks(&mut self, line: &[u8], now: Instant) {
        match Command::parse(line) {
            Ok(Command::Bdat { size, last }) => {
                if let Phase::Message(message) = &mut self.phase {
                    message.reception().next_chunk(Chunk { size, last });
                    message.receive(&mut &[][..], &self.settings, now, &mut self.wire);
                }
            }
            // What ends a transaction ends this one, and the destination, which has the envelope, hears of it.
            Ok(Command::Rset | Command::Quit | Command::Ehlo(_) | Command::Helo(_)) => {
                self.abandon_message(now);
                self.command(line, now);
            }
            Ok(Command::Noop) => {
                self.customer.reply(Reply::enhanced(250, "2.0.0", "ok"), &mut self.wire);
            }
            Ok(
                Command::Mail(_)
                | Command::Rcpt(_)
                | Command::Data
                | Command::Vrfy
                | Command::Expn
                | Command::Help
                | Command::Auth,
            ) => {
                let text = "a message is under way: BDAT, RSET, NOOP or QUIT";
                self.refuse(Reply::enhanced(503, "5.5.1", text));
            }
            // Refused as at any other time.
            _ => self.command(line, now),
        }
    }
}

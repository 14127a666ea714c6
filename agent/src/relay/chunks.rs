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
        match self.customer.next_line() {
            None => return false,
            Some(Ok(line)) => self.command_between_chunks(&line.text, now),
            Some(Err(error)) => self.refuse(Reply::enhanced(500, "5.5.2", error.to_string())),
        }
        true
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

//! A plain SMTP client and a scripted server, for what a real mail server does not do or show.

mod client;
mod lax;
mod server;

pub use client::{Client, Reply};
pub use server::{Gate, Reading, Script, Server, Session};

/// Lines ended by LF as SMTP sends them after DATA: CRLF, leading dots doubled, the final dot.
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + message.len() / 32 + 5);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        wire.extend_from_slice(line);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

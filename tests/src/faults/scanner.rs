//! The nodes' scanner, a program of its own so that it can be killed. It speaks spamd's protocol and knows one rule: a
//! message with [`REFUSE`](crate::message::REFUSE) in its head is spam. The real spamd judges some twenty messages a
//! second on two cores; here it is about what the nodes do with a scanner's answer, or without one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::message::REFUSE;

const HEAD: usize = 4096;
const SILENCE: Duration = Duration::from_secs(60);

/// Listens until it is killed; each answer takes `delay`.
pub(crate) fn run(port: u16, delay: Duration) -> Result<()> {
    let listener = crate::sink::listen(port)?;
    println!("ready");
    for stream in listener.incoming() {
        let stream = stream?;
        // A node that is gone needs no answer.
        let serve = move || drop(answer(stream, delay));
        thread::Builder::new().stack_size(256 * 1024).spawn(serve).context("a thread for a connection")?;
    }
    Ok(())
}

fn answer(mut stream: TcpStream, delay: Duration) -> Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut request = Vec::new();
    stream.read_to_end(&mut request)?;
    thread::sleep(delay);
    let head = &request[..request.len().min(HEAD)];
    let spam = head.windows(REFUSE.len()).any(|octets| octets == REFUSE);
    let (word, score, test) = if spam { ("True", 100.0, "FAULT_REFUSE") } else { ("False", 0.0, "NONE") };
    let text = format!(
        "SPAMD/1.1 0 EX_OK\r\nContent-length: {}\r\nSpam: {word} ; {score:.1} / 5.0\r\n\r\n{test}\r\n",
        test.len() + 2
    );
    stream.write_all(text.as_bytes())?;
    Ok(stream.shutdown(Shutdown::Write)?)
}

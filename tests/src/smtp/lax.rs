//! The laxest server there could be: all that any server was ever found to take for an end, together.
//!
//! A line ends with CR, with LF or with both, NULs are not there, and a message ends with a dot alone on such a line.
//! Whatever ends a message for some server ends it here, or ends it earlier.

use std::io::BufRead;

use anyhow::{Result, ensure};

/// The next line that is not empty, without its end; the LF of a CRLF is left. `None`: the connection was closed.
pub(super) fn read_command(input: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        match read_octet(input)? {
            None => return Ok(None),
            Some(0) => {}
            Some(b'\r' | b'\n') if line.is_empty() => {}
            Some(b'\r' | b'\n') => return Ok(Some(line)),
            Some(octet) => line.push(octet),
        }
    }
}

/// Reads the LF that [`read_command`] left of the command's CRLF.
pub(super) fn end_command(input: &mut impl BufRead) -> Result<()> {
    if input.fill_buf()?.first() == Some(&b'\n') {
        input.consume(1);
    }
    Ok(())
}

/// Up to the first dot alone on a line, whatever ends the lines; bytes as they came, without the dot's line.
pub(super) fn read_message(input: &mut impl BufRead) -> Result<Vec<u8>> {
    end_command(input)?;
    let mut message = Vec::new();
    let mut line = Vec::new();
    let mut line_start = 0;
    loop {
        let octet = read_octet(input)?;
        ensure!(octet.is_some(), "closed within a message");
        let octet = octet.unwrap_or_default();
        message.push(octet);
        match octet {
            0 => {}
            b'\r' | b'\n' if line == b"." => {
                // The rest of a CRLF is an empty line before the next command.
                message.truncate(line_start);
                return Ok(message);
            }
            b'\r' | b'\n' => {
                line.clear();
                line_start = message.len();
            }
            _ => line.push(octet),
        }
    }
}

fn read_octet(input: &mut impl BufRead) -> Result<Option<u8>> {
    let mut octet = [0];
    Ok((input.read(&mut octet)? > 0).then_some(octet[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_end_ends_a_message() {
        let ends: [&[u8]; 12] = [
            b"\n.\n",
            b"\n.\r",
            b"\r.\n",
            b"\r.\r",
            b"\n.\r\n",
            b"\r.\r\n",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r\n\0.\r\n",
            b"\r\n.\r\r\n",
            b"\r\r\n.\r\r\n",
            b"\r\n.\r\n",
        ];
        for end in ends {
            let input = [b"text", end, b"RSET\n"].concat();
            let mut input = input.as_slice();
            let message = read_message(&mut input).unwrap();
            assert!(message.starts_with(b"text"), "{end:?}");
            assert_eq!(read_command(&mut input).unwrap().unwrap(), b"RSET", "{end:?}");
        }
        for no_end in [&b"a\r\n..\r\n"[..], b"a.\r\n", b"\r\n.a\r\n", b"\r\n.\x0b\r\n"] {
            assert!(read_message(&mut { no_end }).is_err(), "{no_end:?}");
        }
    }
}

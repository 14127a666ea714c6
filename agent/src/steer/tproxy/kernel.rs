//! nf_tables in the kernel's own messages, where nft(8) first reads all sets: with many prefixes in them, that takes longer than the
//! heart has.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use socket2::SockRef;

use super::ruleset::{self, TABLE};
use crate::steer::attributes::{attributes, number_u16, number_u32, text};

// `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFTABLES: u16 = 10;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const GET_RULE: u16 = NFTABLES << 8 | 7;
const NEW_ELEMENT: u16 = NFTABLES << 8 | 12;
const DELETE_ELEMENT: u16 = NFTABLES << 8 | 14;
const NEW_OBJECT: u16 = NFTABLES << 8 | 18;
const GET_OBJECT: u16 = NFTABLES << 8 | 19;
const INET: u8 = 1;
const COUNTER: u32 = 1;

/// Attributes whose number is the same in each of the messages here.
const OF_TABLE: u16 = 1;
const NESTED: u16 = 1 << 15;

/// `NLMSG_HDRLEN`, and `struct nfgenmsg` after it.
const HEADER: usize = 16;
const BODY: usize = HEADER + 4;

/// Longer than any datagram of the kernel's.
const LONGEST: usize = 64 * 1024;

const PATIENCE: Duration = Duration::from_secs(1);

/// How often a list is asked for that changes while it is told.
const TRIES: usize = 10;

#[derive(Debug)]
pub(super) struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // It answers at once. What never comes must not hold the heart.
        SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The agent is alive from now on for so long. What was said before counts no more: an element that is there keeps its old
    /// time; what is not there can't be removed, what was just added can.
    pub(super) fn beat(&mut self, silence: Duration) -> io::Result<()> {
        let milliseconds = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        let mut batch = message(BATCH_BEGIN, NLM_F_REQUEST, self.next(), &generic(0, NFTABLES));
        for (kind, flags, timeout) in [
            (NEW_ELEMENT, NLM_F_CREATE, None),
            (DELETE_ELEMENT, 0, None),
            (NEW_ELEMENT, NLM_F_CREATE | NLM_F_ACK, Some(milliseconds)),
        ] {
            let sequence = self.next();
            let body = [generic(INET, 0), element(timeout)].concat();
            batch.extend(message(kind, NLM_F_REQUEST | flags, sequence, &body));
        }
        let acknowledged = self.sequence;
        batch.extend(message(BATCH_END, NLM_F_REQUEST, self.next(), &generic(0, NFTABLES)));
        self.socket.send(&batch, 0)?;
        // The kernel has done it when the call returns, and has answered.
        loop {
            for (kind, sequence, _, body) in messages(&self.receive()?) {
                if kind == NLMSG_ERROR {
                    refused(body)?;
                    if sequence == acknowledged {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// How many rules a chain of the table has; none where there is no such chain.
    pub(super) fn rules(&mut self, chain: &str) -> io::Result<usize> {
        const CHAIN: u16 = 2;
        let of_chain = [string(OF_TABLE, TABLE), string(CHAIN, chain)].concat();
        Ok(self.dump(GET_RULE, NEW_RULE, &of_chain)?.len())
    }

    /// The table's named counters, in packets.
    pub(super) fn counters(&mut self) -> io::Result<Vec<(String, u64)>> {
        const NAME: u16 = 2;
        const TYPE: u16 = 3;
        const DATA: u16 = 4;
        const PACKETS: u16 = 2;
        let wanted = [string(OF_TABLE, TABLE), attribute(TYPE, &COUNTER.to_be_bytes())].concat();
        let counter = |body: Vec<u8>| {
            let name = attributes(&body).find(|(kind, _)| *kind == NAME)?.1;
            let data = attributes(&body).find(|(kind, _)| *kind == DATA)?.1;
            let packets = attributes(data).find(|(kind, _)| *kind == PACKETS)?.1;
            Some((text(name), u64::from_be_bytes(packets.try_into().ok()?)))
        };
        Ok(self.dump(GET_OBJECT, NEW_OBJECT, &wanted)?.into_iter().filter_map(counter).collect())
    }

    /// The attributes of all objects that are asked for.
    fn dump(&mut self, ask: u16, answer: u16, wanted: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..TRIES {
            let body = [&generic(INET, 0), wanted].concat();
            let request = message(ask, NLM_F_REQUEST | NLM_F_DUMP, self.next(), &body);
            self.socket.send(&request, 0)?;
            if let Some(found) = self.dumped(answer)? {
                return Ok(found);
            }
        }
        Err(io::Error::other("it changes all the time"))
    }

    /// `None`: something changed meanwhile, and not all was told.
    fn dumped(&self, answer: u16) -> io::Result<Option<Vec<Vec<u8>>>> {
        let (mut found, mut whole) = (Vec::new(), true);
        loop {
            for (kind, _, flags, body) in messages(&self.receive()?) {
                whole &= flags & NLM_F_DUMP_INTR == 0;
                match kind {
                    NLMSG_DONE => return Ok(whole.then_some(found)),
                    NLMSG_ERROR => refused(body)?,
                    _ if kind == answer => found.push(body.get(BODY - HEADER..).unwrap_or_default().to_vec()),
                    _ => {}
                }
            }
        }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(LONGEST);
        self.socket.recv(&mut buffer, 0)?;
        Ok(buffer)
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Type, sequence number, flags, and what comes after the header.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, u32, u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = number_u32(rest, 0)? as usize;
        let body = rest.get(HEADER..length)?;
        let found = (number_u16(rest, 4)?, number_u32(rest, 8)?, number_u16(rest, 6)?, body);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

/// An error, unless it is an acknowledgement.
fn refused(body: &[u8]) -> io::Result<()> {
    match number_u32(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // To the kernel, from whoever the socket is.
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// `struct nfgenmsg`.
fn generic(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

/// The heartbeat's element, in its set: TCP.
fn element(timeout: Option<u64>) -> Vec<u8> {
    const SET: u16 = 2;
    const ELEMENTS: u16 = 3;
    const ELEMENT: u16 = 1;
    const KEY: u16 = 1;
    const VALUE: u16 = 1;
    const TIMEOUT: u16 = 4;
    let tcp = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    let mut element = attribute(KEY | NESTED, &attribute(VALUE, &[tcp]));
    if let Some(milliseconds) = timeout {
        element.extend(attribute(TIMEOUT, &milliseconds.to_be_bytes()));
    }
    let elements = attribute(ELEMENT | NESTED, &element);
    [string(OF_TABLE, TABLE), string(SET, ruleset::ALIVE), attribute(ELEMENTS | NESTED, &elements)].concat()
}

fn string(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = length.to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let all =
            [message(NLMSG_ERROR, 0, 7, &[0; 4]), message(NEW_RULE, NLM_F_DUMP_INTR, 8, b"odd")].concat();
        let found: Vec<_> = messages(&all).collect();
        assert_eq!(found, [(NLMSG_ERROR, 7, 0, &[0; 4][..]), (NEW_RULE, 8, NLM_F_DUMP_INTR, b"odd")]);
        assert!(refused(found[0].3).is_ok());
        assert_eq!(refused(&(-libc::ENOENT).to_ne_bytes()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    proptest! {
        #[test]
        fn whatever_comes_has_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
        }
    }
}

//! Packets, byte by byte, from the IP header on.

use std::vec;
use std::vec::Vec;

use crate::Bytes;

pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

pub(super) const CUSTOMER_V4: [u8; 4] = [10, 1, 0, 2];
pub(super) const SERVER_V4: [u8; 4] = [192, 0, 2, 2];
pub(super) const CUSTOMER_V6: [u8; 16] = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub(super) const SERVER_V6: [u8; 16] = [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

impl Bytes for &[u8] {
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let start = offset as usize;
        let bytes = self.get(start..start + N * 4)?;
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(chunk.try_into().unwrap());
        }
        Some(words)
    }
}

impl Bytes for Vec<u8> {
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.as_slice().words(offset)
    }
}

pub(super) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[0..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&destination.to_be_bytes());
    header[12] = 0x50;
    header[13] = flags;
    header
}

/// `fragment` is the flags and offset field of the header.
pub(super) fn v4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    packet.extend_from_slice(payload);
    packet
}

pub(super) fn v6(source: [u8; 16], destination: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 8];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet[6] = next;
    packet.extend_from_slice(&source);
    packet.extend_from_slice(&destination);
    packet.extend_from_slice(payload);
    packet
}

/// An extension header of 8 bytes before the payload.
pub(super) fn extension(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(payload);
    bytes
}

/// A fragment header; `offset` in bytes.
pub(super) fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = extension(next, payload);
    bytes[2..4].copy_from_slice(&(offset | u16::from(more)).to_be_bytes());
    bytes
}

/// An ICMP error that quotes a packet.
pub(super) fn icmp(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 4, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&quoted[..quoted.len().min(48)]);
    bytes
}

//! What is configured for prefixes, in the kernel: the next generation is filled while the last one holds.

use std::error::Error;
use std::io::ErrorKind;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData, MapError};
use ipnet::IpNet;
use weir_ebpf_common::{MAX_POLICIES, Policy, Table, names};

use super::program::{Program, describe, refused};
use crate::steer::{SteerError, Tables, grace};

/// Generations are told apart for as long as anybody could remember one.
const GENERATIONS: u32 = 1 << 16;

/// The word of the table, and the address.
type KeyV4 = [u8; 8];
type KeyV6 = [u8; 20];

impl Program {
    /// Has the tables hold in place of the last ones, `old`. After an error those hold.
    pub(super) fn set_tables(&mut self, old: &Tables, new: &Tables) -> Result<(), SteerError> {
        let (last, next) = (self.generation, (self.generation + 1) % GENERATIONS);
        if let Err(error) = self.fill(next, new) {
            self.clear(next, new)?;
            return Err(error);
        }
        let mut generation: Array<_, u32> = self.map(names::GENERATION)?;
        generation.set(0, next, 0).map_err(refused)?;
        self.generation = next;
        // A packet may be half-way through the last generation.
        grace::wait();
        self.clear(last, old)
    }

    fn fill(&mut self, generation: u32, tables: &Tables) -> Result<(), SteerError> {
        let first = generation % 2 * (MAX_POLICIES / 2);
        let policies = tables.policies();
        let mut map: Array<_, [u32; Policy::WORDS]> = self.map(names::POLICIES)?;
        if policies.len() > (MAX_POLICIES / 2) as usize {
            let reason = format!("limits.overrides: room is for {} policies", MAX_POLICIES / 2);
            return Err(SteerError::Program { reason });
        }
        for (index, policy) in (first..).zip(policies) {
            map.set(index, policy.words(), 0).map_err(refused)?;
        }
        for (table, prefix, policy) in tables.entries() {
            let policy = first + policy;
            match prefix {
                IpNet::V4(net) => {
                    let (length, key) = (net.prefix_len(), key(table, generation, net.network().octets()));
                    self.prefixes_v4()?.insert(&Key::new(32 + u32::from(length), key), policy, 0)
                }
                IpNet::V6(net) => {
                    let (length, key) = (net.prefix_len(), key(table, generation, net.network().octets()));
                    self.prefixes_v6()?.insert(&Key::new(32 + u32::from(length), key), policy, 0)
                }
            }
            .map_err(|error| no_room(&prefix, &error))?;
        }
        Ok(())
    }

    /// Removes what is there of a generation.
    fn clear(&mut self, generation: u32, tables: &Tables) -> Result<(), SteerError> {
        for (table, prefix, _) in tables.entries() {
            let removed = match prefix {
                IpNet::V4(net) => {
                    let (length, key) = (net.prefix_len(), key(table, generation, net.network().octets()));
                    self.prefixes_v4()?.remove(&Key::new(32 + u32::from(length), key))
                }
                IpNet::V6(net) => {
                    let (length, key) = (net.prefix_len(), key(table, generation, net.network().octets()));
                    self.prefixes_v6()?.remove(&Key::new(32 + u32::from(length), key))
                }
            };
            unless_absent(removed)?;
        }
        Ok(())
    }

    fn prefixes_v4(&mut self) -> Result<LpmTrie<&mut MapData, KeyV4, u32>, SteerError> {
        self.map(names::PREFIXES_V4)
    }

    fn prefixes_v6(&mut self) -> Result<LpmTrie<&mut MapData, KeyV6, u32>, SteerError> {
        self.map(names::PREFIXES_V6)
    }
}

/// `M` is 4 more than `N`.
fn key<const N: usize, const M: usize>(table: Table, generation: u32, address: [u8; N]) -> [u8; M] {
    prefixed(table.word(generation), address)
}

/// A word, in memory order, before an address: `M` is 4 more than `N`.
pub(super) fn prefixed<const N: usize, const M: usize>(word: u32, address: [u8; N]) -> [u8; M] {
    let mut key = [0; M];
    key[..4].copy_from_slice(&word.to_ne_bytes());
    key[4..].copy_from_slice(&address);
    key
}

/// What is not there need not be removed.
pub(super) fn unless_absent(removed: Result<(), MapError>) -> Result<(), SteerError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(refused),
    }
}

fn no_room(prefix: &IpNet, error: &dyn Error) -> SteerError {
    SteerError::Program { reason: format!("{prefix} could not be put into its table: {}", describe(error)) }
}

//! The kernel program and its maps.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SockMap};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{EbpfLoader, include_bytes_aligned};
use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::utsname::uname;
use nix::time::{ClockId, clock_gettime};
use weir_ebpf_common::{Exemption, RuleKind, Side, Verdict, names};

use super::tables::unless_absent;
use crate::config::WhenAgentDies;
use crate::return_path::Admit;
use crate::steer::routing::MARK_MASK;
use crate::steer::{Beat, BootTime, PER_HOUR, Pair, Plan, Rules, SteerError, Tables, Terms, kernel_version};

/// The object that build.rs has made of the crate `ebpf`.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-ebpf.o"));

/// Addresses of a customer and of a destination, as the packet has them.
type PairKey<const OCTETS: usize> = [[u8; OCTETS]; 2];

/// The program for each side, in the kernel.
pub(super) struct Program {
    bpf: aya::Ebpf,
    /// The generation of the tables that holds.
    pub(super) generation: u32,
    /// The rules of each kind, as they are in the kernel.
    pub(super) rules: BTreeMap<RuleKind, Rules>,
}

impl Program {
    /// Loads and verifies the program and fills its maps, all but the listener.
    pub(super) fn load(plan: &Plan) -> Result<Self, SteerError> {
        // Kernels before 5.11 count maps as locked memory, of which a process may have 64 KiB or a little more.
        let may_lock = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok();
        let closed = u32::from(plan.when_agent_dies == WhenAgentDies::Closed);
        let bpf = EbpfLoader::new()
            .override_global(names::MARK, &plan.mark, true)
            .override_global(names::MARK_MASK, &MARK_MASK, true)
            .override_global(names::CLOSED, &closed, true)
            .map_max_entries(names::CONNECTIONS, plan.max_sources.max(1))
            .load(OBJECT)
            .map_err(|error| if may_lock { refused(error) } else { refused_with_a_limit(error) })?;
        let mut program = Self { bpf, generation: 0, rules: BTreeMap::new() };
        for side in Side::BOTH {
            load(program.classifier(side)?)?;
        }
        program.set_tables(&Tables::default(), &plan.tables)?;
        program.admit(None)?;
        Ok(program)
    }

    /// Says that the agent lives, whenever it is called; to be kept up from before there is a listener.
    pub(super) fn beat(&mut self) -> Result<Beat, SteerError> {
        let mut heart = self.array_of_our_own::<u64>(names::HEART)?;
        beat(&mut heart)?;
        Ok(Box::new(move || {
            if let Err(error) = beat(&mut heart) {
                tracing::debug!(%error, "no heartbeat");
            }
        }))
    }

    /// Tells how many new connections are taken.
    pub(super) fn admission(&mut self) -> Result<Admit, SteerError> {
        let mut admitted = self.array_of_our_own(names::ADMITTED)?;
        Ok(Box::new(move |count| {
            if let Err(error) = admitted.set(0, admissions(count), 0) {
                tracing::warn!(%error, "the kernel cannot be told how many new connections to take");
            }
        }))
    }

    /// So many new connections are taken from now on; `None`: all.
    pub(super) fn admit(&mut self, count: Option<u32>) -> Result<(), SteerError> {
        let mut map: Array<_, u32> = self.map(names::ADMITTED)?;
        map.set(0, admissions(count), 0).map_err(refused)
    }

    /// An array that is written without a look at the program.
    fn array_of_our_own<T: aya::Pod>(&mut self, name: &'static str) -> Result<Array<MapData, T>, SteerError> {
        let Some(Map::Array(data)) = self.bpf.map(name) else { return Err(absent(name)) };
        let descriptor = data.fd().as_fd().try_clone_to_owned().map_err(refused)?;
        let data = MapData::from_fd(descriptor).map_err(refused)?;
        Map::Array(data).try_into().map_err(refused)
    }

    /// New connections go to this socket from now on. The kernel forgets it when the socket closes.
    pub(super) fn set_listener(&mut self, listener: &impl AsRawFd) -> Result<(), SteerError> {
        let mut map: SockMap<_> = self.map(names::LISTENER)?;
        map.set(0, listener, 0).map_err(|error| SteerError::Listener { reason: describe(&error) })
    }

    /// New connections go to no socket any more.
    pub(super) fn clear_listener(&mut self) -> Result<(), SteerError> {
        let mut map: SockMap<_> = self.map(names::LISTENER)?;
        match map.clear_index(&0) {
            // The kernel took it out when the socket was closed.
            Err(MapError::SyscallError(error))
                if matches!(error.io_error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) =>
            {
                Ok(())
            }
            outcome => outcome.map_err(|error| SteerError::Listener { reason: describe(&error) }),
        }
    }

    /// New connections of these pairs go straight from now on.
    pub(super) fn exempt(&mut self, pairs: &[(Pair, Terms)]) -> Result<(), SteerError> {
        for (pair, terms) in pairs {
            let per_hour = if terms.limited { PER_HOUR } else { 0 };
            let exemption = Exemption::new(terms.until.seconds(), per_hour).words();
            match pair {
                Pair::V4 { customer, destination } => {
                    self.exempt_v4()?.insert(key_v4(customer, destination), exemption, 0)
                }
                Pair::V6 { customer, destination } => {
                    self.exempt_v6()?.insert(key_v6(customer, destination), exemption, 0)
                }
            }
            .map_err(refused)?;
        }
        Ok(())
    }

    /// New connections of these pairs are steered again.
    pub(super) fn unexempt(&mut self, pairs: &[Pair]) -> Result<(), SteerError> {
        for pair in pairs {
            let removed = match pair {
                Pair::V4 { customer, destination } => {
                    self.exempt_v4()?.remove(&key_v4(customer, destination))
                }
                Pair::V6 { customer, destination } => {
                    self.exempt_v6()?.remove(&key_v6(customer, destination))
                }
            };
            unless_absent(removed)?;
        }
        Ok(())
    }

    /// How many connections each of the pairs made.
    pub(super) fn passed(&mut self, pairs: &[Pair]) -> Result<BTreeMap<Pair, u64>, SteerError> {
        let mut passed = BTreeMap::new();
        for pair in pairs {
            let found = match pair {
                Pair::V4 { customer, destination } => {
                    self.exempt_v4()?.get(&key_v4(customer, destination), 0)
                }
                Pair::V6 { customer, destination } => {
                    self.exempt_v6()?.get(&key_v6(customer, destination), 0)
                }
            };
            passed.insert(*pair, Exemption::passed(found.map_err(refused)?).into());
        }
        Ok(passed)
    }

    /// All new connections go straight until then; `None`: none do.
    pub(super) fn release(&mut self, until: Option<BootTime>) -> Result<(), SteerError> {
        let mut map: Array<_, u32> = self.map(names::RELEASED)?;
        map.set(0, until.map_or(0, BootTime::seconds), 0).map_err(refused)
    }

    fn exempt_v4(
        &mut self,
    ) -> Result<HashMap<&mut MapData, PairKey<4>, [u32; Exemption::WORDS]>, SteerError> {
        self.map(names::EXEMPT_V4)
    }

    fn exempt_v6(
        &mut self,
    ) -> Result<HashMap<&mut MapData, PairKey<16>, [u32; Exemption::WORDS]>, SteerError> {
        self.map(names::EXEMPT_V6)
    }

    pub(super) fn counters(&mut self) -> Result<BTreeMap<String, u64>, SteerError> {
        Verdict::ALL
            .into_iter()
            .map(|verdict| Ok((verdict.name().to_owned(), self.count(verdict)?)))
            .collect()
    }

    /// Packets with this verdict so far.
    pub(super) fn count(&mut self, verdict: Verdict) -> Result<u64, SteerError> {
        let counters: PerCpuArray<_, u64> = self.map(names::COUNTERS)?;
        Ok(counters.get(&verdict.index(), 0).map_err(refused)?.iter().sum())
    }

    pub(super) fn classifier(&mut self, side: Side) -> Result<&mut SchedClassifier, SteerError> {
        let name = name(side);
        let program = self.bpf.program_mut(name).ok_or_else(|| absent(name))?;
        program.try_into().map_err(refused)
    }

    /// The number the kernel has given the program.
    pub(super) fn id(&self, side: Side) -> Option<u32> {
        Some(self.bpf.program(name(side))?.info().ok()?.id())
    }

    pub(super) fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.bpf.maps()
    }

    pub(super) fn map_named(&self, name: &str) -> Option<&Map> {
        self.bpf.map(name)
    }

    /// A hash map, as it is.
    pub(super) fn data(&self, name: &'static str) -> Result<&MapData, SteerError> {
        match self.bpf.map(name) {
            Some(Map::HashMap(data)) => Ok(data),
            _ => Err(absent(name)),
        }
    }

    pub(super) fn map<'a, T>(&'a mut self, name: &'static str) -> Result<T, SteerError>
    where
        T: TryFrom<&'a mut Map, Error = MapError>,
    {
        let map = self.bpf.map_mut(name).ok_or_else(|| absent(name))?;
        map.try_into().map_err(refused)
    }
}

fn admissions(count: Option<u32>) -> u32 {
    count.unwrap_or(u32::MAX)
}

fn beat(heart: &mut Array<MapData, u64>) -> Result<(), SteerError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(refused)?;
    let nanoseconds = Duration::from(now).as_nanos();
    heart.set(0, u64::try_from(nanoseconds).unwrap_or(u64::MAX), 0).map_err(refused)
}

fn key_v4(customer: &Ipv4Addr, destination: &Ipv4Addr) -> PairKey<4> {
    [customer.octets(), destination.octets()]
}

fn key_v6(customer: &Ipv6Addr, destination: &Ipv6Addr) -> PairKey<16> {
    [customer.octets(), destination.octets()]
}

/// The verifier gives up when a signal comes in (`EAGAIN`); the next try is as good as the first.
fn load(classifier: &mut SchedClassifier) -> Result<(), SteerError> {
    let mut tries = 5;
    loop {
        match classifier.load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == ErrorKind::WouldBlock && tries > 1 =>
            {
                tries -= 1;
            }
            outcome => return outcome.map_err(|error| rejected(&error)),
        }
    }
}

pub(super) const fn name(side: Side) -> &'static str {
    match side {
        Side::Customer => names::CUSTOMER_PROGRAM,
        Side::Internet => names::INTERNET_PROGRAM,
    }
}

/// Whether a program in the kernel, which has 15 octets for its name, is called as ours are.
pub(super) fn is_ours(called: &str) -> bool {
    Side::BOTH.iter().any(|side| name(*side) == called)
}

pub(super) fn refused(error: impl Error) -> SteerError {
    SteerError::Program { reason: describe(&error) }
}

/// The same of a process whose locked memory is limited: that is what an old kernel may mean by `not permitted`.
fn refused_with_a_limit(error: impl Error + 'static) -> SteerError {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((limit, _)) if is_forbidden(&error) && limit != RLIM_INFINITY && counts_maps_as_locked() => {
            SteerError::LockedMemory { reason: describe(&error), limit }
        }
        _ => refused(error),
    }
}

fn is_forbidden(error: &(dyn Error + 'static)) -> bool {
    let forbids = |error: &io::Error| error.raw_os_error() == Some(libc::EPERM);
    error.downcast_ref().is_some_and(forbids) || error.source().is_some_and(is_forbidden)
}

fn counts_maps_as_locked() -> bool {
    uname().is_ok_and(|system| {
        kernel_version(&system.release().to_string_lossy()).is_some_and(|version| version < (5, 11))
    })
}

/// What the verifier says at the end; before it comes the whole program.
fn rejected(error: &ProgramError) -> SteerError {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return refused(error);
    };
    let log = verifier_log.to_string();
    tracing::debug!(log, "the verifier's log");
    let mut last: Vec<&str> = log.lines().rev().filter(|line| !line.is_empty()).take(5).collect();
    last.reverse();
    SteerError::Program { reason: format!("{io_error}: {}", last.join("; ")) }
}

pub(super) fn absent(name: &str) -> SteerError {
    SteerError::Program { reason: format!("the object holds no {name}") }
}

/// The error with its causes: the kernel's own word is in the last of them.
pub(super) fn describe(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !words.contains(&next) {
            words = format!("{words}: {next}");
        }
        cause = error.source();
    }
    words
}

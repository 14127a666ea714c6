//! Why steering could not be installed, checked or removed.

use std::io;
use std::path::PathBuf;

use nix::libc;

/// Says what failed, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    #[error(
        "an agent is running on this host already: stop it first, or take over from it (`weir-agent run --take-over`)"
    )]
    AgentRunning,

    #[error(
        "steering.backend is \"external\": the rules that steer customers to the agent are your own; {0} in them"
    )]
    OwnRules(&'static str),

    #[error(
        "steering.mark: the upper 16 bits are all 0, so every packet would count as steered: set one of them"
    )]
    NoMark,

    #[error("steering.{key}: interface {name} does not exist on this host (see `ip link`)")]
    NoInterface { key: &'static str, name: String },

    #[error("customers.prefixes: the first prefix of IPv{version} needs a restart")]
    NewFamily { version: u8 },

    #[error(
        "{setting} is 0: with when_agent_dies = \"open\" this host must be able to forward the packets itself; \
         set it to 1, or choose \"closed\""
    )]
    NotForwarding { setting: String },

    #[error(
        "steering.table: routing table {table} already holds routes that weir did not make (see `ip route show \
         table {table}`): choose another number"
    )]
    TableInUse { table: u32 },

    #[error(
        "{what} exists already, made by somebody else: remove it, or choose another steering.mark or table"
    )]
    NotOurs { what: String },

    #[error("{what}: {source}{}", hint(.source))]
    System { what: String, source: io::Error },

    #[error(
        "{said:?} is too old: backend = \"tproxy\" needs nft 1.0.6 or newer (Debian 12), which has limits in its JSON"
    )]
    OldNft { said: String },

    #[error("the kernel refused the steering program: {reason} (backend = \"tproxy\" does without it)")]
    Program { reason: String },

    #[error(
        "the kernel refused the steering program: {reason}. Before Linux 5.11 its tables are locked memory, of which this user may \
         have {limit} bytes: raise that limit (LimitMEMLOCK=infinity in a systemd unit), or start as root"
    )]
    LockedMemory { reason: String, limit: u64 },

    #[error("the steering program could not be attached to {interface}: {reason}")]
    Attach { interface: String, reason: String },

    #[error("{path}: {source}{}", hint(.source))]
    Pin { path: PathBuf, source: io::Error },

    #[error(
        "steering.pin_directory: {path} is in no BPF file system and none could be mounted on {parent}: {source}; \
         mount one there (mount -t bpf bpf {parent}) or choose a directory in one"
    )]
    NoBpfFileSystem { path: PathBuf, parent: PathBuf, source: io::Error },

    #[error(
        "steering.pin_directory: {path} is the root of a BPF file system, where others pin too: choose a directory in it"
    )]
    PinsAtRoot { path: PathBuf },

    #[error("nft could not be started: {source}; install the package nftables")]
    NoNft { source: io::Error },

    #[error("nft {action}: {reason}")]
    Nft { action: &'static str, reason: String },

    #[error("the listener could not be handed to the kernel program: {reason}")]
    Listener { reason: String },
}

impl SteerError {
    /// Whether the agent itself is short of something, which says nothing about the host.
    pub(super) fn is_shortage(&self) -> bool {
        let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
        matches!(self, Self::System { source, .. } if source.raw_os_error().is_some_and(|code| short.contains(&code)))
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (root, or CAP_NET_ADMIN with CAP_BPF and CAP_PERFMON, is needed)"
        }
        _ => "",
    }
}

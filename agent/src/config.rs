//! `agent.toml`: every key, its default and the reason for it. The example file and the reference
//! in docs/ are generated from these types.

mod channel;
mod check;
mod customers;
mod node;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::metrics::Metrics;

pub use self::channel::Channel;
pub use self::customers::{Customers, Limit, LimitOverride, Limits, WhenBeyond};
pub use self::node::{Node, Place};

/// The gateway daemon's configuration file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub steering: Steering,
    pub customers: Customers,
    #[serde(default)]
    pub limits: Limits,
    pub filter: Filter,
    #[serde(default)]
    pub relay: Relay,
    #[serde(default)]
    pub spool: Spool,
    #[serde(default)]
    pub state: State,
    #[serde(default)]
    pub log: Log,
    pub metrics: Option<Metrics>,
}

/// How port 25 reaches the agent.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Steering {
    /// `ebpf` (tc programs, kernel 5.10 or newer), `tproxy` (nftables rules), or `external` (rules of your own:
    /// nothing is installed on the host).
    #[schemars(example = &"ebpf")]
    pub backend: Backend,
    /// Interfaces on which customers' packets arrive: names, or with `ebpf` patterns, in which `*` is any number of
    /// characters, as in a shell (`tap*`). Interfaces that fit are steered on as they come. No pattern means the loopback interface, nor a port of
    /// a bridge or bond.
    #[schemars(example = ["cust0"])]
    pub customer_interfaces: Vec<String>,
    /// Interfaces on which the destinations' answers arrive, written in the same way. One may be on both sides.
    #[schemars(example = ["inet0"])]
    pub internet_interfaces: Vec<String>,
    /// Local TCP port of the transparent listener.
    #[serde(default = "defaults::listen_port")]
    pub listen_port: u16,
    /// What becomes of port 25 when the agent is dead: `open` (mail goes straight to its destination)
    /// or `closed` (new connections of customers are dropped until `weir-agent cleanup`).
    #[serde(default)]
    pub when_agent_dies: WhenAgentDies,
    /// Packet mark of steered packets (the default is 0x4d580000; TOML takes hexadecimal). Only the upper 16
    /// bits are used, so that marks of others in the lower 16 stay.
    #[serde(default = "defaults::mark")]
    pub mark: u32,
    /// Routing table that delivers marked packets locally.
    #[serde(default = "defaults::table")]
    pub table: u32,
    /// First and last source port of connections to destinations. Apart from the customers' usual
    /// ports, so that connection tracking never sees two flows as one.
    #[serde(default = "defaults::upstream_ports")]
    pub upstream_ports: [u16; 2],
    /// Where the kernel objects of the `ebpf` backend are pinned: a directory in a BPF file system.
    #[serde(default = "defaults::pin_directory")]
    pub pin_directory: PathBuf,
}

impl Steering {
    pub fn upstream_port_range(&self) -> RangeInclusive<u16> {
        self.upstream_ports[0]..=self.upstream_ports[1]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    Ebpf,
    Tproxy,
    External,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenAgentDies {
    #[default]
    Open,
    Closed,
}

/// The filter nodes that judge messages.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The filter nodes, `address:port` or `name:port` (each address of the name is a node), with what may follow: `weight=2` (its share of the load beside the
    /// others', 1 by itself) and `max_in_flight=50` (messages at a time; no limit by itself).
    #[schemars(with = "Vec<String>", example = ["10.3.0.11:10025", "10.3.0.12:10025"])]
    pub nodes: Vec<Node>,
    /// What the nodes' verdicts mean: `enforce`, `shadow` (messages are judged and the verdicts logged, but all
    /// pass) or `bypass` (no node is asked). In every mode the agent's own limits hold and TLS is removed.
    #[serde(default)]
    pub mode: Mode,
    /// The answer to a message when no node could be reached: `defer` (451, the customer's server
    /// tries again) or `accept` (delivered unjudged).
    #[serde(default)]
    pub when_unavailable: WhenUnavailable,
    /// TLS to the nodes, for those that are not on the same wire. Without this table they are spoken to in clear.
    #[serde(default)]
    pub tls: Option<NodeTls>,
    /// The channel beside mail. Without it nodes block nobody here, and learn of no outcome.
    #[serde(default)]
    pub channel: Option<Channel>,
    /// Test nodes that are asked, too, about messages that have their verdict. Nothing comes of their answers but log lines
    /// (`message mirrored`) and counts, and nobody waits for them.
    #[serde(default)]
    pub mirror: Option<Mirror>,
    /// Customers that are treated otherwise: tables `[[filter.overrides]]`, each with `prefixes` and with `mode`,
    /// `when_unavailable` or both. The longest prefix that fits decides.
    #[serde(default)]
    pub overrides: Vec<Override>,
    /// Whether a node is asked about each recipient as it is named, before the destination is: a refusal then is the
    /// answer to that RCPT. The message is judged at its end in any case; a recipient about whom no node answers
    /// goes to the destination.
    #[serde(default)]
    pub ask_recipients: bool,
    /// Connections to each node, at most, that are kept ready up to before XCLIENT, so that a message waits for
    /// neither connection nor banner. A `weir-filter` takes one message after the other on a connection, whoever's they are
    /// (`XCLIENT-REPEATED`): there messages give their connections back, and as many are kept as messages had at a time,
    /// up to 32 or this number. Of other nodes each message takes one and another is opened in its place. Unused ones are closed
    /// after 8 seconds. None is kept where it would have the place of a message (`max_in_flight`). 100 at most; 0: every message opens its own.
    #[serde(default = "defaults::warm_connections")]
    pub warm_connections: usize,
    /// Seconds from the customer's last byte to a verdict, all tries included. Customers' programs
    /// often wait no longer than 60 s.
    #[serde(default = "defaults::verdict_budget")]
    pub verdict_budget: u64,
    /// Seconds a message may wait while every node has as many as it may (`max_in_flight`). When it is clear that it
    /// would take longer, the message gets 451 at once, whatever `when_unavailable` says.
    #[serde(default = "defaults::max_wait")]
    pub max_wait: u64,
    /// Seconds a node may take to accept a connection.
    #[serde(default = "defaults::node_connect_timeout")]
    pub connect_timeout: u64,
    /// Seconds a node may take to answer a command (the verdict has `verdict_budget`).
    #[serde(default = "defaults::node_reply_timeout")]
    pub reply_timeout: u64,
    /// Seconds after which the nodes' names are resolved again. Nodes that stay keep what is known of them.
    #[serde(default = "defaults::resolve_interval")]
    pub resolve_interval: u64,
    /// Seconds between the probes that tell whether a node is alive and accepts XCLIENT or XFORWARD.
    #[serde(default = "defaults::probe_interval")]
    pub probe_interval: u64,
}

/// TLS to the filter nodes: STARTTLS before XCLIENT, and no message to a node without it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeTls {
    /// Certificates of the authorities that the nodes' certificates must be signed by: a file in PEM.
    #[schemars(example = &"/etc/weir/filter-ca.pem")]
    pub ca_file: PathBuf,
    /// The name in the nodes' certificates. Without it each must be made out to the node as it is written in `nodes`, by its
    /// host name or its address.
    pub server_name: Option<String>,
}

/// Test nodes, asked in the background about a share of the messages that a filter node has judged.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The test nodes, written as `filter.nodes`, and none that is there: it would count each message twice. `filter.tls` and
    /// the time limits of `[filter]` are theirs, too.
    #[schemars(with = "Vec<String>", example = ["10.3.0.21:10025"])]
    pub nodes: Vec<Node>,
    /// What part of the messages is mirrored, more than 0 and at most 1 (all). It is drawn at random for each message.
    #[schemars(example = 0.1)]
    pub share: f64,
    /// Messages mirrored at a time; further ones are skipped, and so are those that come while more than half of the
    /// spool is used.
    #[serde(default = "defaults::mirror_max_in_flight")]
    pub max_in_flight: usize,
}

/// Another treatment for some customers; what is not said is as for all.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Addresses of these customers, IPv4 and IPv6.
    #[schemars(with = "Vec<String>", example = ["10.1.7.0/24"])]
    pub prefixes: Vec<IpNet>,
    /// As `filter.mode`.
    pub mode: Option<Mode>,
    /// As `filter.when_unavailable`.
    pub when_unavailable: Option<WhenUnavailable>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Enforce,
    Shadow,
    Bypass,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::Bypass => "bypass",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnavailable {
    #[default]
    Defer,
    Accept,
}

/// Limits of one relayed session.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Connections at a time; further ones get 421.
    pub max_sessions: usize,
    /// Connections at a time from one customer, an IPv4 address or an IPv6 /64; further ones get 421. It keeps one
    /// customer from taking all places, and from filling the line in front of the filter nodes. 0: no limit.
    pub max_sessions_per_customer: usize,
    /// Bytes that all sessions together hold in memory outside the spool (received and not understood, sent and not
    /// taken). From three quarters of it on they read slowly, above it new connections get 421.
    pub max_buffered: usize,
    /// Bytes of the largest message; larger ones get 552.
    pub max_message_size: u64,
    /// Bytes of the longest line of a message, its CRLF not counted; longer ones get 550. RFC 5321 section
    /// 4.5.3.1.6 asks for 998, real mail has more.
    pub max_line_length: u64,
    /// What becomes of a message in which LF ends a line without CR: `normalise` (the line ends become CRLF, for
    /// filter and destination alike) or `reject` (550). Either way only CRLF.CRLF ends a message.
    pub bare_lf: BareLf,
    /// What becomes of a message with a line longer than `max_line_length`: `reject` or `pass`.
    pub long_lines: LongLines,
    /// Messages of one session; then 421, and the customer's server opens another.
    pub max_messages: u32,
    /// Bytes a second that a customer must send while its message is received, as a mean over a minute;
    /// slower ones get 421.
    pub min_data_rate: u64,
    /// What becomes of a customer that speaks before it was greeted (RFC 5321 section 3.1), or sends a message
    /// before it was told to (section 4.1.1.4); spam software does: `accept` or `reject` (554).
    pub early_talkers: EarlyTalkers,
    /// What a customer sees when its destination is not reached: `reply` (421 with the reason) or `reset`
    /// (the connection is reset, as if nobody had answered).
    pub on_connect_failure: OnConnectFailure,
    /// RCPT commands for one message, refused ones too; further ones get 452 (RFC 5321 section 4.5.3.1.8 asks for 100).
    pub max_recipients: usize,
    /// Commands answered with an error by the agent itself, in one session; then 421.
    pub max_errors: u32,
    /// TLS to destinations: `may` (whenever the destination offers STARTTLS; any certificate will do, and if the
    /// handshake fails mail goes in clear) or `off`. The customer's side stays in clear either way.
    pub destination_tls: DestinationTls,
    /// What becomes of a customer and a destination between which mail is stuck for want of TLS (the customer asks for
    /// STARTTLS, or leaves without it, where the destination offers it): `report` (counted; `status` says how to
    /// exempt them) or `exempt` (their connections go straight, unjudged, for 24 hours, unless a filter node has refused
    /// a message of this customer in the last 24 hours; at most 60 connections an hour).
    pub wanted_tls: WhenTlsWanted,
    /// Whether AUTH is offered to customers where the destination offers STARTTLS too. Without the agent their
    /// password would have travelled in TLS; with it, it travels in clear as far as the agent.
    pub auth_in_clear: bool,
    /// Seconds to reach the destination.
    pub connect_timeout: u64,
    /// Seconds the destination may take to answer a command (RFC 5321 section 4.5.3.2: 5 minutes).
    pub reply_timeout: u64,
    /// Seconds the destination may take to answer the end of data (RFC 5321 section 4.5.3.2.6: 10 minutes).
    pub end_of_data_timeout: u64,
    /// Seconds the customer may be silent (RFC 5321 section 4.5.3.2.7: 5 minutes).
    pub idle_timeout: u64,
    /// Seconds a session may last.
    pub session_timeout: u64,
    /// Seconds a stop waits for messages in flight. One whose end was sent to the destination is waited for
    /// until the destination answered, so that no message is delivered twice.
    pub shutdown_timeout: u64,
    /// Seconds for which an agent that has handed over to another (`run --take-over`) lets its last sessions go on; then it
    /// ends them as a stop does.
    pub drain_timeout: u64,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            max_sessions: 10_000,
            max_sessions_per_customer: 100,
            max_buffered: 512 * 1024 * 1024,
            max_message_size: 100 * 1024 * 1024,
            max_line_length: 8192,
            bare_lf: BareLf::default(),
            long_lines: LongLines::default(),
            max_messages: 1000,
            min_data_rate: 100,
            early_talkers: EarlyTalkers::default(),
            on_connect_failure: OnConnectFailure::default(),
            max_recipients: 1000,
            max_errors: 50,
            destination_tls: DestinationTls::default(),
            wanted_tls: WhenTlsWanted::default(),
            auth_in_clear: false,
            connect_timeout: 30,
            reply_timeout: 300,
            end_of_data_timeout: 600,
            idle_timeout: 300,
            session_timeout: 7200,
            shutdown_timeout: 30,
            drain_timeout: 7200,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DestinationTls {
    #[default]
    May,
    Off,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenTlsWanted {
    #[default]
    Report,
    Exempt,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BareLf {
    #[default]
    Normalise,
    Reject,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LongLines {
    #[default]
    Reject,
    Pass,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EarlyTalkers {
    #[default]
    Accept,
    Reject,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnConnectFailure {
    #[default]
    Reply,
    Reset,
}

/// Where a message's body waits for its verdict.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Bytes of one message kept in memory, in blocks of 16 KiB; the rest goes to an unlinked file. A message takes no more than an
    /// eighth of what `memory_total` leaves, so that many large ones leave room for small ones.
    pub memory_per_message: usize,
    /// Bytes of all messages kept in memory; above it bodies go to files at once.
    pub memory_total: usize,
    /// Bytes of all files; a message that would need more gets 452.
    pub disk_total: u64,
    /// Directory of the files.
    pub directory: PathBuf,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            memory_per_message: 4 * 1024 * 1024,
            memory_total: 256 * 1024 * 1024,
            disk_total: 10 * 1024 * 1024 * 1024,
            directory: PathBuf::from("/var/tmp"),
        }
    }
}

/// What is kept for the next start.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// Directory of what outlives the agent: exempt pairs, lately refused customers, a release that goes on; made when
    /// there is something to keep. Agents in different network
    /// namespaces need one each.
    pub directory: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self { directory: PathBuf::from("/var/lib/weir-agent") }
    }
}

/// What is logged, on standard error.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `json` (one object a line) or `text`.
    pub format: weir_daemon::log::Format,
    /// Whether what destinations and nodes reply is logged as they said it. Otherwise `[address]` stands for each word that holds a
    /// mail address.
    pub addresses: bool,
}

mod defaults {
    use std::path::PathBuf;

    pub(super) fn listen_port() -> u16 {
        2525
    }
    pub(super) fn mark() -> u32 {
        0x4d58_0000
    }
    pub(super) fn table() -> u32 {
        100
    }
    pub(super) fn upstream_ports() -> [u16; 2] {
        [16_384, 32_767]
    }
    pub(super) fn pin_directory() -> PathBuf {
        PathBuf::from("/sys/fs/bpf/weir")
    }
    pub(super) fn warm_connections() -> usize {
        4
    }
    pub(super) fn verdict_budget() -> u64 {
        55
    }
    pub(super) fn mirror_max_in_flight() -> usize {
        50
    }
    pub(super) fn resolve_interval() -> u64 {
        30
    }
    pub(super) fn max_wait() -> u64 {
        10
    }
    pub(super) fn node_connect_timeout() -> u64 {
        3
    }
    pub(super) fn node_reply_timeout() -> u64 {
        20
    }
    pub(super) fn probe_interval() -> u64 {
        10
    }
}

//! What others change on the host, as the kernel tells of it: what was installed is looked after at once, and not only at
//! the next second. That the program was taken off an interface is nothing the kernel tells of.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use socket2::{SockFilter, SockRef};
use tokio::io::unix::AsyncFd;

use super::attributes::{attributes, number_u16, number_u32, text};
use super::routing::PROTOCOL_NUMBER;

/// Longer than any message of the kernel's.
const LONGEST: usize = 64 * 1024;

/// Messages that are read in one go.
const AT_A_TIME: usize = 256;

// Multicast groups of rtnetlink(7): `RTNLGRP_LINK`, `_TC`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_ROUTE`, `_IPV6_RULE`,
// `_IPV4_NETCONF`, `_IPV6_NETCONF`.
const ROUTE_GROUPS: [u32; 8] = [1, 4, 7, 8, 11, 19, 24, 25];

/// Of nftables: `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;

// Their messages.
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const DEL_ROUTE: u16 = 25;
const DEL_RULE: u16 = 33;
const DEL_QDISC: u16 = 37;
const DEL_FILTER: u16 = 45;
const NEW_NETCONF: u16 = 80;
const NFTABLES: u16 = 10 << 8;
const DEL_TABLE: u16 = NFTABLES | 2;
const DEL_CHAIN: u16 = NFTABLES | 5;
const DEL_NFT_RULE: u16 = NFTABLES | 8;
const DEL_SET: u16 = NFTABLES | 11;

/// `NLMSG_HDRLEN`; the type is at 4 in it.
const HEADER: usize = 16;
/// Where `struct rtmsg` has the protocol.
const ROUTE_PROTOCOL: u32 = 16 + 5;
/// `struct nfgenmsg`, and the name of the table, which is the first attribute of all of these.
const NFT_HEADER: usize = 4;
const NFT_TABLE: u16 = 1;

/// Tells of changes.
pub struct Events {
    routing: AsyncFd<Ear>,
    nftables: Option<AsyncFd<Ear>>,
}

impl Events {
    /// Of interfaces, and of what the routing needs. To be called within a runtime.
    pub(super) fn of_routing() -> io::Result<Self> {
        let routing = Ear::open(NETLINK_ROUTE, &ROUTE_GROUPS, None)?;
        // A routing daemon may change thousands of routes a second: this is no matter of ours, and never gets here.
        SockRef::from(&routing.socket).attach_filter(&wanted())?;
        Ok(Self { routing: watched(routing)?, nftables: None })
    }

    /// And of this table of nftables.
    pub(super) fn and_of_table(self, name: &'static str) -> io::Result<Self> {
        let nftables = Ear::open(NETLINK_NETFILTER, &[NFTABLES_GROUP], Some(name))?;
        Ok(Self { nftables: Some(watched(nftables)?), ..self })
    }

    /// Waits for the next change. Several at once are one.
    pub async fn next(&mut self) {
        let nftables = async {
            match &self.nftables {
                Some(ear) => heard(ear).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = heard(&self.routing) => {}
            () = nftables => {}
        }
    }
}

#[expect(unsafe_code, reason = "the runtime cannot see to it by itself")]
fn watched(ear: Ear) -> io::Result<AsyncFd<Ear>> {
    // SAFETY: an ear has one socket, the same and open as long as there is the ear.
    Ok(unsafe { AsyncFd::register(ear) }?)
}

async fn heard(ear: &AsyncFd<Ear>) {
    loop {
        match ear.readable().await {
            Ok(mut ready) => {
                if ready.try_io(|ear| ear.get_ref().listen()).is_ok() {
                    return;
                }
            }
            // The runtime ends.
            Err(_) => std::future::pending().await,
        }
    }
}

/// A socket that hears what is said to all.
struct Ear {
    socket: Socket,
    /// Only changes of this table matter.
    table: Option<&'static str>,
}

impl AsRawFd for Ear {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Ear {
    fn open(protocol: isize, groups: &[u32], table: Option<&'static str>) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self { socket, table })
    }

    /// Reads what there is. `WouldBlock`: nothing of it matters.
    fn listen(&self) -> io::Result<()> {
        let (mut buffer, mut matters) = (vec![0; LONGEST], false);
        for _ in 0..AT_A_TIME {
            let mut room = buffer.as_mut_slice();
            match self.socket.recv(&mut room, 0) {
                Ok(length) => matters |= self.concerns_us(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !matters => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Too much was said to be heard (ENOBUFS): who knows what.
                Err(_) => matters = true,
            }
        }
        Ok(())
    }

    fn concerns_us(&self, datagram: &[u8]) -> bool {
        match self.table {
            // The filter has let it pass.
            None => true,
            Some(table) => concerns_table(datagram, table),
        }
    }
}

/// The kernel tells of a whole transaction in one datagram, or a few.
fn concerns_table(mut rest: &[u8], table: &str) -> bool {
    while let (Some(length), Some(kind)) = (number_u32(rest, 0), number_u16(rest, 4)) {
        let length = (length as usize).max(HEADER);
        let body = rest.get(HEADER + NFT_HEADER..length).unwrap_or_default();
        let is_removal = matches!(kind, DEL_TABLE | DEL_CHAIN | DEL_NFT_RULE | DEL_SET);
        if is_removal && attributes(body).any(|(kind, name)| kind == NFT_TABLE && text(name) == table) {
            return true;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// A filter in the language of bpf(4): messages of the types that matter, of routes only removals of ours.
fn wanted() -> Vec<SockFilter> {
    const TYPES: [u16; 6] = [NEW_LINK, DEL_LINK, DEL_RULE, DEL_QDISC, DEL_FILTER, NEW_NETCONF];
    const ALL: u32 = u32::MAX;
    let load = |size, at| SockFilter::new(code(libc::BPF_LD | size | libc::BPF_ABS), 0, 0, at);
    let equal = |value, then, otherwise| {
        SockFilter::new(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), then, otherwise, value)
    };
    let end = |length| SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, length);
    let mut program = vec![load(libc::BPF_H, 4)];
    for (kind, behind) in TYPES.iter().zip((0..=5_u8).rev()) {
        // Over the other types, and the four steps for routes.
        program.push(equal(as_loaded(*kind), behind + 4, 0));
    }
    program.push(equal(as_loaded(DEL_ROUTE), 0, 2));
    program.push(load(libc::BPF_B, ROUTE_PROTOCOL));
    program.push(equal(u32::from(PROTOCOL_NUMBER), 1, 0));
    program.push(end(0));
    program.push(end(ALL));
    program
}

fn code(parts: u32) -> u16 {
    // Of 16 bits, as all their parts.
    u16::try_from(parts).unwrap_or_default()
}

/// The filter takes numbers for those of the network's byte order, and these are of the machine's.
fn as_loaded(kind: u16) -> u32 {
    u32::from(u16::from_be_bytes(kind.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_host::{ip, on_a_host, output};
    use super::*;

    /// Whether something is heard, at once or never.
    async fn is_heard(events: &mut Events) -> bool {
        tokio::time::timeout(Duration::from_millis(500), events.next()).await.is_ok()
    }

    async fn quiet(events: &mut Events) {
        while is_heard(events).await {}
    }

    fn on_a_host_that_runs(test: impl AsyncFnOnce() + Send + 'static) {
        on_a_host(|| {
            // What the agent has while it runs.
            weir_daemon::privileges::keep_only(&[caps::Capability::CAP_NET_ADMIN, caps::Capability::CAP_BPF])
                .unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test());
        });
    }

    #[test]
    fn what_matters_is_heard_and_nothing_else() {
        on_a_host_that_runs(async || {
            let mut events = Events::of_routing().unwrap();
            for (before, change) in [
                ("link show", "link add x0 type veth peer name x1"),
                ("link show", "link set x0 name x2"),
                ("link show", "link set cust0 down"),
                ("link show", "link del x2"),
                (
                    "rule add pref 99 iif cust0 fwmark 0x4d580000/0xffff0000 lookup 100 proto 87",
                    "rule del pref 99",
                ),
                (
                    "-6 rule add pref 99 fwmark 0x4d580000/0xffff0000 lookup 100 proto 87",
                    "-6 rule del pref 99",
                ),
                ("route add local default dev lo table 100 proto 87", "route flush table 100"),
                ("-6 route add local default dev lo table 100 proto 87", "-6 route flush table 100"),
                ("link show", "link set lo down"),
            ] {
                ip(before);
                quiet(&mut events).await;
                ip(change);
                assert!(is_heard(&mut events).await, "{change}");
                quiet(&mut events).await;
            }
            for change in [
                "route add 192.0.2.0/24 dev inet0",
                "route del 192.0.2.0/24",
                "-6 route add 2001:db8::/32 dev inet0",
            ] {
                ip(change);
                assert!(!is_heard(&mut events).await, "{change}");
            }
            output("tc", "qdisc add dev inet0 clsact");
            quiet(&mut events).await;
            output("tc", "qdisc del dev inet0 clsact");
            assert!(is_heard(&mut events).await, "a queueing discipline");
            quiet(&mut events).await;
            std::fs::write("/proc/sys/net/ipv4/conf/inet0/forwarding", "0").unwrap();
            assert!(is_heard(&mut events).await, "forwarding");
        });
    }

    #[test]
    fn of_nftables_the_one_table() {
        on_a_host_that_runs(async || {
            let mut events = Events::of_routing().unwrap().and_of_table("weir").unwrap();
            // The host was made a moment ago.
            quiet(&mut events).await;
            let nft = |command: &str| output("nft", command);
            for table in ["weir", "other"] {
                for chain in ["add table inet", "add chain inet"] {
                    nft(&format!("{chain} {table}{}", if chain.contains("chain") { " c" } else { "" }));
                }
                nft(&format!("add rule inet {table} c accept"));
                assert!(!is_heard(&mut events).await);
                nft(&format!("flush chain inet {table} c"));
                assert_eq!(is_heard(&mut events).await, table == "weir", "a rule of {table}");
                quiet(&mut events).await;
                nft(&format!("delete table inet {table}"));
                assert_eq!(is_heard(&mut events).await, table == "weir", "table {table}");
                quiet(&mut events).await;
            }
            nft("add table inet weir");
            nft("add table inet another");
            nft("flush ruleset");
            assert!(is_heard(&mut events).await, "all tables");
        });
    }

    /// More than there is room for: then something may have been missed.
    #[test]
    fn too_much_is_heard_as_one() {
        on_a_host_that_runs(async || {
            let mut events = Events::of_routing().unwrap();
            let changes: String =
                (0..3000).map(|number| format!("link set cust0 alias {number}\n")).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), changes).unwrap();
            ip(&format!("-batch {}", file.path().display()));
            let mut heard = 0;
            while is_heard(&mut events).await {
                heard += 1;
            }
            assert!((1..=12).contains(&heard), "{heard} times");
            ip("link set cust0 alias last");
            assert!(is_heard(&mut events).await, "after an overrun");
        });
    }
}

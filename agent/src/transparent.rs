//! Sockets with other hosts' addresses: the listener that takes customers' connections to any destination,
//! and connections to destinations from the customers' own addresses.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that wait to be accepted. The kernel caps it at `net.core.somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;

/// Ports tried for one connection, each of which may be in use towards its destination.
const PORT_TRIES: u32 = 64;

/// The customer's end of an intercepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CustomerAddr(SocketAddr);

/// The destination to which the customer meant to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDst(SocketAddr);

macro_rules! address {
    ($name:ident) => {
        impl $name {
            /// An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`) is made an IPv4 address.
            pub fn new(address: SocketAddr) -> Self {
                Self(SocketAddr::new(address.ip().to_canonical(), address.port()))
            }

            pub fn get(self) -> SocketAddr {
                self.0
            }

            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

address!(CustomerAddr);
address!(OriginalDst);

/// An intercepted connection.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    pub customer: CustomerAddr,
    pub destination: OriginalDst,
}

/// Listens for connections to whatever address the steering rules give it.
#[derive(Debug)]
pub struct TransparentListener {
    listener: TcpListener,
    port: u16,
}

impl TransparentListener {
    /// Listens on `port` (0: the kernel's choice), IPv4 and IPv6 on one socket; IPv4 alone where the kernel
    /// has no IPv6. Needs CAP_NET_ADMIN (`EPERM` otherwise), and a tokio runtime.
    pub fn bind(port: u16) -> io::Result<Self> {
        let socket = match Socket::new(Domain::IPV6, Type::STREAM.nonblocking(), Some(Protocol::TCP)) {
            Ok(socket) => {
                socket.set_only_v6(false)?;
                socket.set_ip_transparent_v6(true)?;
                socket.set_reuse_address(true)?;
                socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
                socket
            }
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
                socket.set_reuse_address(true)?;
                socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
                socket
            }
            Err(error) => return Err(error),
        };
        // The IPv4 option as well: without it the kernel does not answer for foreign IPv4 addresses.
        socket.set_ip_transparent_v4(true)?;
        socket.listen(BACKLOG)?;
        Self::new(socket)
    }

    /// Another process's, which listens already.
    ///
    /// # Errors
    /// If it is no listening socket.
    pub(crate) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        Self::new(socket)
    }

    fn new(socket: Socket) -> io::Result<Self> {
        // Accepted connections have it from the listener.
        socket.set_tcp_nodelay(true)?;
        let listener = TcpListener::from_std(socket.into())?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next intercepted connection. Errors are the kernel's: some (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`)
    /// last, so a caller must pause before it tries again.
    ///
    /// A connection made to the listener's own port was not intercepted: relayed, it would come back
    /// to us for ever. It is closed.
    pub async fn accept(&self) -> io::Result<Accepted> {
        loop {
            let (stream, customer) = self.listener.accept().await?;
            let destination = stream.local_addr()?;
            if destination.port() == self.port {
                tracing::debug!(%customer, "connection to the listener's own port closed");
                continue;
            }
            let (customer, destination) = (CustomerAddr::new(customer), OriginalDst::new(destination));
            return Ok(Accepted { stream, customer, destination });
        }
    }
}

impl AsFd for TransparentListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Whose address the destination sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Customer,
    /// The gateway's own, as the route has it: where the customer's is hidden from the internet by this host, an answer
    /// comes to the gateway's in any case, and would not be known for the agent's.
    Gateway,
}

/// Connects to the destination, from the customer's address and a port of `ports`, or from the gateway's.
///
/// Errors are the kernel's (`ECONNREFUSED`, `EHOSTUNREACH`, ...); `TimedOut` after `timeout`, and
/// `AddrNotAvailable` when the ports tried are all in use towards this destination.
pub async fn connect(
    customer: CustomerAddr,
    destination: OriginalDst,
    source: Source,
    ports: RangeInclusive<u16>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let attempt = async {
        match source {
            Source::Customer => connect_from_range(customer, destination, ports).await,
            Source::Gateway => {
                let stream = TcpStream::connect(destination.get()).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
        }
    };
    tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Binds ports of the range one after the other, from a random one. The kernel will not choose for us: it
/// takes `IP_LOCAL_PORT_RANGE` only within `net.ipv4.ip_local_port_range`, which is where the
/// customers' own ports are.
async fn connect_from_range(
    customer: CustomerAddr,
    destination: OriginalDst,
    ports: RangeInclusive<u16>,
) -> io::Result<TcpStream> {
    let (first, count) =
        (u32::from(*ports.start()), u32::from(ports.end().saturating_sub(*ports.start())) + 1);
    let start = rand::random_range(0..count);
    for step in 0..PORT_TRIES.min(count) {
        let Ok(port) = u16::try_from(first + (start + step) % count) else { continue };
        let socket = match bound_socket(SocketAddr::new(customer.ip(), port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
            socket => socket?,
        };
        match TcpSocket::from_std_stream(socket.into()).connect(destination.get()).await {
            Err(error) if matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse) => {}
            outcome => return outcome,
        }
    }
    Err(ErrorKind::AddrNotAvailable.into())
}

/// A socket with an address that need not be this host's.
fn bound_socket(source: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(source), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    match source {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.set_tcp_nodelay(true)?;
    // The same port in use towards another destination is no conflict.
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(source))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_canonical() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:25".parse().unwrap();
        assert_eq!(OriginalDst::new(mapped).to_string(), "192.0.2.1:25");
        let v6: SocketAddr = "[2001:db8::1]:25".parse().unwrap();
        assert_eq!(CustomerAddr::new(v6).get(), v6);
    }

    #[tokio::test]
    async fn source_ports_come_from_the_range() {
        let destination = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let original = OriginalDst::new(destination.local_addr().unwrap());
        let ports = 20_000..=20_003;
        let mut streams = Vec::new();
        for _ in ports.clone() {
            let customer = CustomerAddr::new("127.0.0.9:1".parse().unwrap());
            let stream = connect(customer, original, Source::Customer, ports.clone(), Duration::from_secs(5))
                .await
                .unwrap();
            let local = stream.local_addr().unwrap();
            assert_eq!(local.ip(), customer.ip());
            assert!(ports.contains(&local.port()), "{local}");
            streams.push(stream);
        }
        let customer = CustomerAddr::new("127.0.0.9:1".parse().unwrap());
        let error =
            connect(customer, original, Source::Customer, ports, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        // Reset, so that the ports are free for the next run.
        streams.iter().for_each(|stream| stream.set_zero_linger().unwrap());
    }

    #[tokio::test]
    async fn the_listeners_own_port_is_not_relayed() {
        use tokio::io::AsyncReadExt;

        let listener = TransparentListener::bind(0).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", listener.port())).await.unwrap();
        let mut buffer = [0; 1];
        tokio::select! {
            accepted = listener.accept() => panic!("accepted {accepted:?}"),
            read = client.read(&mut buffer) => assert_eq!(read.unwrap(), 0),
        }
    }
}

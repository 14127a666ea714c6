//! Packets of JSON, with descriptors, between two agents on one host: a Unix socket (`SOCK_SEQPACKET`) with an abstract
//! name, which belongs to the network namespace as steering does. The kernel says who is at the other end.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    UnixAddr, accept4, bind, connect, getsockopt, listen, recvmsg, sendmsg, shutdown, socket,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::SockRef;

/// Octets of a packet: less than any kernel lets a socket hold.
const MAX_PACKET: usize = 128 * 1024;

/// Descriptors in one packet; the kernel takes 253.
pub const MAX_DESCRIPTORS: usize = 64;

/// Agents that wait to be heard.
const BACKLOG: i32 = 64;

/// How long a packet may wait until the other end has room for it.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What a channel does; in tests it may break at any moment.
pub trait Line {
    /// # Errors
    /// If nobody is at the other end any more.
    fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()>;

    /// The next packet, within this time (zero: whenever it comes).
    ///
    /// # Errors
    /// `UnexpectedEof` if nobody is at the other end any more and nothing is left of what was sent, `TimedOut`, or what is
    /// wrong with the packet.
    fn receive<M: DeserializeOwned>(&self, limit: Duration) -> io::Result<(M, Vec<OwnedFd>)>;

    /// Ends it in both directions.
    fn end(&self);

    /// The other end can send nothing more, and knows it. What it sent before can still be received.
    fn hear_no_more(&self);
}

/// A socket with this name, on which nobody listens yet.
pub fn bound(name: &str) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    Ok(socket)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

/// From now on others can connect.
pub fn open(socket: &impl AsFd) -> io::Result<()> {
    Ok(listen(&socket.as_fd(), Backlog::new(BACKLOG)?)?)
}

impl Channel {
    /// To whoever listens on this name. `ConnectionRefused`: nobody does.
    pub fn connect(name: &str) -> io::Result<Self> {
        let socket = new_socket()?;
        // For a place among those who wait, too.
        SockRef::from(&socket).set_write_timeout(Some(SEND_PATIENCE))?;
        connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
        Self(socket).checked()
    }

    /// The next that connects.
    pub fn accept(listener: &impl AsFd) -> io::Result<Self> {
        let descriptor = accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        #[expect(unsafe_code, reason = "accept(2) gives a number")]
        // SAFETY: the descriptor is new, and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Self(socket).checked()
    }

    /// An abstract name is anybody's to use: what counts is who does.
    fn checked(self) -> io::Result<Self> {
        let (user, own) = (getsockopt(&self.0, PeerCredentials)?.uid(), nix::unistd::geteuid().as_raw());
        if user != 0 && user != own {
            let words = format!("user {user} is at the other end, neither root nor user {own}");
            return Err(io::Error::new(ErrorKind::PermissionDenied, words));
        }
        SockRef::from(&self.0).set_write_timeout(Some(SEND_PATIENCE))?;
        Ok(self)
    }

    #[cfg(test)]
    pub(super) fn pair() -> (Self, Self) {
        use nix::sys::socket::socketpair;

        let flags = SockFlag::SOCK_CLOEXEC;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Self(one), Self(other))
    }

    fn receive_packet(&self, limit: Duration) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let (mut packet, mut control) = (vec![0; MAX_PACKET], cmsg_space!([RawFd; MAX_DESCRIPTORS]));
        let (mut parts, flags) = ([IoSliceMut::new(&mut packet)], MsgFlags::MSG_CMSG_CLOEXEC);
        let begin = Instant::now();
        let received = loop {
            // Zero would be for ever.
            let left = limit.saturating_sub(begin.elapsed()).max(Duration::from_millis(1));
            SockRef::from(&self.0).set_read_timeout((!limit.is_zero()).then_some(left))?;
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                // A signal, or the process was stopped and goes on: nobody has gone.
                Err(Errno::EINTR) => {}
                received => break received?,
            }
        };
        let (length, is_cut) =
            (received.bytes, received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC));
        let mut descriptors = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = message {
                #[expect(unsafe_code, reason = "recvmsg(2) gives numbers")]
                // SAFETY: the kernel has made these descriptors for us.
                descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
        }
        if is_cut {
            return Err(io::Error::new(ErrorKind::InvalidData, "a packet longer than any of ours"));
        }
        packet.truncate(length);
        Ok((packet, descriptors))
    }
}

impl Line for Channel {
    fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        if packet.len() > MAX_PACKET {
            return Err(io::Error::new(ErrorKind::InvalidData, "too much for one packet"));
        }
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[][..] } else { &rights };
        let parts = [IoSlice::new(&packet)];
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    fn receive<M: DeserializeOwned>(&self, limit: Duration) -> io::Result<(M, Vec<OwnedFd>)> {
        match self.receive_packet(limit) {
            Ok((packet, _)) if packet.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            // It ended with something of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
            Ok((packet, descriptors)) => Ok((serde_json::from_slice(&packet)?, descriptors)),
        }
    }

    fn end(&self) {
        // An error means that it has ended already.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }

    fn hear_no_more(&self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Read);
    }
}

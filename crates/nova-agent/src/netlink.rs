//! Three requests to the kernel's routing table, by hand: a library would be larger than the agent.
//!
//! ```text
//!   0       4      6       8     12    16                      aligned to 4
//!   ┌───────┬──────┬───────┬─────┬─────┬───────────────┬──────────────────────────┐
//!   │ length│ type │ flags │ seq │ pid │ fixed part    │ attributes: length, type,│
//!   │ u32   │ u16  │ u16   │ u32 │ u32 │ of the type   │ value (u16, u16, bytes)  │
//!   └───────┴──────┴───────┴─────┴─────┴───────────────┴──────────────────────────┘
//! ```
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    socket,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

/// Bytes of the header that begins every message.
const HEADER_BYTES: usize = 16;

/// A socket to the kernel's routing table.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens it.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        // Address 0 is the kernel.
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link_up(&mut self, interface: &str) -> io::Result<()> {
        let index = if_nametoindex(interface)?;
        let up = libc::IFF_UP as u32;
        // struct ifinfomsg: family, padding, type, index, flags, which flags to change.
        let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
        body.extend([index.to_ne_bytes(), up.to_ne_bytes(), up.to_ne_bytes()].concat());
        self.request(libc::RTM_NEWLINK, 0, &body)
    }

    /// Gives an interface its address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(
        &mut self,
        interface: &str,
        address: Ipv4Addr,
        prefix_length: u8,
    ) -> io::Result<()> {
        let index = if_nametoindex(interface)?;
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut body = vec![libc::AF_INET as u8, prefix_length, 0, libc::RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        body.extend(attribute(libc::IFA_LOCAL, address.octets()));
        body.extend(attribute(libc::IFA_ADDRESS, address.octets()));
        self.request(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
    }

    /// Sends everything that is not local to this gateway.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_default_route(&mut self, interface: &str, gateway: Ipv4Addr) -> io::Result<()> {
        let index = if_nametoindex(interface)?;
        // struct rtmsg: family, destination, source and tos lengths, table, protocol, scope, type, flags.
        let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
        body.extend([
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        body.extend(0_u32.to_ne_bytes());
        body.extend(attribute(libc::RTA_GATEWAY, gateway.octets()));
        body.extend(attribute(libc::RTA_OIF, index.to_ne_bytes()));
        self.request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
    }

    /// Sends one request and waits for its acknowledgement.
    fn request(&mut self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let length = (HEADER_BYTES + body.len()) as u32;
        let mut message = Vec::with_capacity(length as usize);
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        acknowledged(&answer[..length], self.sequence)
    }
}

/// One attribute with a value of 4 bytes, which needs no padding.
fn attribute(kind: u16, value: [u8; 4]) -> Vec<u8> {
    let length = 8_u16;
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat()
}

/// Reads an acknowledgement: an error message whose error number is 0 if all is well.
fn acknowledged(answer: &[u8], sequence: u32) -> io::Result<()> {
    let field = |at: usize| answer.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let (Some(answered), Some(number)) = (field(8), field(HEADER_BYTES)) else {
        return Err(io::Error::other("the kernel's answer is too short"));
    };
    if i32::from(kind.unwrap_or_default()) != libc::NLMSG_ERROR || answered != sequence {
        return Err(io::Error::other("the kernel answered something else"));
    }
    match number as i32 {
        0 => Ok(()),
        negative => Err(io::Error::from_raw_os_error(-negative)),
    }
}

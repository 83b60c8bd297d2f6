//! The kernel's links, by netlink, without running commands; [`super::addresses`] has the rest.
//!
//! A [`Netlink`] acts in the namespace of the thread that opened it, for as long as it lives. It
//! blocks: it is for the threads of [`super::namespace`], which are no runtime's workers.
use super::NetworkError;
use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoVeth, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::tc::TcMessage;
use rtnetlink::{
    Error, Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
};
use std::future::Future;
use std::os::fd::{AsRawFd, BorrowedFd};
use tokio::runtime::Runtime;

/// Ports of a bridge, fixed in the kernel.
const PORTS_MAX: u16 = 1023;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// A link as far as Nova is concerned.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Where Nova writes the owner.
    pub(crate) alias: Option<String>,
    pub(crate) mtu: u32,
}

/// A veth pair to be made: one end here, the other in a guest's namespace.
pub(super) struct VethPair<'a> {
    pub(super) name: &'a str,
    pub(super) mtu: u32,
    pub(super) peer_name: &'a str,
    pub(super) peer_mac: Mac,
    pub(super) peer_namespace: BorrowedFd<'a>,
}

/// A connection to the kernel.
pub(crate) struct Netlink {
    pub(super) runtime: Runtime,
    pub(super) handle: Handle,
}

impl Netlink {
    /// In the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, NetworkError> {
        let failed = |error| NetworkError::failed("netlink socket", error);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    pub(super) fn run<T>(
        &self,
        what: impl FnOnce() -> String,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, NetworkError> {
        self.runtime.block_on(request).map_err(|error| NetworkError::failed(what(), error))
    }

    /// All links.
    pub(crate) fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let all = self.handle.link().get().execute().try_collect::<Vec<_>>();
        Ok(self.run(|| "list of links".into(), all)?.iter().map(Link::from).collect())
    }

    /// The link with this name, if there is one.
    pub(crate) fn link(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        let request = self.handle.link().get().match_name(name.to_owned()).execute();
        match self.runtime.block_on(request.try_collect::<Vec<_>>()) {
            Ok(found) => Ok(found.first().map(Link::from)),
            Err(error) if is(&error, nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(NetworkError::failed(format!("link {name}"), error)),
        }
    }

    /// The index of a link that must be there.
    pub(super) fn index(&self, name: &str) -> Result<u32, NetworkError> {
        let link = self.link(name)?;
        link.map(|link| link.index)
            .ok_or_else(|| NetworkError::failed(format!("link {name}"), "it does not exist"))
    }

    /// A bridge; `false` where the name is taken.
    pub(super) fn add_bridge(
        &self,
        name: &str,
        alias: &str,
        mac: Mac,
        mtu: u32,
    ) -> Result<bool, NetworkError> {
        // Down: its firewall is not there yet.
        let bridge =
            LinkMessageBuilder::<LinkBridge>::new(name).address(mac.to_vec()).mtu(mtu).build();
        match self.runtime.block_on(self.handle.link().add(bridge).execute()) {
            Ok(()) => {}
            Err(error) if is(&error, nix::libc::EEXIST) => return Ok(false),
            Err(error) => return Err(NetworkError::failed(format!("bridge {name}"), error)),
        }
        // The kernel reads the alias only of a link that exists.
        let index = self.index(name)?;
        self.set_alias(index, name, alias)?;
        Ok(true)
    }

    fn set_alias(&self, index: u32, name: &str, alias: &str) -> Result<(), NetworkError> {
        let change = LinkUnspec::new_with_index(index).alias(alias).build();
        self.run(|| format!("alias of link {name}"), self.handle.link().change(change).execute())
    }

    /// A veth pair. The name of its host end says whose it is.
    pub(super) fn add_veth(&self, pair: &VethPair<'_>) -> Result<(), NetworkError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(pair.peer_name)
            .address(pair.peer_mac.to_vec())
            .mtu(pair.mtu)
            .setns_by_fd(pair.peer_namespace.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new(pair.name, pair.peer_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(pair.mtu)
            .build();
        self.run(|| format!("veth pair {}", pair.name), self.handle.link().add(message).execute())
    }

    /// Attaches a link to a bridge as a port that is told everything and learns nothing: it talks
    /// to the bridge only, never to another port, and frames for unknown receivers stay away.
    pub(super) fn attach_port(&self, index: u32, bridge: u32) -> Result<(), NetworkError> {
        let attach = LinkUnspec::new_with_index(index).controller(bridge).up().build();
        match self.runtime.block_on(self.handle.link().change(attach).execute()) {
            Err(error) if is(&error, nix::libc::EXFULL) => {
                return Err(NetworkError::Exhausted(PORTS_MAX));
            }
            other => other.map_err(|error| NetworkError::failed("bridge port", error))?,
        }
        let port = LinkBridgePort::new(index)
            .append_info_data(InfoBridgePort::Isolated(true))
            .append_info_data(InfoBridgePort::Learning(false))
            .append_info_data(InfoBridgePort::UnicastFlood(false))
            .append_info_data(InfoBridgePort::MulticastFlood(false))
            .append_info_data(InfoBridgePort::BroadcastFlood(false))
            .build();
        self.run(|| "bridge port".into(), self.handle.link().change(port).execute())
    }

    pub(super) fn set_up(&self, index: u32) -> Result<(), NetworkError> {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.run(|| "link".into(), self.handle.link().change(up).execute())
    }

    pub(super) fn set_mac(&self, index: u32, mac: Mac) -> Result<(), NetworkError> {
        let change = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
        self.run(|| "hardware address".into(), self.handle.link().change(change).execute())
    }

    /// Deletes a link, and with it its peer; not being there is fine.
    pub(crate) fn delete_link(&self, name: &str) -> Result<bool, NetworkError> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.runtime.block_on(self.handle.link().del_with_message(message).execute()) {
            Ok(()) => Ok(true),
            Err(error) if is(&error, nix::libc::ENODEV) => Ok(false),
            Err(error) => Err(NetworkError::failed(format!("link {name}"), error)),
        }
    }

    /// Deletes many links at once, which the kernel does about as fast as one: it waits for its
    /// readers once per request. `group` is a number that no other links carry. Those that are
    /// not there are left out.
    pub(super) fn delete_links(
        &self,
        names: impl Iterator<Item = String>,
        group: u32,
    ) -> Result<(), NetworkError> {
        let absent_is_fine = |result: Result<(), Error>| match result {
            Err(error) if is(&error, nix::libc::ENODEV) => Ok(()),
            other => other.map_err(|error| NetworkError::failed("links of guests", error)),
        };
        for name in names {
            let mark = LinkUnspec::new_with_name(&name).link_group(group).build();
            absent_is_fine(self.runtime.block_on(self.handle.link().change(mark).execute()))?;
        }
        let marked = LinkMessageBuilder::<LinkUnspec>::new().link_group(group).build();
        let request = self.handle.link().del_with_message(marked).execute();
        absent_is_fine(self.runtime.block_on(request))
    }

    /// Makes or replaces the discipline that a link's packets queue in.
    pub(super) fn replace_qdisc(&self, link: &str, message: TcMessage) -> Result<(), NetworkError> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let failed = |error: &dyn std::fmt::Display| {
            NetworkError::failed(format!("bandwidth limit of {link}"), error)
        };
        let mut handle = self.handle.clone();
        let answers =
            self.runtime.block_on(async { Ok(handle.request(request)?.collect::<Vec<_>>().await) });
        for answer in answers.map_err(|error: Error| failed(&error))? {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.raw_code() != 0
            {
                return Err(failed(&error));
            }
        }
        Ok(())
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link =
            Self { index: message.header.index, name: String::new(), alias: None, mtu: 0 };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        link
    }
}

/// Whether the kernel answered with this error number.
pub(super) fn is(error: &Error, number: i32) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code() == -number)
}

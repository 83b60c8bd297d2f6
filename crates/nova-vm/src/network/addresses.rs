//! Addresses, routes and neighbours, by the connection of [`super::netlink`].
use super::NetworkError;
use super::netlink::{Mac, Netlink, is};
use futures::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use std::net::{IpAddr, Ipv4Addr};

/// An IPv4 network that this host has an address in or a route to.
#[derive(Debug)]
pub(super) struct KnownNetwork {
    pub(super) link_index: u32,
    pub(super) address: Ipv4Addr,
    pub(super) prefix_length: u8,
}

impl Netlink {
    pub(super) fn add_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        prefix_length: u8,
    ) -> Result<(), NetworkError> {
        let request = self.handle.address().add(index, IpAddr::V4(address), prefix_length);
        self.run(|| format!("address {address}/{prefix_length}"), request.execute())
    }

    /// A default route through a gateway that no network of ours contains.
    pub(super) fn add_default_route(
        &self,
        index: u32,
        gateway: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(index)
            .onlink()
            .build();
        self.run(|| format!("route via {gateway}"), self.handle.route().add(route).execute())
    }

    /// A neighbour that needs no ARP, and that no ARP can change.
    pub(super) fn add_neighbour(
        &self,
        index: u32,
        address: Ipv4Addr,
        mac: Mac,
    ) -> Result<(), NetworkError> {
        let neighbours = self.handle.neighbours();
        let request =
            neighbours.add(index, IpAddr::V4(address)).link_layer_address(&mac).replace().execute();
        self.run(|| format!("neighbour {address}"), request)
    }

    /// Takes a neighbour away; not being there is fine.
    pub(super) fn delete_neighbour(
        &self,
        index: u32,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        match self.runtime.block_on(self.handle.neighbours().del(message).execute()) {
            Err(error) if !is(&error, nix::libc::ENOENT) && !is(&error, nix::libc::ENODEV) => {
                Err(NetworkError::failed(format!("neighbour {address}"), error))
            }
            _ => Ok(()),
        }
    }

    /// Tells the bridge behind which port a hardware address is.
    pub(super) fn add_forwarding(&self, port: u32, mac: Mac) -> Result<(), NetworkError> {
        let neighbours = self.handle.neighbours();
        let request = neighbours
            .add_bridge(port, &mac)
            .flags(NeighbourFlags::Controller)
            .state(NeighbourState::Noarp)
            .execute();
        self.run(|| "forwarding entry of the bridge".into(), request)
    }

    /// Networks of this host's addresses and routes, without the default route.
    pub(super) fn known_networks(&self) -> Result<Vec<KnownNetwork>, NetworkError> {
        let addresses = self.handle.address().get().execute().try_collect::<Vec<_>>();
        let addresses = self.run(|| "list of addresses".into(), addresses)?;
        let mut known = Vec::new();
        for message in addresses {
            for attribute in &message.attributes {
                if let AddressAttribute::Address(IpAddr::V4(address)) = attribute {
                    known.push(KnownNetwork {
                        link_index: message.header.index,
                        address: *address,
                        prefix_length: message.header.prefix_len,
                    });
                }
            }
        }
        for message in self.routes()? {
            let mut link_index = 0;
            let mut destination = None;
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => link_index = *index,
                    RouteAttribute::Destination(RouteAddress::Inet(to)) => destination = Some(*to),
                    _ => {}
                }
            }
            let prefix_length = message.header.destination_prefix_length;
            if let Some(address) = destination
                && prefix_length > 0
            {
                known.push(KnownNetwork { link_index, address, prefix_length });
            }
        }
        Ok(known)
    }

    /// The link of the default route with the lowest metric, if there is one.
    pub(super) fn default_route_link(&self) -> Result<Option<u32>, NetworkError> {
        let routes = self.routes()?;
        let defaults = routes.iter().filter(|r| r.header.destination_prefix_length == 0);
        let with_metric = defaults.filter_map(|route| {
            let (mut link, mut metric) = (None, 0);
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => link = Some(*index),
                    RouteAttribute::Priority(priority) => metric = *priority,
                    _ => {}
                }
            }
            link.map(|link| (metric, link))
        });
        Ok(with_metric.min().map(|(_, link)| link))
    }

    fn routes(&self) -> Result<Vec<RouteMessage>, NetworkError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.handle.route().get(query).execute().try_collect::<Vec<_>>();
        self.run(|| "list of routes".into(), routes)
    }
}

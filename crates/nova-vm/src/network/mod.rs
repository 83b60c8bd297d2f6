//! The network of guests: a namespace each, made ahead of need, cut off from all but what the
//! function's policy opens. [`guest`] draws the picture, [`rules`] has the firewall.
//!
//! Making and removing take milliseconds of blocking work in namespaces, so they happen on threads
//! of their own: one keeps a stock of namespaces with the default policy, one removes what was
//! dropped. [`Network::take`] usually only takes from the stock.
//!
//! A [`NetworkSlot`] dropped at any time, by anyone, ends in the remover's queue. `shutdown` lets
//! the remover finish and then sweeps by name, as the reconciler does after a crash.
mod addresses;
mod firewall;
mod guest;
mod host;
pub(crate) mod namespace;
mod netlink;
mod obstacles;
mod readiness;
mod remover;
mod resolvers;
mod rules;
mod shaping;
mod slot;
mod stock;
mod tap;

pub(crate) use host::sweep;
pub(crate) use netlink::Netlink;
pub use obstacles::{Obstacle, obstacles};
pub use slot::NetworkSlot;

use crate::lease::Lease;
use crate::owner::Owner;
use crate::slots::{AddressRange, SlotAllocator};
use firewall::Firewall;
use guest::Common;
use nova_domain::{Limits, NetworkPolicy};
use remover::Remover;
use slot::Builder;
use std::net::Ipv4Addr;
use std::sync::Arc;
use stock::Stock;
use tokio::sync::Semaphore;

/// Namespaces made at once beside the stock's: more only wait for the kernel's one lock on links.
const PARALLEL_MAX: usize = 4;

/// How a guest is attached inside its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// Firecracker: a TAP that the slot's `uid_root` may open, behind NAT in the namespace.
    Tap,
    /// Containers: the guest's address on `eth0` in the namespace, set up already.
    Interface,
}

/// What the operator may set.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// How guests are attached.
    pub attachment: Attachment,
    /// Name servers that guests may ask (port 53 only); `None` takes those of the host.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// Namespaces kept ready. Each costs about 100 KiB of kernel memory.
    pub stock: usize,
}

/// Why there is no network, or none for a guest.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetworkError {
    /// The host uses the addresses that guests are to get.
    #[error(
        "network_range {range} overlaps {other} on {link}; set network_range (or \
         NOVA_NETWORK_RANGE) to a private network that this host does not use, for example \
         10.200.0.0/16"
    )]
    Overlap {
        /// The configured range.
        range: AddressRange,
        /// The network that is there already.
        other: String,
        /// The link that it is on.
        link: String,
    },
    /// Every slot is in use, or every port of the bridge.
    #[error("all network slots of this daemon are in use ({0} at most); lower the number of VMs")]
    Exhausted(u16),
    /// A step failed.
    #[error("{what}: {problem}")]
    Failed {
        /// The thing that was worked on.
        what: String,
        /// What went wrong and what to try.
        problem: String,
    },
}

impl NetworkError {
    fn failed(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Failed { what: what.into(), problem: problem.to_string() }
    }
}

/// The bridge, the firewall and the stock of namespaces of one daemon.
#[derive(Debug)]
pub struct Network {
    builder: Builder,
    stock: Arc<Stock>,
    remover: Remover,
    parallel: Arc<Semaphore>,
}

impl Network {
    /// Makes bridge and firewall, and starts to make namespaces ahead. What an earlier run of this
    /// owner left must be gone: see [`crate::reconcile`].
    pub async fn start(
        owner: Owner,
        lease: &Lease,
        config: NetworkConfig,
    ) -> Result<Self, NetworkError> {
        let firewall = Firewall::find()?;
        let resolvers = config.resolvers.unwrap_or_else(resolvers::of_host);
        if resolvers.is_empty() {
            tracing::warn!(
                "no name server that guests can reach in /etc/resolv.conf; set resolvers (or \
                 NOVA_RESOLVERS)"
            );
        }
        let prepared = namespace::on_thread(|| host::prepare(&owner, lease, &firewall, &resolvers));
        let bridge = match prepared {
            Ok(bridge) => bridge,
            Err(error) => {
                remover::sweep_and_log(&owner, lease);
                return Err(error);
            }
        };
        let common = Arc::new(Common {
            owner,
            space: lease.space(),
            attachment: config.attachment,
            resolvers,
            firewall,
            bridge,
        });
        let remover = Remover::start(common.clone(), lease.clone())?;
        let slots = lease.slots().clone();
        let builder = Builder { common, slots, remover: remover.queue() };
        let stock = Arc::new(Stock::start(builder.clone(), config.stock)?);
        let parallel = Arc::new(Semaphore::new(PARALLEL_MAX));
        Ok(Self { builder, stock, remover, parallel })
    }

    /// The slots of the lease, for guests without a namespace: they need their uids all the same.
    pub fn slots(&self) -> &SlotAllocator {
        &self.builder.slots
    }

    /// Name of the bridge.
    pub fn bridge(&self) -> &str {
        &self.builder.common.bridge.name
    }

    /// The name servers that guests may ask.
    pub fn resolvers(&self) -> &[Ipv4Addr] {
        &self.builder.common.resolvers
    }

    /// How many namespaces are ready to be taken.
    pub fn ready(&self) -> usize {
        self.stock.ready()
    }

    /// A namespace for a guest with this policy. (For [`NetworkPolicy::None`] it is one that lets
    /// nothing out; a driver better gives such a guest no interface at all.) `limits` bound the bandwidth of [`Attachment::Interface`]; Firecracker limits
    /// its own. Microseconds for the default policy while the stock lasts, else some
    /// milliseconds. Dropping the future leaves nothing behind.
    pub async fn take(
        &self,
        policy: &NetworkPolicy,
        limits: &Limits,
    ) -> Result<NetworkSlot, NetworkError> {
        let as_made = *policy == NetworkPolicy::Egress && !self.builder.common.shapes(limits);
        let made = match self.stock.take() {
            Some(slot) => slot,
            None => self.work(Builder::build).await?,
        };
        if as_made {
            return Ok(made);
        }
        let (policy, limits) = (policy.clone(), *limits);
        self.work(move |builder| builder.adapt(made, &policy, &limits)).await
    }

    /// Runs blocking work away from the runtime's workers. When the caller is gone by the time it
    /// ends, its result is dropped, which removes what it made.
    async fn work(
        &self,
        work: impl FnOnce(&Builder) -> Result<NetworkSlot, NetworkError> + Send + 'static,
    ) -> Result<NetworkSlot, NetworkError> {
        let turn = self.parallel.clone().acquire_owned().await;
        let turn = turn.map_err(|_| NetworkError::failed("network", "it is shut down"))?;
        let builder = self.builder.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&builder)
        });
        work.await.map_err(|error| NetworkError::failed("network slot", error))?
    }

    /// Removes all slots, the firewall and the bridge. Slots that somebody still holds lose their
    /// network: stop the guests first.
    pub async fn shutdown(&self) {
        let stock = self.stock.clone();
        if tokio::task::spawn_blocking(move || stock.close()).await.is_err() {
            tracing::warn!("the stock of network slots could not be closed");
        }
        // What is being made must be there before it can be swept, and nothing new may begin.
        let _all = self.parallel.acquire_many(PARALLEL_MAX as u32).await;
        self.parallel.close();
        self.remover.finish().await;
    }
}

//! When a link carries packets, which is later than when it was brought up.
//!
//! A link is up at once; that it has a carrier is noted by a worker of the kernel, some moments later
//! and longer under load. Until then its queue is `noop`, which drops every packet without a word, and a
//! port does not forward. A guest that starts meanwhile loses its first packets, and a resolver waits
//! five seconds before it asks again.
use super::NetworkError;
use super::netlink::Netlink;
use futures::TryStreamExt;
use rtnetlink::packet_route::link::{
    BridgePortState, InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo, LinkMessage,
};
use std::time::{Duration, Instant};

/// Between two looks. The worker usually is done before the first.
const INTERVAL: Duration = Duration::from_millis(1);
/// The worker waits for the kernel's one lock on links, which the removal of many namespaces holds for
/// seconds.
const PATIENCE: Duration = Duration::from_secs(10);

impl Netlink {
    /// Waits until a link that has been brought up, and has a carrier, carries packets; a bridge's port
    /// also until it forwards them.
    pub(super) fn wait_until_ready(&self, index: u32) -> Result<(), NetworkError> {
        let started = Instant::now();
        loop {
            let request = self.handle.link().get().match_index(index).execute();
            let found = self.run(|| format!("link {index}"), request.try_collect::<Vec<_>>())?;
            if found.first().is_some_and(is_ready) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                let problem = format!(
                    "it carries no packets {} s after it was brought up",
                    PATIENCE.as_secs()
                );
                return Err(NetworkError::failed(format!("link {index}"), problem));
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

fn is_ready(link: &LinkMessage) -> bool {
    link.attributes.iter().all(|attribute| match attribute {
        LinkAttribute::Qdisc(name) => name != "noop",
        LinkAttribute::LinkInfo(about) => about.iter().all(forwards),
        _ => true,
    })
}

/// Whatever is not a bridge's port does.
fn forwards(about: &LinkInfo) -> bool {
    let LinkInfo::PortData(InfoPortData::BridgePort(port)) = about else { return true };
    port.iter().all(|fact| match fact {
        InfoBridgePort::State(state) => *state == BridgePortState::Forwarding,
        _ => true,
    })
}

//! The thread that removes what was dropped, so that dropping is instant wherever it happens.
//!
//! It also looks after the host's firewall, however much there is to remove: administrators reload
//! theirs (`systemctl restart nftables`) and take ours along. What could not be removed is tried again
//! with each look; its slot is not used meanwhile.
use super::guest::Common;
use super::netlink::Netlink;
use super::{NetworkError, host, namespace};
use crate::lease::Lease;
use crate::owner::Owner;
use crate::slots::Slot;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How often the host's firewall is looked at: a look costs 3 ms.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// Something to do for the remover. The queue is not bounded itself, but its entries are slots.
#[derive(Debug)]
pub(super) enum Job {
    /// Remove the namespace and links of this slot, then give it back.
    Remove(Slot),
    /// Remove everything of the owner, answer, and end.
    Finish(oneshot::Sender<()>),
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Remover {
    queue: Sender<Job>,
}

impl Remover {
    /// Starts the thread, in the caller's namespace. It keeps the lease until all is removed.
    pub(super) fn start(common: Arc<Common>, lease: Lease) -> Result<Self, NetworkError> {
        let (queue, jobs) = channel();
        std::thread::Builder::new()
            .name("nova-netns-remover".to_owned())
            .spawn(move || run(&common, lease, &jobs))
            .map_err(|error| NetworkError::failed("the thread that removes namespaces", error))?;
        Ok(Self { queue })
    }

    /// Where dropped slots go.
    pub(super) fn queue(&self) -> Sender<Job> {
        self.queue.clone()
    }

    /// Waits until all that was dropped is removed, then removes everything of the owner.
    pub(super) async fn finish(&self) {
        let (done, finished) = oneshot::channel();
        if self.queue.send(Job::Finish(done)).is_ok() {
            // An error means that the thread has ended, which it does after sweeping only.
            let _ = finished.await;
        }
    }
}

/// Ends with `Finish`, or when nobody is left who could drop a slot.
fn run(common: &Common, lease: Lease, jobs: &Receiver<Job>) {
    let mut done = None;
    let mut next_look = Instant::now() + WATCH_INTERVAL;
    let mut stuck = Vec::new();
    while done.is_none() {
        let first = match jobs.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut slots = Vec::new();
        for job in first.into_iter().chain(jobs.try_iter()) {
            match job {
                Job::Remove(slot) => slots.push(slot),
                Job::Finish(waiting) => done = Some(waiting),
            }
        }
        if Instant::now() >= next_look {
            mend_firewall(common);
            slots.append(&mut stuck);
            next_look = Instant::now() + WATCH_INTERVAL;
        }
        if !slots.is_empty() {
            stuck.append(&mut remove(common, slots));
        }
    }
    // The sweep removes what is left of them, or leaves the lease behind.
    drop(stuck);
    sweep_and_log(&common.owner, &lease);
    // Before anybody hears of the end: the process may exit at once.
    drop(lease);
    if let Some(done) = done {
        // Nobody waiting is fine: the work is done.
        let _ = done.send(());
    }
}

/// Loads the host's firewall again if somebody has removed it.
fn mend_firewall(common: &Common) {
    let Common { owner, space, bridge, firewall, resolvers, .. } = common;
    let mended = match firewall.has(&owner.firewall_table()) {
        Ok(true) => return,
        Ok(false) => host::load_rules(owner, *space, bridge, firewall, resolvers),
        Err(error) => Err(error),
    };
    match mended {
        Ok(()) => tracing::warn!("somebody removed nova's firewall from the host; it is back"),
        Err(error) => tracing::error!(%error, "nova's firewall cannot be looked after"),
    }
}

/// Every step is tried. Returns the slots of which something is left.
fn remove(common: &Common, slots: Vec<Slot>) -> Vec<Slot> {
    let netlink = Netlink::open();
    let with = |step: &dyn Fn(&Netlink) -> Result<(), NetworkError>| {
        netlink.as_ref().map_err(NetworkError::clone).and_then(step)
    };
    let names = || slots.iter().map(|slot| common.owner.link_name(slot.number()));
    let links = with(&|netlink| netlink.delete_links(names(), common.owner.link_group()));
    let mut stuck = Vec::new();
    for slot in slots {
        let steps = [
            links.clone(),
            with(&|netlink| netlink.delete_neighbour(common.bridge.index, slot.address())),
            namespace::remove(&common.owner.netns_name(slot.number())),
        ];
        let problems: Vec<String> =
            steps.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
        if !problems.is_empty() {
            tracing::warn!(slot = slot.number(), ?problems, "a network slot cannot be removed");
            stuck.push(slot);
        }
    }
    stuck
}

/// Removes everything of the owner by name, on a thread of its own.
pub(super) fn sweep_and_log(owner: &Owner, lease: &Lease) {
    let problems = match namespace::on_thread(|| Ok(host::sweep(owner))) {
        Ok((_, problems)) => problems,
        Err(error) => vec![error.to_string()],
    };
    if !problems.is_empty() {
        tracing::warn!(?problems, "some of the network could not be removed");
        lease.clone().leave_behind();
    }
}

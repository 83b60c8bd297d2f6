//! Slots: what one guest has for itself alone, by number. Pure: no I/O, no clock.
//!
//! ```text
//! 172.30.0.0/16 ──▶ 16 blocks of /20, one per daemon (its lease's index)
//! block N       ──▶ .0 network, .1 bridge, from .2 on one address per slot, last one broadcast
//! uids          ──▶ 0x7000_0000 + N * 8192 + slot * 2   (root of the jail or container)
//!                                              + 1      (the function's user, where it needs one)
//! ```
//!
//! A [`Slot`] returns itself when dropped. It must outlive every process that runs under its uids
//! or uses its address: a slot reused too early would give a dying guest's identity to a new one.
//! Freed slots go to the end of the line, so that an address rests as long as possible.
use std::collections::VecDeque;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// Daemons on one host at most: as many as a /16 has blocks of /20.
pub const LEASES_MAX: u16 = 16;
/// Prefix length of one daemon's block: room for `SLOTS_MAX` guests, the bridge and the two ends.
pub const BLOCK_PREFIX_LENGTH: u8 = 20;
/// Slots of one daemon. 4096 addresses less network, bridge and broadcast, rounded down to leave
/// room for addresses that a later version may need.
pub const SLOTS_MAX: u16 = 4090;
/// First uid of all leases: far above what distributions and directory services give out, below
/// 2^31, which some programs still read as a negative number.
const UID_BASE: u32 = 0x7000_0000;
/// Uids of one lease: two per slot.
pub const UIDS_PER_LEASE: u32 = 8192;
/// The address range where nothing else is configured: private, and rarely used by anything else.
const RANGE_DEFAULT: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 30, 0, 0), 16);

/// The addresses that the daemons of a host share out among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    network: Ipv4Addr,
    prefix_length: u8,
}

/// The setting `network_range` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "network_range {0:?}: write a private IPv4 network with a prefix length of 8 to 20, \
     for example 172.30.0.0/16"
)]
pub struct BadRange(String);

impl Default for AddressRange {
    fn default() -> Self {
        Self { network: RANGE_DEFAULT.0, prefix_length: RANGE_DEFAULT.1 }
    }
}

impl FromStr for AddressRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.chars().take(64).collect());
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let network: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix_length: u8 = length.parse().map_err(|_| bad())?;
        let range = Self { network, prefix_length };
        let usable = (8..=BLOCK_PREFIX_LENGTH).contains(&prefix_length)
            && network.to_bits() & !range.mask() == 0
            && network.is_private();
        if usable { Ok(range) } else { Err(bad()) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_length)
    }
}

impl AddressRange {
    /// How many daemons have room in it.
    pub fn blocks(&self) -> u16 {
        let blocks = 1_u32 << (BLOCK_PREFIX_LENGTH - self.prefix_length);
        LEASES_MAX.min(u16::try_from(blocks).unwrap_or(LEASES_MAX))
    }

    /// Whether the two networks share an address.
    pub fn overlaps(&self, address: Ipv4Addr, prefix_length: u8) -> bool {
        let shorter = self.prefix_length.min(prefix_length);
        let mask = mask(shorter);
        self.network.to_bits() & mask == address.to_bits() & mask
    }

    fn mask(&self) -> u32 {
        mask(self.prefix_length)
    }
}

/// The network mask of a prefix length of 0 to 32.
fn mask(prefix_length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_length)).unwrap_or(0)
}

/// What one lease may use: a block of addresses and a range of uids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSpace {
    network: Ipv4Addr,
    uid_first: u32,
}

impl SlotSpace {
    /// The space of the lease with this index; `None` where the range has no such block.
    pub fn new(range: AddressRange, index: u16) -> Option<Self> {
        if index >= range.blocks() {
            return None;
        }
        let block = u32::from(index) << (32 - BLOCK_PREFIX_LENGTH);
        Some(Self {
            network: Ipv4Addr::from_bits(range.network.to_bits() + block),
            uid_first: uid_first(index),
        })
    }

    /// First address of the block; its prefix length is [`BLOCK_PREFIX_LENGTH`].
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// The bridge's address: the gateway of every guest.
    pub fn bridge(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    /// The address of a slot.
    pub fn address(&self, slot: u16) -> Ipv4Addr {
        debug_assert!(slot < SLOTS_MAX);
        Ipv4Addr::from_bits(self.network.to_bits() + 2 + u32::from(slot))
    }

    fn uid_root(&self, slot: u16) -> u32 {
        self.uid_first + 2 * u32::from(slot)
    }
}

/// First uid of a lease's range of [`UIDS_PER_LEASE`].
pub fn uid_first(index: u16) -> u32 {
    UID_BASE + u32::from(index) * UIDS_PER_LEASE
}

/// Gives out slots, each to one holder at a time. Clones share the same slots.
#[derive(Debug, Clone)]
pub struct SlotAllocator {
    space: SlotSpace,
    free: Arc<Mutex<VecDeque<u16>>>,
}

impl SlotAllocator {
    /// All slots of the space, free.
    pub fn new(space: SlotSpace) -> Self {
        Self { space, free: Arc::new(Mutex::new((0..SLOTS_MAX).collect())) }
    }

    /// The slot that has been free for longest; `None` when all are in use.
    pub fn take(&self) -> Option<Slot> {
        let number = self.lock().pop_front()?;
        Some(Slot { number, space: self.space, free: self.free.clone() })
    }

    /// How many slots are free.
    pub fn free(&self) -> usize {
        self.lock().len()
    }

    /// The addresses and uids that the slots come from.
    pub fn space(&self) -> SlotSpace {
        self.space
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<u16>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One guest's share: a number, an address, two uids. Not clonable; returns itself when dropped.
#[derive(Debug)]
pub struct Slot {
    number: u16,
    space: SlotSpace,
    free: Arc<Mutex<VecDeque<u16>>>,
}

impl Slot {
    /// From 0 to below [`SLOTS_MAX`].
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The guest's address on the bridge.
    pub fn address(&self) -> Ipv4Addr {
        self.space.address(self.number)
    }

    /// Uid (and gid) of the jail, or of root in the container's user namespace.
    pub fn uid_root(&self) -> u32 {
        self.space.uid_root(self.number)
    }

    /// Uid (and gid) of the function's user in the container's user namespace.
    pub fn uid_user(&self) -> u32 {
        self.space.uid_root(self.number) + 1
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn space(index: u16) -> SlotSpace {
        SlotSpace::new(AddressRange::default(), index).unwrap()
    }

    proptest! {
        #[test]
        fn no_two_holders_share_anything(steps in proptest::collection::vec(any::<Option<u16>>(), 1..300)) {
            let allocator = SlotAllocator::new(space(3));
            let mut held: Vec<Slot> = Vec::new();
            for step in steps {
                match step {
                    Some(which) if !held.is_empty() => {
                        let index = usize::from(which) % held.len();
                        drop(held.swap_remove(index));
                    }
                    _ => held.extend(allocator.take()),
                }
                let numbers: HashSet<_> = held.iter().map(Slot::number).collect();
                let addresses: HashSet<_> = held.iter().map(Slot::address).collect();
                let uids: HashSet<_> = held.iter().flat_map(|s| [s.uid_root(), s.uid_user()]).collect();
                prop_assert_eq!(numbers.len(), held.len());
                prop_assert_eq!(addresses.len(), held.len());
                prop_assert_eq!(uids.len(), 2 * held.len());
                prop_assert_eq!(allocator.free() + held.len(), usize::from(SLOTS_MAX));
            }
        }
    }

    #[test]
    fn every_slot_of_every_lease_is_inside_its_own_range() {
        let mut addresses = HashSet::new();
        let mut uids = HashSet::new();
        for index in 0..LEASES_MAX {
            let allocator = SlotAllocator::new(space(index));
            let all: Vec<Slot> = std::iter::from_fn(|| allocator.take()).collect();
            assert_eq!(all.len(), usize::from(SLOTS_MAX));
            assert!(allocator.take().is_none());
            for slot in &all {
                let offset = slot.address().to_bits() - space(index).network().to_bits();
                assert!((2..4095).contains(&offset), "{offset}");
                assert!(
                    (uid_first(index)..uid_first(index) + UIDS_PER_LEASE)
                        .contains(&slot.uid_user())
                );
                assert!(addresses.insert(slot.address()));
                assert!(uids.insert(slot.uid_root()) && uids.insert(slot.uid_user()));
            }
        }
    }

    #[test]
    fn a_freed_slot_rests_while_others_are_free() {
        let allocator = SlotAllocator::new(space(0));
        let first = allocator.take().unwrap().number();
        let rest = usize::from(SLOTS_MAX) - 1;
        assert!((0..rest).all(|_| allocator.take().unwrap().number() != first));
        assert_eq!(allocator.take().unwrap().number(), first);
    }

    #[test]
    fn the_range_is_a_private_network_with_whole_blocks() {
        assert_eq!("172.30.0.0/16".parse::<AddressRange>().unwrap(), AddressRange::default());
        assert_eq!("10.9.16.0/20".parse::<AddressRange>().unwrap().blocks(), 1);
        assert_eq!("10.0.0.0/8".parse::<AddressRange>().unwrap().blocks(), 16);
        for bad in
            ["", "10.0.0.0", "10.0.0.0/21", "10.0.0.1/16", "8.8.0.0/16", "10.0.0.0/7", "::/16"]
        {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        let range = AddressRange::default();
        assert!(range.overlaps(Ipv4Addr::new(172, 16, 0, 0), 12));
        assert!(range.overlaps(Ipv4Addr::new(172, 30, 200, 1), 32));
        assert!(!range.overlaps(Ipv4Addr::new(172, 31, 0, 0), 16));
        assert!(!range.overlaps(Ipv4Addr::new(10, 0, 0, 0), 8));
    }
}

//! What goes into the policy and what comes out of it.
use crate::VmPhase;
use nova_domain::FunctionName;
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;

/// Milliseconds since the pool was made.
pub type Millis = u64;

/// Names a caller; later callers have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// Names a VM within the pool, from the moment its boot is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmNumber(pub u64);

/// Names who reserves room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId(pub u64);

/// The limits of the host.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most VMs and most memory of all of them.
    pub room: Room,
    /// Most boots at a time.
    pub boots_max: u32,
    /// How long a VM idles before it is stopped.
    pub idle_ttl_ms: Millis,
    /// Most callers of one function that wait.
    pub queue_max: usize,
}

/// VMs and their memory: what there is of it, what is used, what comes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Number of VMs.
    pub vms: u32,
    /// Their memory, MiB.
    pub memory_mb: u64,
}

impl Room {
    /// The room of one VM with that much memory.
    pub fn one(memory_mb: u64) -> Self {
        Self { vms: 1, memory_mb }
    }

    /// Whether `other` fits into this.
    pub fn fits(self, other: Self) -> bool {
        other.vms <= self.vms && other.memory_mb <= self.memory_mb
    }

    /// What is left without `other`, nothing where `other` is more.
    pub fn without(self, other: Self) -> Self {
        Self {
            vms: self.vms.saturating_sub(other.vms),
            memory_mb: self.memory_mb.saturating_sub(other.memory_mb),
        }
    }

    /// The part of `other` that is not more than this.
    pub fn at_most(self, other: Self) -> Self {
        Self { vms: self.vms.min(other.vms), memory_mb: self.memory_mb.min(other.memory_mb) }
    }

    /// Both together.
    pub fn with(self, other: Self) -> Self {
        Self { vms: self.vms + other.vms, memory_mb: self.memory_mb + other.memory_mb }
    }
}

impl AddAssign for Room {
    fn add_assign(&mut self, other: Self) {
        *self = self.with(other);
    }
}

impl SubAssign for Room {
    fn sub_assign(&mut self, other: Self) {
        *self = self.without(other);
    }
}

/// What the pool must know of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Another revision means other VMs.
    pub revision: Arc<str>,
    /// What one VM takes, MiB, the backend's overhead included.
    pub memory_mb: u64,
    /// Calls at once in one VM, at least 1.
    pub slots: u32,
    /// VMs kept up without callers.
    pub replicas_min: u32,
    /// Most VMs; 0 means that only the host limits them.
    pub replicas_max: u32,
    /// How long a caller waits.
    pub wait_max_ms: Millis,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The function exists, with this shape from now on.
    Configured {
        /// The function.
        function: FunctionName,
        /// Its shape.
        shape: Shape,
    },
    /// The function is gone, or cannot run.
    Forgotten {
        /// The function.
        function: FunctionName,
    },
    /// Somebody wants to call it.
    Acquire {
        /// The function.
        function: FunctionName,
        /// Who; greater than every waiter before.
        waiter: WaiterId,
    },
    /// A waiter went away. Nothing happens if it has been answered meanwhile.
    Cancelled {
        /// The function.
        function: FunctionName,
        /// Who.
        waiter: WaiterId,
    },
    /// A boot succeeded.
    Booted {
        /// The VM.
        vm: VmNumber,
    },
    /// A boot failed; nothing is left of it.
    BootFailed {
        /// The VM that never was.
        vm: VmNumber,
    },
    /// A grant was given back.
    Released {
        /// The VM.
        vm: VmNumber,
        /// Whether it may take another call.
        reusable: bool,
    },
    /// The guest died by itself; it still has to be stopped.
    Died {
        /// The VM.
        vm: VmNumber,
    },
    /// A VM has stopped; nothing is left of it.
    Stopped {
        /// The VM.
        vm: VmNumber,
    },
    /// Room is wanted for a guest that is not one of these VMs. Nobody else may want any before it is
    /// there or given up.
    Reserve {
        /// Who wants it.
        id: ReservationId,
        /// How much.
        room: Room,
    },
    /// That room is not needed any more.
    Unreserve {
        /// Who wanted it.
        id: ReservationId,
    },
    /// Time has passed.
    Tick,
    /// Take no new callers; end when those that are here have been served.
    Drain,
    /// After [`Event::Drain`]: end now.
    CutOff,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Boot a VM; answer with `Booted` or `BootFailed`.
    Boot {
        /// The VM to be.
        vm: VmNumber,
        /// The function.
        function: FunctionName,
    },
    /// Hand a slot of the VM to the waiter; answered by `Released`.
    Grant {
        /// Who.
        waiter: WaiterId,
        /// The VM.
        vm: VmNumber,
        /// The waiter waited for this VM's boot.
        fresh: bool,
    },
    /// Tell the waiter that it gets none.
    Refuse {
        /// Who.
        waiter: WaiterId,
        /// Why.
        why: Refusal,
    },
    /// Stop the VM, which has no call; answer with `Stopped`.
    Stop {
        /// The VM.
        vm: VmNumber,
    },
}

/// Why a waiter gets no VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such function.
    Unknown,
    /// The boot that was for it failed.
    BootFailed,
    /// So many wait already.
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// It waited as long as it may.
    Expired,
    /// One VM of the function is more than the whole host.
    TooLarge {
        /// What one VM takes, MiB.
        memory_mb: u64,
    },
    /// The pool ends.
    Draining,
}

/// A VM as seen from outside.
#[derive(Debug, Clone, Copy)]
pub struct VmView<'a> {
    /// The VM.
    pub number: VmNumber,
    /// The function it is for.
    pub function: &'a FunctionName,
    /// Where it is in its life.
    pub phase: VmPhase,
    /// Calls on it.
    pub calls: u32,
    /// What admission counts for it, MiB.
    pub memory_mb: u64,
}

//! Records reach the store, in time, also past a store that was away.

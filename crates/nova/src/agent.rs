//! The guest agent's program, built by `build.rs` and carried inside this binary.

/// A static executable: PID 1 of every guest.
pub static PROGRAM: &[u8] = include_bytes!(env!("NOVA_AGENT_PROGRAM"));

#[cfg(test)]
mod tests {
    use super::PROGRAM;

    /// Type of a program header that names a dynamic loader.
    const PT_INTERP: u32 = 3;

    #[test]
    fn the_agent_needs_no_loader_in_the_guest() {
        assert!(PROGRAM.starts_with(b"\x7fELF"));
        let u16_at = |at: usize| u16::from_le_bytes(PROGRAM[at..at + 2].try_into().unwrap());
        let table = u64::from_le_bytes(PROGRAM[32..40].try_into().unwrap()) as usize;
        let (size, count) = (usize::from(u16_at(54)), usize::from(u16_at(56)));
        for header in (0..count).map(|index| table + index * size) {
            let kind = u32::from_le_bytes(PROGRAM[header..header + 4].try_into().unwrap());
            assert_ne!(kind, PT_INTERP, "the agent is linked dynamically");
        }
    }
}

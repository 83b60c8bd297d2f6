//! The version of Firecracker and its jailer, read from what the programs print.
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// The oldest version that Nova's boot sequence was tried with.
pub const OLDEST: Version = Version { major: 1, minor: 12, patch: 0 };

/// The version to recommend: 1.16.0 breaks vsock after a restore, 1.16.1 mends it.
pub const RECOMMENDED: Version = Version { major: 1, minor: 16, patch: 1 };

/// Printing a version takes a few milliseconds; a program that hangs is not Firecracker.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// A release, for example `1.12.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Version {
    /// Runs `program --version` and reads its first line.
    pub async fn of(program: &Path) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).env_clear().kill_on_drop(true);
        let output = tokio::time::timeout(VERSION_TIMEOUT, command.output())
            .await
            .map_err(|_| format!("{} --version does not end", program.display()))?
            .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Self::parse(&text).ok_or_else(|| {
            let line: String = text.lines().next().unwrap_or_default().chars().take(80).collect();
            format!("{} --version prints {line:?}, not a version", program.display())
        })
    }

    /// Reads `Firecracker v1.12.1` and the like; what follows the third number does not matter.
    fn parse(text: &str) -> Option<Self> {
        let word = text.lines().next()?.split_whitespace().nth(1)?.trim_start_matches('v');
        let mut numbers = word.splitn(3, '.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        Some(Self { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_and_development_builds_are_read() {
        let release = Version::parse("Firecracker v1.12.1\n\nmore").unwrap();
        assert_eq!(release, Version { major: 1, minor: 12, patch: 1 });
        assert_eq!(
            Version::parse("Jailer v1.16.0-dev+abc"),
            Some(Version { major: 1, minor: 16, patch: 0 })
        );
        assert!(release >= OLDEST && release < RECOMMENDED);
    }

    #[test]
    fn other_programs_have_no_version() {
        for text in ["", "hello", "QEMU emulator version 7", "Firecracker v1.x.2"] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }
}

//! `kernel/kernel.toml`: the versions and hashes of what `nova setup` installs.
use super::InstallError;
use serde::Deserialize;

const TEXT: &str = include_str!("../../../../../kernel/kernel.toml");

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pins {
    pub kernel: KernelPin,
    pub firecracker: FirecrackerPin,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KernelPin {
    pub package: String,
    pub version: String,
    pub sha256: String,
    pub newest: String,
    pub modules: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FirecrackerPin {
    pub version: String,
    pub firecracker_sha256: String,
    pub jailer_sha256: String,
    pub release: Release,
    pub wheel: Wheel,
}

/// A tar.gz to fetch, and where the programs are in it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    pub url: String,
    pub firecracker: String,
    pub jailer: String,
}

/// A Python wheel to fetch, and where the programs are in it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wheel {
    pub requirement: String,
    pub python_version: String,
    pub firecracker: String,
    pub jailer: String,
}

impl Pins {
    pub(super) fn shipped() -> Result<Self, InstallError> {
        toml::from_str(TEXT)
            .map_err(|error| InstallError::Unexpected(format!("kernel/kernel.toml: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_pins_are_whole() {
        let Pins { kernel, firecracker } = Pins::shipped().unwrap();
        for hash in [kernel.sha256, firecracker.firecracker_sha256, firecracker.jailer_sha256] {
            assert!(
                hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{hash}"
            );
        }
        assert!(firecracker.release.url.contains(&firecracker.version));
    }
}

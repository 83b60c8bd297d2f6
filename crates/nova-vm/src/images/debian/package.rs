//! One package in one version, as the signed package lists describe it.
use std::collections::BTreeMap;

/// A package that can be fetched and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub size: u64,
    /// SHA-256 of its file, hex.
    pub sha256: String,
}

impl Package {
    /// How apt and people name it.
    pub(crate) fn pinned(&self) -> String {
        format!("{}={}", self.name, self.version)
    }

    /// The name that apt gives its file.
    pub(crate) fn file_name(&self) -> String {
        let version = self.version.replace(':', "%3a");
        format!("{}_{version}_{}.deb", self.name, self.architecture)
    }

    /// The version of the software in it, without Debian's additions: `1:3.11.2-6+deb12u9` is 3.11.2.
    pub(crate) fn upstream_version(&self) -> &str {
        let version = self.version.split_once(':').map_or(&*self.version, |(_, rest)| rest);
        let version = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
        let version = version.split(['+', '~']).next().unwrap_or(version);
        version.strip_suffix(".dfsg").unwrap_or(version)
    }
}

/// Reads the stanzas that `apt-cache show` prints. One that lacks a field is left out.
pub(super) fn parse_stanzas(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(parse_stanza).collect()
}

fn parse_stanza(stanza: &str) -> Option<Package> {
    let fields: BTreeMap<&str, &str> = stanza
        .lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_once(": "))
        .collect();
    let field = |name| fields.get(name).map(|value| value.trim().to_owned());
    let package = Package {
        name: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture")?,
        size: field("Size")?.parse().ok()?,
        sha256: field("SHA256")?,
    };
    // It becomes part of a path.
    let plain = !package.file_name().contains('/') && !package.name.starts_with(['-', '.']);
    plain.then_some(package)
}

/// The names in what `apt-get --simulate install` prints: `Inst libc6 (2.36-9 Debian:12 [amd64]) []`.
pub(super) fn parse_simulation(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let (version, _) = rest.strip_prefix('(')?.split_once(' ')?;
            let name = name.split(':').next()?;
            Some((name.to_owned(), version.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_read_from_its_stanza() {
        let text = "Package: zlib1g\nVersion: 1:1.2.13.dfsg-1\nArchitecture: amd64\nSize: 86684\n\
                    Description: x\n more: of it\nSHA256: d7dd\n\nPackage: incomplete\n";
        let packages = parse_stanzas(text);
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].file_name(), "zlib1g_1%3a1.2.13.dfsg-1_amd64.deb");
        assert_eq!(packages[0].pinned(), "zlib1g=1:1.2.13.dfsg-1");
    }

    #[test]
    fn a_package_named_like_a_path_is_left_out() {
        let stanza = "Package: ../x\nVersion: 1\nArchitecture: all\nSize: 1\nSHA256: d7\n";
        assert!(parse_stanzas(stanza).is_empty());
    }

    #[test]
    fn the_version_of_a_language_has_no_debian_in_it() {
        let versions = [
            ("3.11.2-6+deb12u9", "3.11.2"),
            ("18.20.4+dfsg-1~deb12u3", "18.20.4"),
            ("2:5.4.4-3+deb12u1", "5.4.4"),
            ("2022.12", "2022.12"),
            ("1.14.0.dfsg-2", "1.14.0"),
        ];
        for (version, upstream) in versions {
            let package = Package {
                name: "x".into(),
                version: version.into(),
                architecture: "all".into(),
                size: 0,
                sha256: String::new(),
            };
            assert_eq!(package.upstream_version(), upstream);
        }
    }

    #[test]
    fn a_simulated_installation_names_its_packages() {
        let text = "Inst gcc-12-base (12.2.0-14 Debian:12.15/oldstable [amd64])\n\
                    Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64]) []\nConf libc6 (2.36-9)\n";
        let expected = [("gcc-12-base", "12.2.0-14"), ("libc6", "2.36-9")];
        assert_eq!(parse_simulation(text), expected.map(|(n, v)| (n.into(), v.into())));
    }
}

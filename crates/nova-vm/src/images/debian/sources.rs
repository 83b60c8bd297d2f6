//! Which mirror to use: the one that this host's apt already uses for Debian, whatever release the host
//! itself has. Other publishers' archives in the host's configuration are ignored.

/// The addresses of a Debian mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    /// The archive with the releases.
    pub archive: String,
    /// The archive with their security updates.
    pub security: String,
}

/// What `apt-get indextargets` prints of each source with [`FORMAT`].
#[derive(Debug, Default)]
struct Source<'a> {
    origin: &'a str,
    address: &'a str,
    release: &'a str,
}

/// Asks apt for these fields of each source, separated by `|`. apt tells of a source once it has
/// fetched its signed list, which is also where the origin comes from.
pub(super) const FORMAT: &str = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)";

impl Mirror {
    /// From an address of a mirror's archive, for example `http://mirror/debian`. The security updates
    /// are beside it under the name that Debian gives them.
    pub(super) fn at(address: &str) -> Self {
        let archive = address.trim_end_matches('/').to_owned();
        Self { security: format!("{archive}-security"), archive }
    }

    /// From apt's own sources.
    pub(super) fn of_host(targets: &str) -> Option<Self> {
        let sources: Vec<Source<'_>> = targets.lines().filter_map(Source::parse).collect();
        let find = |security: bool| {
            let of_debian = sources.iter().filter(|source| source.is_debian());
            of_debian.clone().find(|source| source.is_security() == security)
        };
        let mut mirror = Self::at(find(false)?.address);
        if let Some(source) = find(true) {
            mirror.security = source.address.trim_end_matches('/').to_owned();
        }
        Some(mirror)
    }

    /// A `sources.list` for one release, verified with one key.
    pub(super) fn sources_list(&self, suite: &str, components: &[String], keyring: &str) -> String {
        let components = components.join(" ");
        let Self { archive, security } = self;
        let line = |address: &str, suite: String| {
            format!("deb [signed-by={keyring}] {address} {suite} {components}\n")
        };
        line(archive, suite.into())
            + &line(archive, format!("{suite}-updates"))
            + &line(security, format!("{suite}-security"))
    }
}

impl<'a> Source<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split('|').map(|field| {
            // A field that a source does not have is printed as asked for.
            if field.starts_with("$(") { "" } else { field.trim() }
        });
        let source =
            Self { origin: fields.next()?, address: fields.next()?, release: fields.next()? };
        // It becomes part of a line of its own.
        let plain = !source.address.is_empty() && !source.address.contains([' ', '[', ']', '\t']);
        plain.then_some(source)
    }

    fn is_debian(&self) -> bool {
        self.origin == "Debian"
    }

    fn is_security(&self) -> bool {
        self.release.ends_with("-security")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_debian_mirror_is_used_and_no_other_publisher() {
        let targets = "cloud|https://example.org/apt|bookworm\n\
                       Debian|http://mirror/debian/|trixie\n\
                       Debian|http://mirror/security/|trixie-security\n";
        let mirror = Mirror::of_host(targets).unwrap();
        let list = mirror.sources_list("bookworm", &["main".into()], "/key.gpg");
        assert_eq!(
            list,
            "deb [signed-by=/key.gpg] http://mirror/debian bookworm main\n\
             deb [signed-by=/key.gpg] http://mirror/debian bookworm-updates main\n\
             deb [signed-by=/key.gpg] http://mirror/security bookworm-security main\n"
        );
    }

    #[test]
    fn security_updates_are_beside_a_mirror_that_is_named() {
        let mirror = Mirror::at("http://mirror/debian/");
        assert_eq!(mirror.archive, "http://mirror/debian");
        assert_eq!(mirror.security, "http://mirror/debian-security");
    }

    #[test]
    fn a_host_without_debian_has_no_mirror() {
        let targets = "Ubuntu|http://mirror/ubuntu|noble\n\
                       $(ORIGIN)|http://example.org|bookworm\n";
        assert_eq!(Mirror::of_host(targets), None);
    }
}

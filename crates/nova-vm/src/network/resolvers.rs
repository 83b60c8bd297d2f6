//! Which name servers guests may ask.
//!
//! By default those of the host. A resolver on the host's loopback (systemd-resolved's 127.0.0.53)
//! is of no use in a guest; then the list that systemd-resolved itself asks is taken.
use std::net::Ipv4Addr;
use std::path::Path;

/// As many as the C library reads from `resolv.conf`.
const RESOLVERS_MAX: usize = 3;
/// Where the lists are, in the order they are tried.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The host's resolvers that a guest can reach; none if there is no such.
pub(super) fn of_host() -> Vec<Ipv4Addr> {
    FILES
        .iter()
        .filter_map(|file| std::fs::read_to_string(Path::new(file)).ok())
        .map(|text| parse(&text))
        .find(|resolvers| !resolvers.is_empty())
        .unwrap_or_default()
}

/// The usable `nameserver` lines: IPv4, not loopback.
fn parse(text: &str) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let address = match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => address.parse::<Ipv4Addr>().ok(),
            _ => None,
        };
        if let Some(address) = address
            && !address.is_loopback()
            && !address.is_unspecified()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found.truncate(RESOLVERS_MAX);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_name_servers_that_a_guest_can_reach_are_taken() {
        let text = "# hosts\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\n\
                    search example.org\nnameserver 10.0.0.2\nnameserver 9.9.9.9\nnameserver\n\
                    nameserver 1.1.1.1\nnameserver 8.8.8.8\noptions edns0\n";
        let expected: Vec<Ipv4Addr> =
            ["10.0.0.2", "9.9.9.9", "1.1.1.1"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(parse(text), expected);
        assert!(parse("nameserver 127.0.0.53\n").is_empty());
    }
}

//! What a function may reach.
use crate::InvalidField;
use crate::validation::quote;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Most entries of an allow list: each becomes a firewall element per VM.
const ALLOW_MAX: usize = 64;

/// The network of a function's guests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicy {
    /// No network interface at all.
    None,
    /// Out to public addresses; never to the host, other guests, metadata or private ranges.
    #[default]
    Egress,
    /// Out to these networks only, private ones included when they are named.
    EgressTo(Vec<EgressRule>),
}

/// One entry of an allow list: an IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EgressRule {
    /// First address of the network.
    pub network: Ipv4Addr,
    /// Length of the prefix, 0 to 32.
    pub prefix_length: u8,
}

impl NetworkPolicy {
    /// An allow list of networks written as CIDRs.
    pub fn egress_to(cidrs: &[String]) -> Result<Self, InvalidField> {
        if cidrs.len() > ALLOW_MAX {
            return Err(InvalidField::new(
                "network.allow",
                format!("{} entries", cidrs.len()),
                format!("list at most {ALLOW_MAX} networks"),
            ));
        }
        let rules = cidrs.iter().map(|text| EgressRule::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self::EgressTo(rules))
    }
}

impl EgressRule {
    /// Reads `10.1.0.0/16` or a single address.
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let parsed = address.parse::<Ipv4Addr>().ok().zip(length.parse::<u8>().ok());
        match parsed {
            Some((address, prefix_length)) if prefix_length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix_length)).unwrap_or(0);
                let network = Ipv4Addr::from_bits(address.to_bits() & mask);
                Ok(Self { network, prefix_length })
            }
            _ => Err(InvalidField::new(
                "network.allow",
                format!("{} is not an IPv4 network", quote(text)),
                "write it as 203.0.113.0/24 or a single address",
            )),
        }
    }
}

impl TryFrom<String> for EgressRule {
    type Error = InvalidField;

    fn try_from(text: String) -> Result<Self, InvalidField> {
        Self::parse(&text)
    }
}

impl From<EgressRule> for String {
    fn from(rule: EgressRule) -> String {
        format!("{}/{}", rule.network, rule.prefix_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_network_with_its_host_bits_cleared() {
        assert_eq!(String::from(EgressRule::parse("10.1.2.3/8").unwrap()), "10.0.0.0/8");
        assert_eq!(String::from(EgressRule::parse("1.2.3.4").unwrap()), "1.2.3.4/32");
        assert_eq!(String::from(EgressRule::parse("9.9.9.9/0").unwrap()), "0.0.0.0/0");
        for bad in ["", "1.2.3", "::1/64", "1.2.3.4/33", "1.2.3.4/x", "example.org"] {
            assert_eq!(EgressRule::parse(bad).unwrap_err().field, "network.allow");
        }
    }
}

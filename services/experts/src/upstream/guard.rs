use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who said where an expert is served, and so how far the address is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The operator, in the configuration file: private addresses are as good as any.
    Operator,
    /// Somebody at run time, through the admin API: an address inside the operator's network is called only
    /// where the operator allows it.
    Registered,
}

/// A block of addresses, such as `10.0.0.0/8` or `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Whether the address lies in it. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix);
                (network.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix);
                (network.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a block of addresses; write it as 10.0.0.0/8 or fd00::/8");
        let (network, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network: IpAddr = network.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        if prefix > most {
            return Err(wrong());
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Decides which addresses may be called: the guard against server-side request forgery.
///
/// It is asked for every address of every connection, after name resolution, so that a name which changes
/// its address between check and use (DNS rebinding) gains nothing.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    allow_private: Vec<Cidr>,
    allow_link_local: bool,
}

/// Why an address may not be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Whoever asks: what the address is.
    Never(&'static str),
    /// For experts registered at run time: what the address is.
    Private(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never(what) => write!(f, "{what}, which is never called"),
            Self::Private(what) => {
                write!(
                    f,
                    "{what}, which an expert registered at run time may have only if upstream.allow_private lists it"
                )
            }
        }
    }
}

impl Guard {
    pub(crate) fn new(allow_private: Vec<Cidr>, allow_link_local: bool) -> Self {
        Self { allow_private, allow_link_local }
    }

    /// Whether the address may be called, and if not, why.
    pub(crate) fn check(&self, ip: IpAddr, trust: Trust) -> Result<(), Refusal> {
        // What is embedded must pass as well as what embeds it: a translator on the way would unwrap it.
        for ip in [Some(ip), embedded(ip).map(IpAddr::V4)].into_iter().flatten() {
            if !self.allow_link_local
                && let Some(what) = never_called(ip)
            {
                return Err(Refusal::Never(what));
            }
            if trust == Trust::Registered
                && let Some(what) = never_called(ip).or_else(|| private(ip))
            {
                let allowed = self.allow_private.iter().any(|block| block.contains(ip));
                let local = self.allow_link_local && never_called(ip).is_some();
                if !allowed && !local {
                    return Err(Refusal::Private(what));
                }
            }
        }
        Ok(())
    }
}

/// Addresses that no model server has, but that give credentials away (the metadata services of clouds)
/// or reach unintended machines.
fn never_called(ip: IpAddr) -> Option<&'static str> {
    const METADATA_V4: [Ipv4Addr; 2] = [
        // Alibaba Cloud's metadata service and Azure's host agent.
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(168, 63, 129, 16),
    ];
    const METADATA_V6: [Ipv6Addr; 2] = [
        // Those of EC2 and Google Compute Engine.
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_link_local() => Some("a link-local address"),
        IpAddr::V4(ip) if ip.is_broadcast() || ip.is_multicast() => Some("not one machine's address"),
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some("not an address to connect to"),
        IpAddr::V4(ip) if METADATA_V4.contains(&ip) => Some("a cloud's metadata service"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(ip) if ip.is_multicast() => Some("not one machine's address"),
        IpAddr::V6(ip) if ip.is_unspecified() => Some("not an address to connect to"),
        IpAddr::V6(ip) if METADATA_V6.contains(&ip) => Some("a cloud's metadata service"),
        _ => None,
    }
}

/// Addresses that only the operator's own network knows: the entries of IANA's special-purpose registries
/// that are not globally reachable.
fn private(ip: IpAddr) -> Option<&'static str> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => private_v4(ip),
        IpAddr::V6(ip) => {
            let segments = ip.segments();
            if ip.is_loopback() {
                Some("a loopback address")
            } else if ip.is_unique_local() || segments[0] & 0xffc0 == 0xfec0 {
                Some("a private address")
            } else if segments[0..3] == [0x64, 0xff9b, 1] {
                Some("an address of a local translator (NAT64)")
            } else if segments[0..2] == [0x2001, 0xdb8] || segments[0] == 0x100 {
                Some("a reserved address")
            } else {
                None
            }
        }
    }
}

fn private_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = ip.octets();
    if ip.is_loopback() {
        Some("a loopback address")
    } else if ip.is_private() {
        Some("a private address")
    } else if a == 100 && b & 0xc0 == 64 {
        Some("a shared address (carrier-grade NAT)")
    } else if (a == 198 && b & 0xfe == 18) || (a, b, c) == (192, 0, 0) || ip.is_documentation() || a >= 240 {
        Some("a reserved address")
    } else {
        None
    }
}

/// The IPv4 address that an IPv6 address carries for a translator or a tunnel: IPv4-compatible (RFC 4291),
/// NAT64 (RFC 6052 and RFC 8215), 6to4 (RFC 3056) and Teredo (RFC 4380). IPv4-mapped addresses are taken as
/// IPv4 everywhere.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip.to_canonical() else { return None };
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match ip.segments() {
        // `::1` and `::` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0 | 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str, trust: Trust, allow: &[&str], link_local: bool) -> bool {
        let allow = allow.iter().map(|c| c.parse().unwrap()).collect();
        Guard::new(allow, link_local).check(text.parse().unwrap(), trust).is_err()
    }

    const PRIVATE: [&str; 22] = [
        "127.0.0.1",
        "127.8.8.8",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "198.18.0.1",
        "192.0.0.8",
        "240.0.0.1",
        "::1",
        "fd12::1",
        "fc00::1",
        "fec0::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:a00:1::",
        "2001:0:0:0:0:0:f5ff:fffe",
        "2001:db8::1",
    ];
    const NEVER: [&str; 16] = [
        "169.254.169.254",
        "169.254.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "100.100.100.200",
        "168.63.129.16",
        "fe80::1",
        "ff02::1",
        "::",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
    ];
    const PUBLIC: [&str; 7] = [
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "2606:4700::1",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
        "::ffff:1.1.1.1",
    ];

    #[test]
    fn who_asks_decides_about_private_addresses() {
        for ip in PRIVATE {
            assert!(refused(ip, Trust::Registered, &[], false), "{ip}");
            assert!(refused(ip, Trust::Registered, &[], true), "{ip}");
            assert!(!refused(ip, Trust::Operator, &[], false), "{ip}");
        }
        for ip in NEVER {
            for trust in [Trust::Operator, Trust::Registered] {
                assert!(refused(ip, trust, &["0.0.0.0/0", "::/0"], false), "{ip}");
            }
            assert!(!refused(ip, Trust::Operator, &[], true), "{ip}");
        }
        for ip in PUBLIC {
            assert!(!refused(ip, Trust::Registered, &[], false), "{ip}");
        }
    }

    #[test]
    fn blocks_that_are_allowed() {
        assert!(!refused("127.0.0.1", Trust::Registered, &["127.0.0.0/8"], false));
        assert!(!refused("::ffff:127.0.0.1", Trust::Registered, &["127.0.0.0/8"], false));
        assert!(refused("10.0.0.1", Trust::Registered, &["127.0.0.0/8"], false));
        assert!(!refused("fd12::7", Trust::Registered, &["fd12::/16"], false));
        // The block must cover the address that is embedded; one for the form does not.
        assert!(refused("64:ff9b::10.0.0.1", Trust::Registered, &["64:ff9b::/96"], false));
        assert!(!refused("64:ff9b::10.0.0.1", Trust::Registered, &["10.0.0.0/8"], false));
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1", ""] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_block_holds_exactly_its_prefix(network: u32, ip: u32, prefix in 0u8..=32) {
            let block: Cidr = format!("{}/{prefix}", Ipv4Addr::from_bits(network)).parse().unwrap();
            let mask = if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) };
            let inside = block.contains(IpAddr::V4(Ipv4Addr::from_bits(ip)));
            prop_assert_eq!(inside, network & mask == ip & mask);
            prop_assert_eq!(block.to_string().parse::<Cidr>().unwrap(), block);
        }

        #[test]
        fn no_wrapping_hides_an_address(ip: u32, trust in prop_oneof![Just(Trust::Operator), Just(Trust::Registered)]) {
            let guard = Guard::new(Vec::new(), false);
            let v4 = Ipv4Addr::from_bits(ip);
            let [high, low] = [(ip >> 16) as u16, ip as u16];
            let wrapped = [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !high, !low),
            ];
            if guard.check(IpAddr::V4(v4), trust).is_err() {
                for ip in wrapped {
                    prop_assert!(guard.check(IpAddr::V6(ip), trust).is_err(), "{ip}");
                }
            }
        }
    }
}

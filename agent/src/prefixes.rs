//! Sets of addresses.

use std::net::IpAddr;

use ipnet::IpNet;

/// Prefixes of which none contains another and none is half of one, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes(Vec<IpNet>);

impl Prefixes {
    pub fn new(prefixes: &[IpNet]) -> Self {
        let mut prefixes = IpNet::aggregate(&prefixes.to_vec());
        prefixes.sort_by_key(IpNet::network);
        Self(prefixes)
    }

    /// Whatever they are.
    #[cfg(test)]
    pub fn as_they_are(prefixes: Vec<IpNet>) -> Self {
        Self(prefixes)
    }

    pub fn all(&self) -> &[IpNet] {
        &self.0
    }

    pub fn contain(&self, address: IpAddr) -> bool {
        self.around(address).is_some()
    }

    /// Whether all addresses of the prefix are in it.
    pub fn cover(&self, prefix: &IpNet) -> bool {
        self.around(prefix.network()).is_some_and(|found| found.contains(prefix))
    }

    /// Whether any address of the prefix is in it.
    pub fn touch(&self, prefix: &IpNet) -> bool {
        let from = self.0.partition_point(|other| other.network() < prefix.network());
        self.cover(prefix) || self.0.get(from).is_some_and(|other| prefix.contains(other))
    }

    fn around(&self, address: IpAddr) -> Option<&IpNet> {
        let after = self.0.partition_point(|prefix| prefix.network() <= address);
        self.0[..after].last().filter(|prefix| prefix.contains(&address))
    }
}

/// An address is the prefix of one.
///
/// # Errors
/// If it is neither.
pub fn parse(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let wrong =
        |_| format!("{text:?} is neither a prefix nor an address, for example 10.1.7.0/24 or fd01::2");
    text.parse().or_else(|_| address()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_set() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let set =
            Prefixes::new(&nets(&["10.2.0.0/16", "10.1.0.0/16", "10.1.7.0/24", "10.3.0.0/16", "fd01::/32"]));
        assert_eq!(set.all(), nets(&["10.1.0.0/16", "10.2.0.0/15", "fd01::/32"]));
        for (prefix, covered, touched) in [
            ("10.1.0.0/16", true, true),
            ("10.2.0.0/15", true, true),
            ("10.3.7.1/32", true, true),
            ("10.0.0.0/8", false, true),
            ("10.0.0.0/15", false, true),
            ("10.4.0.0/16", false, false),
            ("0.0.0.0/0", false, true),
            ("fd01::/16", false, true),
            ("fd01:0:7::/48", true, true),
            ("fd02::/32", false, false),
            ("::/0", false, true),
        ] {
            let prefix: IpNet = prefix.parse().unwrap();
            assert_eq!((set.cover(&prefix), set.touch(&prefix)), (covered, touched), "{prefix}");
            assert!(!Prefixes::default().touch(&prefix));
        }
        assert!(set.contain("10.3.255.255".parse().unwrap()) && !set.contain("10.4.0.0".parse().unwrap()));
    }
}

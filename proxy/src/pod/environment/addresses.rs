//! The pod's addresses: the one that Kubernetes names first, then what else its interfaces have.
//!
//! istiod takes the first for the pod's own, and sends IPv6 only to those that have such an address. What the kernel
//! tells under `/proc/net` spares asking it for interfaces by system calls that aren't safe Rust.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use crate::pod::environment::variables::{EnvironmentError, Variables, invalid};

const IPV4: &str = "proc/net/fib_trie";
const IPV6: &str = "proc/net/if_inet6";

/// Reads `INSTANCE_IP` and the interfaces.
///
/// # Errors
/// `INSTANCE_IP` is no address; or there is none at all.
pub(crate) fn read(variables: &Variables, root: &Path) -> Result<Vec<IpAddr>, EnvironmentError> {
    let file = |name| std::fs::read_to_string(root.join(name)).unwrap_or_default();
    let mut addresses = Vec::new();
    let named = variables.text("INSTANCE_IP").unwrap_or_default();
    for part in named.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        addresses.push(part.parse().map_err(|e| invalid("INSTANCE_IP", named, e))?);
    }
    let (ipv4, ipv6) = (file(IPV4), file(IPV6));
    for address in local_ipv4(&ipv4).chain(local_ipv6(&ipv6)) {
        if is_of_the_pod(address) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(EnvironmentError::NoAddress);
    }
    Ok(addresses)
}

fn is_of_the_pod(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !link_local && !address.is_loopback() && !address.is_unspecified()
}

/// The routing trie: a leaf `|-- ADDRESS`, and below it `/32 host LOCAL` if the address is ours.
fn local_ipv4(trie: &str) -> impl Iterator<Item = IpAddr> + '_ {
    let mut leaf = None;
    trie.lines().filter_map(move |line| {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        }
        line.starts_with("/32 host LOCAL").then_some(leaf)?
    })
}

/// Lines that begin with the address, 32 hexadecimal digits.
fn local_ipv6(table: &str) -> impl Iterator<Item = IpAddr> + '_ {
    table.lines().filter_map(|line| {
        let digits = line.split_ascii_whitespace().next()?;
        let bits = (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok())??;
        Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
        +-- 10.244.1.0/24 2 0 2\n        |-- 10.244.1.0\n           /24 link UNICAST\n        |-- 10.244.1.7\n           \
        /32 host LOCAL\n        |-- 10.244.1.255\n           /32 link BROADCAST\nLocal:\n     |-- 127.0.0.1\n        \
        /32 host LOCAL\n     |-- 169.254.1.1\n        /32 host LOCAL\n     |-- 10.244.1.7\n        /32 host LOCAL\n     \
        |-- 192.168.9.2\n        /32 host LOCAL\n";
    const INET6: &str = "00000000000000000000000000000001 01 80 10 80       lo\n\
        fd000010024400010000000000000007 02 40 00 00     eth0\n\
        fe80000000000000a8bbccfffedd0001 02 40 20 80     eth0\n";

    fn root(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("waypoint-{name}-{}", std::process::id()));
        std::fs::create_dir_all(root.join("proc/net")).unwrap();
        for (file, text) in files {
            std::fs::write(root.join(file), text).unwrap();
        }
        root
    }

    fn instance_ip(value: &str) -> Variables {
        Variables::new([("INSTANCE_IP".to_owned(), value.to_owned())].into())
    }

    #[test]
    fn the_named_address_is_first_and_each_is_told_once() {
        let root = root("addresses", &[(IPV4, TRIE), (IPV6, INET6)]);
        let text = |variables: &Variables| -> Vec<String> {
            let addresses = read(variables, &root).unwrap();
            addresses.iter().map(ToString::to_string).collect()
        };
        let ipv6 = "fd00:10:244:1::7";
        assert_eq!(
            text(&instance_ip("192.168.9.2")),
            ["192.168.9.2", "10.244.1.7", ipv6]
        );
        assert_eq!(
            text(&Variables::default()),
            ["10.244.1.7", "192.168.9.2", ipv6]
        );
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn no_address_and_a_wrong_one_are_errors() {
        let nothing = root("no-addresses", &[]);
        assert!(matches!(
            read(&Variables::default(), &nothing),
            Err(EnvironmentError::NoAddress)
        ));
        let error = read(&instance_ip("here"), &nothing).unwrap_err();
        assert!(error.to_string().contains("INSTANCE_IP"), "{error}");
        std::fs::remove_dir_all(nothing).unwrap();
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        // Whatever this machine has, loopback is among it before it is sorted out.
        let trie = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
        if !trie.is_empty() {
            assert!(local_ipv4(&trie).any(|address| address.is_loopback()));
        }
    }
}

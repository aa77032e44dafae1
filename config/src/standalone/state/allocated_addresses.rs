//! Addresses for hosts of ServiceEntries that have none: what istiod's controller would write into their status.
//!
//! There is no controller here, and nobody to keep what it chose. So an address follows from the names, that it is the same
//! after every change and in every process; only where two names lead to one address, the younger entry gets the next.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::standalone::input::manifest::ObjectName;
use crate::standalone::kinds::istio::service_entry::ServiceEntry;
use crate::standalone::state::cluster_state::{ClusterState, Objects};

/// Of istiod's networks, 240.240.0.0/16 and 2001:2::/48, as many.
const ADDRESSES: u32 = 254 * 254;

impl ClusterState {
    /// Gives every host its addresses.
    pub(super) fn allocate_addresses(&mut self) {
        let of_services = self.services.values().flat_map(|s| &s.spec.addresses);
        let mut taken: HashSet<IpAddr> = of_services.copied().collect();
        taken.extend(written(&self.service_entries));
        let entries = self.service_entries.iter();
        let mut wanting: Vec<(i64, ObjectName)> = entries
            .filter(|(_, entry)| entry.spec.without_address().next().is_some())
            .map(|(name, entry)| (entry.meta.created, name.clone()))
            .collect();
        wanting.sort();
        for (_, name) in wanting {
            if let Some(entry) = self.service_entries.get_mut(&name) {
                let hosts: Vec<String> = entry.spec.without_address().cloned().collect();
                for host in hosts {
                    let addresses = next_free(&name, &host, &mut taken);
                    tracing::info!(entry = %name, host, ?addresses, "no address in spec or status: allocated");
                    entry.spec.allocate(&host, addresses);
                }
            }
        }
    }
}

/// The addresses that entries have.
fn written(entries: &Objects<ServiceEntry>) -> impl Iterator<Item = IpAddr> {
    entries.values().flat_map(|entry| {
        let own = entry.spec.addresses.iter().map(|net| net.addr());
        own.chain(entry.spec.allocated().copied())
    })
}

/// The addresses that follow from the names, or those after them. None, once all are taken.
fn next_free(entry: &ObjectName, host: &str, taken: &mut HashSet<IpAddr>) -> Vec<IpAddr> {
    let first = hash(&format!("{entry}/{host}")) % ADDRESSES;
    let free = (0..ADDRESSES)
        .map(|step| addresses((first + step) % ADDRESSES))
        .find(|pair| pair.iter().all(|address| !taken.contains(address)));
    let free = free.map(Vec::from).unwrap_or_default();
    taken.extend(&free);
    free
}

/// The pair of addresses with this number.
fn addresses(number: u32) -> [IpAddr; 2] {
    // No address ends in 0 or 255.
    let [high, low] = [number / 254, number % 254 + 1].map(|part| part.min(255) as u8);
    [
        Ipv4Addr::new(240, 240, high, low).into(),
        Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, u16::from_be_bytes([high, low])).into(),
    ]
}

/// FNV-1a: the same in all versions.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::input::yaml::documents;

    fn entry(name: &str, rest: &str) -> String {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}}}, {rest}}}\n"
        )
    }

    fn addresses_of(text: &str, name: &str, host: &str) -> Vec<String> {
        let state = ClusterState::read(documents(Path::new("a.yaml"), text).unwrap()).unwrap();
        let entry = &state.service_entries[&ObjectName::new("default", name)];
        let found = entry.spec.addresses_of(host);
        found.iter().map(|net| net.addr().to_string()).collect()
    }

    #[test]
    fn hosts_without_addresses_get_some_of_their_own() {
        let one = entry("a", "spec: {hosts: [a.test, b.test], resolution: DNS}");
        let (a, b) = (
            addresses_of(&one, "a", "a.test"),
            addresses_of(&one, "a", "b.test"),
        );
        assert!(
            a[0].starts_with("240.240.") && a[1].starts_with("2001:2::"),
            "{a:?}"
        );
        assert_ne!(a, b);
        // What else there is changes nothing.
        let more = entry("older", "spec: {hosts: [z.test], resolution: DNS}") + &one;
        assert_eq!(addresses_of(&more, "a", "a.test"), a);
        // Unless it has the address.
        let status = format!("status: {{addresses: [{{value: {}, host: z.test}}]}}", a[0]);
        let more = entry(
            "older",
            &format!("spec: {{hosts: [z.test], resolution: DNS}}, {status}"),
        ) + &one;
        assert_eq!(addresses_of(&more, "older", "z.test"), [a[0].as_str()]);
        assert_ne!(addresses_of(&more, "a", "a.test"), a);
    }

    #[test]
    fn addresses_are_in_their_networks() {
        for number in [0, 253, 254, ADDRESSES - 1] {
            let [v4, v6] = addresses(number);
            let IpAddr::V4(v4) = v4 else { unreachable!() };
            assert!(![0, 255].contains(&v4.octets()[3]), "{v4}");
            assert_eq!(v4.octets()[..2], [240, 240]);
            assert!(v6.to_string().starts_with("2001:2::"), "{v6}");
        }
    }
}

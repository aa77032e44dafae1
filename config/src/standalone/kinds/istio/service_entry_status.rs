//! The addresses that istiod has allocated to a ServiceEntry's hosts, as its status tells them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;

/// Label with which an entry asks istiod for addresses, or for none.
const ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Vec<StatusAddress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusAddress {
    value: String,
    host: String,
}

/// The addresses that istiod has put into the status. As with istiod, the label that asks for none says that
/// they don't count.
pub(super) fn allocated(manifest: &Manifest) -> Result<BTreeMap<String, Vec<IpAddr>>, LoadError> {
    let mut found: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    if declines(manifest) {
        return Ok(found);
    }
    let status: Status = manifest.part("status")?;
    for (index, address) in status.addresses.into_iter().enumerate() {
        let parsed = address.value.parse().map_err(|_| {
            let reason = format!("{:?} is no IP address", address.value);
            manifest.refused(format!("status.addresses[{index}].value"), reason)
        })?;
        found.entry(address.host).or_default().push(parsed);
    }
    Ok(found)
}

/// Whether it asks for no addresses.
pub(super) fn declines(manifest: &Manifest) -> bool {
    let wanted = manifest.meta.label(ALLOCATE);
    wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case("false"))
}

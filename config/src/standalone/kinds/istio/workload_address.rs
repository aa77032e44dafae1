//! Where an endpoint of a ServiceEntry is: an address, or a name that is looked up.

use std::fmt;
use std::net::IpAddr;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WorkloadAddress {
    Ip(IpAddr),
    Name(String),
}

impl WorkloadAddress {
    pub fn of(text: &str) -> WorkloadAddress {
        match text.parse() {
            Ok(address) => WorkloadAddress::Ip(address),
            Err(_) => WorkloadAddress::Name(text.to_owned()),
        }
    }

    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            WorkloadAddress::Ip(address) => Some(*address),
            WorkloadAddress::Name(_) => None,
        }
    }
}

impl fmt::Display for WorkloadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkloadAddress::Ip(address) => address.fmt(f),
            WorkloadAddress::Name(name) => f.write_str(name),
        }
    }
}

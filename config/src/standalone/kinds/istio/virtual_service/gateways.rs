//! `gateways` and `exportTo`: whom a VirtualService, or a match of it, is for; and the ports that it names.

use crate::standalone::kinds::istio::host_name::{is_host, is_label};
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// All proxies of the mesh, waypoints among them.
pub const MESH: &str = "mesh";

/// Whether gateways, as they are listed, take in the mesh; an empty list does.
pub(crate) fn takes_in_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH)
}

pub(super) fn check_gateways(gateways: &[String]) -> Result<(), Refusal> {
    for (index, gateway) in gateways.iter().enumerate() {
        let sound = match gateway.split_once('/') {
            Some((namespace, name)) => is_label(namespace) && is_label(name),
            None => !gateway.starts_with('*') && is_host(gateway),
        };
        if !sound {
            let reason = format!("{gateway:?} is no gateway, which is [namespace/]name");
            return Err(refusal(format!("gateways[{index}]"), reason));
        }
    }
    Ok(())
}

pub(super) fn check_port(field: &str, port: u32) -> Result<(), Refusal> {
    match port {
        1..=65535 => Ok(()),
        other => Err(refusal(
            field,
            format!("{other} is not between 1 and 65535"),
        )),
    }
}

/// Namespaces in which an object of this one counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportTo(Vec<String>);

impl ExportTo {
    pub(crate) fn read(written: &[String], namespace: &str) -> Result<ExportTo, Refusal> {
        let found = ExportTo::of(written, namespace);
        for (index, name) in found.0.iter().enumerate() {
            let field = format!("exportTo[{index}]");
            if found.0.iter().take(index).any(|other| other == name) {
                return Err(refusal(field, format!("{name:?} is given twice")));
            }
            if name == "*" && found.0.len() > 1 {
                return Err(refusal(field, "* stands alone"));
            }
            if name != "*" && !is_label(name) {
                let reason = format!("{name:?} is neither *, . nor the name of a namespace");
                return Err(refusal(field, reason));
            }
        }
        Ok(found)
    }

    /// A list that holds where objects have none of their own.
    pub(crate) fn of(written: &[String], namespace: &str) -> ExportTo {
        let name = |name: &String| match name.as_str() {
            "." => namespace.to_owned(),
            name => name.to_owned(),
        };
        ExportTo(written.iter().map(name).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn is_public(&self) -> bool {
        self.0.iter().any(|name| name == "*")
    }

    /// Whether objects count there; nobody sees what is exported to `~`.
    pub(crate) fn reaches(&self, namespace: &str) -> bool {
        let nobody = self.0.iter().any(|name| name == "~");
        self.is_public() || (!nobody && self.0.iter().any(|name| name == namespace))
    }
}

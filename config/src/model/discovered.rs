//! What a chain refers to by name and gets in a resource of its own: filters (ECDS) and route configurations
//! (RDS).
//!
//! A chain that refers to what hasn't come waits for it, as Envoy's listeners do: its last good version
//! serves meanwhile, and one that never had any is closed. istiod sends no removals of extensions; what no
//! chain refers to any more is dropped.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{ExtensionConfigSource, TypedExtensionConfig};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration as RouteConfigurationProto;
use envoy_types::pb::google::protobuf::Any;
use waypoint_filters::host::Host;
use waypoint_filters::http::{self, FilterContext};
use waypoint_filters::network;
use waypoint_filters::xds::coverage::{self, Table, harmless, honoured, required};
use waypoint_filters::xds::omitted::Omissions;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::slot::ClusterSlot;
use crate::model::config_source::CONFIG_SOURCE;
use crate::model::route::ROUTE_CONFIGURATION;
use crate::resource::ResourceType;

pub static EXTENSION: Table = Table {
    name: "envoy.config.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the resource has the name"),
        honoured(2, "typed_config").any(&[http::TABLES, network::TABLES]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

pub(crate) static EXTENSION_SOURCE: Table = Table {
    name: "envoy.config.core.v3.ExtensionConfigSource",
    fields: &[
        honoured(1, "config_source").of(&CONFIG_SOURCE),
        harmless(
            3,
            "apply_default_config_without_warming",
            "default_config is refused",
        ),
        honoured(4, "type_urls").list(),
    ],
    refused: "2 default_config",
    required: &[required("config_source", &[1])],
};

pub(crate) static RDS: Table = Table {
    name: "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
    fields: &[
        honoured(1, "config_source").of(&CONFIG_SOURCE),
        honoured(2, "route_config_name"),
    ],
    refused: "",
    required: &[required("config_source", &[1])],
};

/// The types of what chains refer to by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ByName {
    Extension,
    Routes,
}

/// A resource that a chain refers to: its type and name.
pub(crate) type Reference = (ByName, String);

impl ByName {
    pub(crate) const ALL: [ByName; 2] = [ByName::Extension, ByName::Routes];

    pub(crate) fn resource_type(self) -> ResourceType {
        match self {
            ByName::Extension => ResourceType::Extension,
            ByName::Routes => ResourceType::Routes,
        }
    }
}

/// What has come by name.
#[derive(Default)]
pub(crate) struct Discovered {
    extensions: HashMap<String, (Bytes, Any)>,
    routes: HashMap<String, (Bytes, RouteConfigurationProto)>,
}

impl Discovered {
    /// Takes a resource; says whether it differs from what was there.
    ///
    /// # Errors
    /// It can't be honoured by any chain; what was there stays.
    pub(crate) fn take(
        &mut self,
        kind: ByName,
        name: &str,
        body: &Bytes,
        host: &Arc<dyn Host>,
    ) -> Result<bool, Refusal> {
        if self.body(kind, name) == Some(body) {
            return Ok(false);
        }
        match kind {
            ByName::Extension => {
                let config = extension(name, body, host)?;
                self.extensions
                    .insert(name.to_owned(), (body.clone(), config));
            }
            ByName::Routes => {
                let routes = coverage::decode(body, &ROUTE_CONFIGURATION)?;
                self.routes.insert(name.to_owned(), (body.clone(), routes));
            }
        }
        Ok(true)
    }

    /// Forgets a resource; says whether it was there.
    pub(crate) fn remove(&mut self, kind: ByName, name: &str) -> bool {
        match kind {
            ByName::Extension => self.extensions.remove(name).is_some(),
            ByName::Routes => self.routes.remove(name).is_some(),
        }
    }

    /// Drops what nothing refers to.
    pub(crate) fn retain(&mut self, referred: &BTreeSet<Reference>) {
        let wanted = |kind, name: &str| referred.contains(&(kind, name.to_owned()));
        self.extensions
            .retain(|name, _| wanted(ByName::Extension, name));
        self.routes.retain(|name, _| wanted(ByName::Routes, name));
    }

    /// The bytes of a resource as they were received.
    fn body(&self, kind: ByName, name: &str) -> Option<&Bytes> {
        match kind {
            ByName::Extension => self.extensions.get(name).map(|(body, _)| body),
            ByName::Routes => self.routes.get(name).map(|(body, _)| body),
        }
    }
}

/// The configuration in an extension's resource, if a filter can be built of it.
fn extension(name: &str, body: &Bytes, host: &Arc<dyn Host>) -> Result<Any, Refusal> {
    let proto: TypedExtensionConfig = coverage::decode(body, &EXTENSION)?;
    let config = proto
        .typed_config
        .ok_or_else(|| Refusal::missing("typed_config"))?;
    let omissions = Omissions::default();
    let context = FilterContext {
        name,
        position: 0,
        stat_prefix: "",
        host,
        clusters: &|name| Arc::new(ClusterSlot::missing(name)),
        omissions: &omissions,
    };
    // Whether it stands in an HTTP or a TCP chain isn't said here.
    match http::build(&config, &context) {
        Ok(_) => Ok(config),
        Err(_) if network::build(&config, &context).is_ok() => Ok(config),
        Err(refusal) => Err(refusal),
    }
}

/// What one compilation looks up, and finds missing.
pub(crate) struct Lookup<'a> {
    discovered: &'a Discovered,
    referred: RefCell<BTreeSet<Reference>>,
    missing: RefCell<Option<Reference>>,
}

impl<'a> Lookup<'a> {
    pub(crate) fn new(discovered: &'a Discovered) -> Lookup<'a> {
        Lookup {
            discovered,
            referred: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// The configuration of the filter `name`.
    ///
    /// # Errors
    /// It is of another type than the chain allows; or it hasn't come, see [`Lookup::end`].
    pub(crate) fn extension(
        &self,
        name: &str,
        source: &ExtensionConfigSource,
    ) -> Result<&'a Any, Refusal> {
        let field = |e: Refusal| e.within("config_discovery");
        let reference = (ByName::Extension, name.to_owned());
        self.referred.borrow_mut().insert(reference.clone());
        let Some((_, config)) = self.discovered.extensions.get(name) else {
            return Err(self.miss(reference));
        };
        if !source.type_urls.contains(&config.type_url) {
            let reason = format!("{} is none of the types allowed here", config.type_url);
            return Err(field(Refusal::new("type_urls", reason)));
        }
        Ok(config)
    }

    /// The route configuration `name`.
    ///
    /// # Errors
    /// It hasn't come, see [`Lookup::end`].
    pub(crate) fn routes(&self, name: &str) -> Result<&'a RouteConfigurationProto, Refusal> {
        let reference = (ByName::Routes, name.to_owned());
        self.referred.borrow_mut().insert(reference.clone());
        match self.discovered.routes.get(name) {
            Some((_, routes)) => Ok(routes),
            None => Err(self.miss(reference)),
        }
    }

    fn miss(&self, reference: Reference) -> Refusal {
        let refusal = waiting(&reference);
        *self.missing.borrow_mut() = Some(reference);
        refusal
    }

    /// Everything that was looked up, and what of it hasn't come: then the compilation didn't fail, it waits.
    pub(crate) fn end(self) -> (BTreeSet<Reference>, Option<Reference>) {
        (self.referred.into_inner(), self.missing.into_inner())
    }
}

/// What a chain says that waits.
pub(crate) fn waiting((kind, name): &Reference) -> Refusal {
    let what = match kind {
        ByName::Extension => "the filter",
        ByName::Routes => "the route configuration",
    };
    Refusal::new("", format!("waits for {what} {name}"))
}

//! VirtualServices as a waypoint sees them: delegates put in their places, those that count in its namespace, in the order in
//! which they are tried.

use crate::standalone::input::manifest::{Object, ObjectName};
use crate::standalone::kinds::istio::virtual_service::VirtualService;
use crate::standalone::kinds::istio::virtual_service::delegate;
use crate::standalone::kinds::istio::virtual_service::gateways::ExportTo;
use crate::standalone::kinds::istio::virtual_service::http_route::{Delegate, HttpRoute};
use crate::standalone::state::cluster_state::ClusterState;

/// What stands before what: the nearer first, then the older, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    near: Near,
    created: i64,
    name: String,
    namespace: String,
}

impl Order {
    pub(crate) fn new(near: Near, created: i64, name: &str, namespace: &str) -> Order {
        Order {
            near,
            created,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
        }
    }
}

/// How near an object is to the waypoint's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Near {
    /// A route of the Gateway API in its clients' namespace, for those only.
    Clients,
    /// A VirtualService that counts in its own namespace and no other, which is the waypoint's.
    Private,
    /// One that another namespace exports to the waypoint's, and not to all.
    Exported,
    /// A route of the Gateway API in the waypoint's namespace.
    OwnRoute,
    /// All others.
    Public,
}

/// A VirtualService with the rules of its delegates.
#[derive(Debug)]
pub(crate) struct Merged<'a> {
    pub(crate) object: &'a Object<VirtualService>,
    pub(crate) near: Near,
    pub(crate) rules: Vec<Rule<'a>>,
    pub(crate) lost: Vec<Lost<'a>>,
}

/// A rule, and where it is written.
#[derive(Debug)]
pub(crate) struct Rule<'a> {
    pub(crate) route: HttpRoute,
    pub(crate) object: &'a Object<VirtualService>,
    /// Position in its `http`.
    pub(crate) index: usize,
}

/// A rule that came to nothing, and why.
#[derive(Debug)]
pub(crate) struct Lost<'a> {
    pub(crate) object: &'a Object<VirtualService>,
    pub(crate) field: String,
    pub(crate) reason: String,
}

impl Merged<'_> {
    pub(crate) fn order(&self) -> Order {
        let meta = &self.object.meta;
        Order::new(self.near, meta.created, &meta.name, &meta.namespace)
    }
}

/// Those that are for the mesh and count in this namespace. `default`: where they count that don't say it.
pub(crate) fn visible<'a>(
    state: &'a ClusterState,
    namespace: &str,
    default: Option<&[String]>,
) -> Vec<Merged<'a>> {
    let roots = state.virtual_services.values().filter(|object| {
        let found = &object.spec;
        !found.is_delegate() && found.is_for_mesh()
    });
    let seen = roots.filter_map(|object| {
        let near = nearness(object, namespace, default)?;
        let (rules, lost) = rules(state, object, default);
        Some(Merged {
            object,
            near,
            rules,
            lost,
        })
    });
    let mut seen: Vec<Merged<'a>> = seen.collect();
    seen.sort_by_cached_key(Merged::order);
    seen
}

fn nearness(
    object: &Object<VirtualService>,
    namespace: &str,
    default: Option<&[String]>,
) -> Option<Near> {
    let exported = export_to(object, default);
    if exported.is_public() {
        return Some(Near::Public);
    }
    let near = match object.meta.namespace == namespace {
        true => Near::Private,
        false => Near::Exported,
    };
    exported.reaches(namespace).then_some(near)
}

fn export_to(object: &Object<VirtualService>, default: Option<&[String]>) -> ExportTo {
    if !object.spec.export_to.is_empty() {
        return object.spec.export_to.clone();
    }
    let everywhere = ["*".to_owned()];
    ExportTo::of(default.unwrap_or(&everywhere), &object.meta.namespace)
}

/// The rules of a root, and what came to nothing.
fn rules<'a>(
    state: &'a ClusterState,
    root: &'a Object<VirtualService>,
    default: Option<&[String]>,
) -> (Vec<Rule<'a>>, Vec<Lost<'a>>) {
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    for (index, route) in root.spec.http.iter().enumerate() {
        let Some(delegate) = &route.delegate else {
            found.push(Rule {
                route: route.clone(),
                object: root,
                index,
            });
            continue;
        };
        let object = match delegate_of(state, root, delegate, default) {
            Ok(object) => object,
            Err(reason) => {
                let field = format!("spec.http[{index}].delegate");
                lost.push(Lost {
                    object: root,
                    field,
                    reason,
                });
                continue;
            }
        };
        for (position, own) in object.spec.http.iter().enumerate() {
            match delegate::merged(route, own) {
                Some(route) => found.push(Rule {
                    route,
                    object,
                    index: position,
                }),
                None => lost.push(Lost {
                    object,
                    field: format!("spec.http[{position}].match"),
                    reason: format!(
                        "not all of it is within spec.http[{index}].match of VirtualService {}: the rule is left out there",
                        root.name()
                    ),
                }),
            }
        }
    }
    (found, lost)
}

fn delegate_of<'a>(
    state: &'a ClusterState,
    root: &Object<VirtualService>,
    delegate: &Delegate,
    default: Option<&[String]>,
) -> Result<&'a Object<VirtualService>, String> {
    let own = root.meta.namespace.as_str();
    let namespace = match delegate.namespace.as_str() {
        "" => own,
        namespace => namespace,
    };
    let name = ObjectName::new(namespace, &delegate.name);
    let Some(found) = state.virtual_services.get(&name) else {
        return Err(format!("no VirtualService {name} is among the manifests"));
    };
    if !found.spec.is_delegate() {
        return Err(format!(
            "VirtualService {name} has hosts: a delegate has none"
        ));
    }
    if !export_to(found, default).reaches(own) {
        return Err(format!(
            "VirtualService {name} is not exported to namespace {own:?}"
        ));
    }
    Ok(found)
}

//! What users ask for beyond what istiod does for a waypoint: annotations of its Gateway.

use crate::standalone::translate::context::Mesh;

/// `enabled`: routes of other namespaces than a service's count for the clients of their own namespace.
pub(in crate::standalone::translate) const CONSUMER_ROUTES: &str = "waypoint/consumer-routes";
/// `required`: backends in other namespaces than their route's need a ReferenceGrant.
pub(in crate::standalone::translate) const REFERENCE_GRANTS: &str = "waypoint/reference-grants";

/// The settings, each with the value that turns it on.
pub(in crate::standalone::translate) const SETTINGS: [(&str, &str); 2] =
    [(CONSUMER_ROUTES, "enabled"), (REFERENCE_GRANTS, "required")];

impl Mesh<'_> {
    pub(in crate::standalone::translate) fn is_on(&self, setting: &str) -> bool {
        let value = self.waypoint.gateway.meta.annotation(setting);
        let mut known = SETTINGS.iter();
        value.is_some() && known.any(|(name, on)| *name == setting && value == Some(*on))
    }
}

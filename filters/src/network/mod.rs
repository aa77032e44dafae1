//! The registry of network (TCP) filters: a filter is a file here, its `mod` line and a row of [`FILTERS`].
//!
//! The terminal filters (`tcp_proxy`, the connection manager) are not here: `config` compiles them, `proxy` runs them.

pub mod client_hello;
mod ext_authz;
mod filter;
mod istio_stats;
mod metadata_exchange;
mod mongo_proxy;
mod rbac;
mod set_filter_state;
mod sni_dynamic_forward_proxy;

use envoy_types::pb::google::protobuf::Any;

use crate::http::FilterContext;
use crate::http::filter::{self as registry, Place, Registration};
use crate::xds::coverage::Table;
use crate::xds::rejected::Refusal;
use crate::xds::typed_struct;

pub use filter::{BuiltNetworkFilter, Decision, NameUse, NetworkFilter, Verdict};
pub use metadata_exchange::TYPE_URL as METADATA_EXCHANGE;
pub use set_filter_state::only_shares_destination;

/// All filters.
const FILTERS: &[Registration<BuiltNetworkFilter>] = &[
    rbac::FILTER,
    ext_authz::FILTER,
    set_filter_state::FILTER,
    mongo_proxy::FILTER,
    istio_stats::FILTER,
    metadata_exchange::FILTER,
    sni_dynamic_forward_proxy::FILTER,
];

/// The tables of all configurations that [`build`] takes.
pub static TABLES: &[&Table] = &{
    const MESSAGES: usize = registry::tables(FILTERS, Place::Chain, &mut []);
    let mut tables = [&typed_struct::UDPA; MESSAGES + 2];
    registry::tables(FILTERS, Place::Chain, &mut tables);
    tables[MESSAGES] = &typed_struct::XDS;
    tables
};

/// Builds the network filter that `config` describes.
///
/// # Errors
/// A filter that isn't built into this binary, or whose configuration is invalid.
pub fn build(config: &Any, context: &FilterContext<'_>) -> Result<BuiltNetworkFilter, Refusal> {
    registry::build(FILTERS, config, context)
}

//! What a request that is only explained meets on its way, in order: nothing of it leaves the process.
//!
//! A stream has an explanation where somebody asks why (`waypoint explain`). What decides writes down here what it
//! decided and what kept its other rules from matching; what would go out of the process is written down instead.

use parking_lot::Mutex;

/// The steps so far.
#[derive(Default)]
pub struct Explanation(Mutex<Steps>);

/// What is known of a request's way.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// The rules that were asked, in order.
    pub rules: Vec<RulesStep>,
    /// The tokens of the request, where it is asked for any.
    pub tokens: Vec<TokenStep>,
    /// What filters would ask of other services, and similar.
    pub notes: Vec<String>,
    /// The routes in the order in which they are tried, up to the one that was chosen.
    pub routes: Vec<RouteStep>,
    pub upstream: Option<UpstreamStep>,
}

/// A set of rules with one action, as it was asked.
#[derive(Clone, Debug)]
pub struct RulesStep {
    pub action: &'static str,
    pub purpose: Purpose,
    /// Of rules that say who is asked: nobody is.
    pub allowed: bool,
    /// All of them, in the order in which they are tried. What comes behind the one that matched is told, too.
    pub policies: Vec<PolicyStep>,
}

/// What rules are there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Decides,
    /// What they would have decided is told.
    DryRun,
    /// They are a CUSTOM policy's, and say whether its provider is asked.
    Asks,
}

/// One policy of the rules.
#[derive(Clone, Debug)]
pub struct PolicyStep {
    /// As istiod calls it: `ns[default]-policy[reviews]-rule[0]`.
    pub name: String,
    /// What kept it from matching; empty: it matches.
    pub misses: Vec<String>,
}

/// A token of the request.
#[derive(Clone, Debug, Default)]
pub struct TokenStep {
    /// Where it stands: `header authorization`.
    pub place: String,
    /// What it says of itself, proven or not; `None`: it can't be read.
    pub issuer: Option<String>,
    pub subject: Option<String>,
    /// Why it proves nothing, as clients are told; `None`: it is good.
    pub failure: Option<&'static str>,
    /// What to do about that.
    pub advice: Option<String>,
}

/// One route.
#[derive(Clone, Debug)]
pub struct RouteStep {
    pub name: String,
    /// What it asks for.
    pub matches: String,
    /// What kept it from matching; empty: it is the one.
    pub misses: Vec<String>,
}

/// Where the request would go.
#[derive(Clone, Debug)]
pub struct UpstreamStep {
    /// Method, target and headers as the first of the clusters would get them.
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub clusters: Vec<ClusterStep>,
    /// Clusters that get a copy.
    pub mirrors: Vec<String>,
}

/// A cluster that a route may choose.
#[derive(Clone, Debug)]
pub struct ClusterStep {
    pub name: String,
    /// Its part of the route's requests, in percent.
    pub percent: f64,
    /// Whether there is such a cluster.
    pub exists: bool,
    pub endpoints: Vec<EndpointStep>,
}

/// An endpoint of a cluster.
#[derive(Clone, Debug)]
pub struct EndpointStep {
    pub address: String,
    /// Over HBONE; else plain.
    pub hbone: bool,
    pub healthy: bool,
    pub weight: u32,
    pub priority: usize,
    pub workload: Option<String>,
}

impl Explanation {
    pub fn rules(&self, step: RulesStep) {
        self.0.lock().rules.push(step);
    }

    pub fn tokens(&self, tokens: Vec<TokenStep>) {
        self.0.lock().tokens = tokens;
    }

    pub fn note(&self, note: String) {
        self.0.lock().notes.push(note);
    }

    pub fn routes(&self, routes: Vec<RouteStep>) {
        self.0.lock().routes = routes;
    }

    pub fn upstream(&self, upstream: UpstreamStep) {
        self.0.lock().upstream = Some(upstream);
    }

    /// What was written down.
    #[must_use]
    pub fn steps(&self) -> Steps {
        self.0.lock().clone()
    }
}

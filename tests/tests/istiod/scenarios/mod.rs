//! Every scenario whose resources were recorded, pushed by a real istiod, with traffic.
//!
//! What the waypoint can't honour of a scenario stands in its story, whole: neither more nor less is refused.
//! Then the story takes that out of the manifests, and sees the rest at work.

mod addresses;
mod extensions;
mod mesh_settings;
mod policy;
mod ports;
mod routes;

/// The services of Bookinfo.
const SERVICES: [&str; 7] = [
    "productpage",
    "details",
    "ratings",
    "reviews",
    "reviews-v1",
    "reviews-v2",
    "reviews-v3",
];

//! The page on the admin port in a real browser. `make test-page` runs these; `WAYPOINT_CHROMEDRIVER` is its driver.

#![allow(clippy::unwrap_used)]

mod looks;
mod refusals;
mod scene;
mod shows;

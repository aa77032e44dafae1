//! Seeds of generated stories: each run has others, is told, and can be had again with `WAYPOINT_SEED`.

use fastrand::Rng;

/// The seed that `WAYPOINT_SEED` says, or some. It is printed: a story that fails shows it.
///
/// # Panics
/// `WAYPOINT_SEED` is no number.
#[must_use]
pub fn seed() -> u64 {
    let seed = match std::env::var("WAYPOINT_SEED") {
        Ok(seed) => seed.parse().expect("WAYPOINT_SEED is a number"),
        Err(_) => u64::from(fastrand::u32(..)),
    };
    eprintln!("WAYPOINT_SEED={seed}");
    seed
}

/// One of them.
pub fn one<'a, T: ?Sized>(rng: &mut Rng, of: &[&'a T]) -> &'a T {
    of[rng.usize(..of.len())]
}

/// Whether what happens in `n` of 100 cases happens.
pub fn chance(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..100) < n
}

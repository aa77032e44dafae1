//! Quantiles of a histogram, as Envoy tells them: by where they fall between the bounds of a bucket.

use waypoint_filters::metrics::exposition::Distribution;

/// Those that Envoy tells, in per cent.
pub(super) const QUANTILES: [f64; 10] =
    [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// `None`: there is nothing.
pub(super) fn quantiles(distribution: &Distribution) -> Option<[f64; 10]> {
    let told = |percent| (quantile(distribution, percent) * 1000.0).round() / 1000.0;
    (distribution.count > 0).then(|| QUANTILES.map(told))
}

fn quantile(distribution: &Distribution, percent: f64) -> f64 {
    let wanted = distribution.count as f64 * percent / 100.0;
    let (mut from, mut before) = (0.0, 0);
    for &(bound, count) in &distribution.buckets {
        let inside = (count - before) as f64;
        if inside > 0.0 && count as f64 >= wanted {
            return from + (bound - from) * ((wanted - before as f64) / inside).clamp(0.0, 1.0);
        }
        (from, before) = (bound, count);
    }
    // Above all bounds nothing is known but that.
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_fall_between_bounds() {
        let of = |buckets: &[(f64, u64)], count| {
            quantiles(&Distribution {
                buckets: buckets.to_vec(),
                count,
                sum: 0.0,
                exemplars: Vec::new(),
            })
        };
        assert_eq!(of(&[(1.0, 0)], 0), None);
        let told = of(&[(10.0, 0), (20.0, 100), (30.0, 100)], 100);
        let expected = [10.0, 12.5, 15.0, 17.5, 19.0, 19.5, 19.9, 19.95, 19.99, 20.0];
        assert_eq!(told, Some(expected));
        assert_eq!(of(&[(10.0, 0), (20.0, 1)], 4).map(|q| q[9]), Some(20.0));
    }
}

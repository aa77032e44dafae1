//! `previous_priorities`: further attempts of a request leave out the priorities that earlier ones went to
//! (istiod: `retryRemoteLocalities`).
//!
//! After every `update_frequency` attempts the priorities of all of them are left out. When none that has healthy endpoints would be
//! left, it begins anew.

use std::net::SocketAddr;

use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::hosts::Hosts;

pub(crate) static PREVIOUS_PRIORITIES: Table = Table {
    name: "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
    fields: &[honoured(1, "update_frequency")],
    refused: "",
    required: &[],
};

/// After how many attempts priorities are left out.
pub(crate) fn update_frequency(proto: &PreviousPrioritiesConfig) -> Result<usize, Refusal> {
    usize::try_from(proto.update_frequency)
        .ok()
        .filter(|frequency| *frequency > 0)
        .ok_or_else(|| Refusal::new("update_frequency", "is not above 0"))
}

/// What the attempts of one request leave out.
#[derive(Debug, Default)]
pub struct PreviousPriorities {
    left_out: Vec<bool>,
    /// The first attempt that counts.
    from: usize,
}

impl PreviousPriorities {
    /// By priority, for the next attempt after those at `tried`.
    pub fn left_out(&mut self, hosts: &Hosts, tried: &[SocketAddr], frequency: usize) -> &[bool] {
        let counted = tried.get(self.from..).unwrap_or_default();
        if counted.len() < frequency {
            return &[];
        }
        if counted.len().is_multiple_of(frequency) {
            for priority in counted.iter().filter_map(|a| hosts.priority_of(*a)) {
                if self.left_out.len() <= priority {
                    self.left_out.resize(priority + 1, false);
                }
                if let Some(place) = self.left_out.get_mut(priority) {
                    *place = true;
                }
            }
            if hosts.available_without(&self.left_out) == 0 {
                self.left_out.clear();
                self.from = tried.len();
            }
        }
        &self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balance::hosts::tests::of;

    const NONE: [bool; 0] = [];

    /// An endpoint of each priority, by the first port.
    fn at(priority: u16) -> SocketAddr {
        ([10, 0, 0, 1], 100 * (priority + 1)).into()
    }

    #[test]
    fn priorities_are_left_out_after_so_many_attempts_until_none_would_be_left() {
        let hosts = of(&[(2, 2), (2, 2), (2, 2)]);
        let mut previous = PreviousPriorities::default();
        let tried = [0, 0, 1, 1, 2, 2, 0, 0].map(at);
        let mut left_out = |attempts: usize| -> Vec<bool> {
            let tried = tried.get(..attempts).unwrap_or_default();
            previous.left_out(&hosts, tried, 2).to_vec()
        };
        assert_eq!(left_out(0), NONE);
        assert_eq!(left_out(1), NONE);
        assert_eq!(left_out(2), [true]);
        assert_eq!(left_out(3), [true]);
        assert_eq!(left_out(4), [true, true]);
        assert_eq!(left_out(6), NONE, "begins anew");
        assert_eq!(left_out(7), NONE);
        assert_eq!(left_out(8), [true]);
    }

    #[test]
    fn load_goes_to_those_that_are_left() {
        let hosts = of(&[(2, 2), (1, 2), (2, 2)]);
        let to = |point, left_out: &[bool]| {
            let (priority, _) = hosts.priority(0.0, point, left_out)?;
            priority.all().endpoints.first().map(|e| e.address)
        };
        assert_eq!(to(99, &[]), Some(at(0)));
        // 1.4 times a half stays with the second.
        assert_eq!(to(69, &[true]), Some(at(1)));
        assert_eq!(to(70, &[true]), Some(at(2)));
        assert_eq!(to(0, &[true, true]), Some(at(2)));
        // Nothing would be left.
        assert_eq!(to(0, &[true, true, true]), Some(at(0)));
    }
}

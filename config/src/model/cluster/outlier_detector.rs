//! Judges a cluster's endpoints: ejects those that have a sign, and lets them come back.
//!
//! The rules are Envoy's (1.40). At every interval an endpoint that is out comes back if its time is over, and one that isn't is forgiven
//! one of the times that it was. Signs of a row of failures are looked at at once, comparisons at every interval. Runs on the
//! control thread alone; time and chance come with the call.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::balance::endpoint_set::EndpointSet;
use crate::model::cluster::outlier_detection::OutlierDetection;
use crate::model::endpoint::{Endpoint, Transport};
use crate::model::outlier::{Outliers, Rate, Sign};

/// Judges one cluster's endpoints.
pub(crate) struct Detector {
    settings: Arc<OutlierDetection>,
    next: Instant,
    /// Of endpoints that are out, or were not long ago.
    terms: HashMap<(SocketAddr, Transport), Term>,
}

/// How long an endpoint is out.
#[derive(Clone, Copy, Debug)]
struct Term {
    since: Instant,
    /// How often it was, less the intervals since.
    times: u32,
    jitter: Duration,
}

/// One look at the endpoints of a cluster.
pub(crate) struct Look<'a, R> {
    pub(crate) cluster: &'a str,
    pub(crate) endpoints: &'a EndpointSet,
    pub(crate) outliers: &'a Outliers,
    pub(crate) now: Instant,
    pub(crate) random: &'a mut R,
}

/// What has become of a look so far.
struct Count {
    all: usize,
    ejected: usize,
    changed: bool,
}

impl Detector {
    pub(crate) fn new(settings: Arc<OutlierDetection>, now: Instant) -> Detector {
        Detector {
            next: now + settings.interval,
            settings,
            terms: HashMap::new(),
        }
    }

    /// Judges by other rules from now on. Who is out stays out.
    pub(crate) fn set_rules(&mut self, settings: &Arc<OutlierDetection>, now: Instant) {
        if self.settings.interval != settings.interval {
            self.next = now + settings.interval;
        }
        self.settings = settings.clone();
    }

    /// When the next look is due by itself.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Judges; says whether an endpoint went out or came back.
    pub(crate) fn look<R: FnMut() -> u64>(&mut self, look: &mut Look<'_, R>) -> bool {
        let alarmed = look.outliers.take_alarm();
        let due = look.now >= self.next;
        if !alarmed && !due {
            return false;
        }
        let ejected = |e: &&Arc<Endpoint>| e.state.monitor.is_ejected();
        let mut count = Count {
            all: look.endpoints.iter().count(),
            ejected: look.endpoints.iter().filter(ejected).count(),
            changed: false,
        };
        if alarmed {
            for endpoint in look.endpoints.iter() {
                for sign in endpoint.state.monitor.take_signs() {
                    if !endpoint.state.monitor.is_ejected() {
                        self.found(endpoint, sign, look, &mut count);
                    }
                    endpoint.state.monitor.forget(sign);
                }
            }
        }
        if due {
            self.next = look.now + self.settings.interval;
            self.take_back(look, &mut count);
            self.compare(look, &mut count);
        }
        look.outliers.set_active(count.ejected);
        count.changed
    }

    /// An endpoint has a sign.
    fn found<R: FnMut() -> u64>(
        &mut self,
        endpoint: &Endpoint,
        sign: Sign,
        look: &mut Look<'_, R>,
        count: &mut Count,
    ) {
        look.outliers.count_detected(sign);
        if !self.has_room(count) {
            look.outliers.count_overflow();
            return;
        }
        if (look.random)() % 100 >= self.settings.enforcing(sign) {
            return;
        }
        look.outliers.count_enforced(sign);
        endpoint.state.monitor.eject();
        count.ejected += 1;
        count.changed = true;
        let most = self.settings.max_ejection_time_jitter.as_millis() as u64;
        let term = self.terms.entry((endpoint.address, endpoint.transport));
        let term = term.or_insert(Term {
            since: look.now,
            times: 0,
            jitter: Duration::ZERO,
        });
        term.since = look.now;
        term.jitter = Duration::from_millis((look.random)() % most.saturating_add(1));
        let so_far = self.settings.base_ejection_time.saturating_mul(term.times);
        if so_far < self.settings.max_ejection_time + self.settings.base_ejection_time {
            term.times += 1;
        }
        tracing::warn!(
            cluster = look.cluster,
            endpoint = %endpoint.address,
            because = sign.name(),
            times = term.times,
            "endpoint ejected: it gets nothing for a while"
        );
    }

    /// Whether one more may be out.
    fn has_room(&self, count: &Count) -> bool {
        let percent = 100.0 * (count.ejected + 1) as f64 / count.all.max(1) as f64;
        percent <= f64::from(self.settings.max_ejection_percent)
            || (self.settings.always_eject_one && count.ejected == 0)
    }

    /// Lets those come back whose time is over, and forgives the others a little.
    fn take_back<R>(&mut self, look: &Look<'_, R>, count: &mut Count) {
        let mut terms = HashMap::new();
        for endpoint in look.endpoints.iter() {
            let key = (endpoint.address, endpoint.transport);
            let term = self.terms.get(&key).copied();
            let Some(mut term) = term else {
                continue;
            };
            if !endpoint.state.monitor.is_ejected() {
                term.times = term.times.saturating_sub(1);
            } else if self.time(term) <= look.now.saturating_duration_since(term.since) {
                endpoint.state.monitor.take_back();
                count.ejected = count.ejected.saturating_sub(1);
                count.changed = true;
                tracing::info!(
                    cluster = look.cluster,
                    endpoint = %endpoint.address,
                    "endpoint is back: its time out is over"
                );
            }
            if term.times > 0 || endpoint.state.monitor.is_ejected() {
                terms.insert(key, term);
            }
        }
        self.terms = terms;
    }

    fn time(&self, term: Term) -> Duration {
        let time = self.settings.base_ejection_time.saturating_mul(term.times);
        time.min(self.settings.max_ejection_time) + term.jitter
    }

    /// Compares the endpoints with each other, and with what is asked of each.
    fn compare<R: FnMut() -> u64>(&mut self, look: &mut Look<'_, R>, count: &mut Count) {
        let mut external = Vec::new();
        let mut local = Vec::new();
        for endpoint in look.endpoints.iter() {
            let rates = endpoint.state.monitor.take_rates();
            if endpoint.state.monitor.is_ejected() {
                continue;
            }
            let [of_answers, of_ways] = rates;
            external.extend(of_answers.map(|rate| (endpoint, rate)));
            local.extend(of_ways.map(|rate| (endpoint, rate)));
        }
        for (mut rates, worse, bad) in [
            (external, Sign::SuccessRate, Sign::FailurePercentage),
            (
                local,
                Sign::LocalOriginSuccessRate,
                Sign::LocalOriginFailurePercentage,
            ),
        ] {
            rates.retain(|(endpoint, _)| !endpoint.state.monitor.is_ejected());
            for endpoint in self.worse_than_most(&rates, count.all) {
                self.found(endpoint, worse, look, count);
            }
            for endpoint in self.bad(&rates, count.all) {
                if !endpoint.state.monitor.is_ejected() {
                    self.found(endpoint, bad, look, count);
                }
            }
        }
    }

    fn worse_than_most<'a>(
        &self,
        rates: &[(&'a Arc<Endpoint>, Rate)],
        all: usize,
    ) -> Vec<&'a Arc<Endpoint>> {
        let rule = self.settings.success_rate;
        let asked = |(_, rate): &&(&Arc<Endpoint>, Rate)| rate.volume >= rule.request_volume;
        let valid: Vec<_> = rates.iter().filter(asked).collect();
        if valid.is_empty() || all.min(valid.len()) < rule.minimum_hosts {
            return Vec::new();
        }
        let percents = valid.iter().map(|(_, rate)| rate.success_percent);
        let number = valid.len() as f64;
        let mean = percents.clone().sum::<f64>() / number;
        let variance = percents.map(|p| (p - mean).powi(2)).sum::<f64>() / number;
        let threshold = mean - rule.factor * variance.sqrt();
        let worse = valid.iter().filter(|(_, r)| r.success_percent < threshold);
        worse.map(|(endpoint, _)| *endpoint).collect()
    }

    fn bad<'a>(&self, rates: &[(&'a Arc<Endpoint>, Rate)], all: usize) -> Vec<&'a Arc<Endpoint>> {
        let rule = self.settings.failure_percentage;
        let asked = |(_, rate): &&(&Arc<Endpoint>, Rate)| rate.volume >= rule.request_volume;
        let valid: Vec<_> = rates.iter().filter(asked).collect();
        if valid.is_empty() || all.min(valid.len()) < rule.minimum_hosts {
            return Vec::new();
        }
        let bad = valid
            .iter()
            .filter(|(_, rate)| 100.0 - rate.success_percent >= rule.threshold);
        bad.map(|(endpoint, _)| *endpoint).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection as OutlierDetectionProto;
    use envoy_types::pb::google::protobuf::{BoolValue, Duration as DurationProto, UInt32Value};

    use super::*;
    use crate::model::endpoint::Locality;
    use crate::model::outlier::Outcome::{self, Answered, Failed};

    fn number(value: u32) -> Option<UInt32Value> {
        Some(UInt32Value { value })
    }

    fn seconds(seconds: i64) -> Option<DurationProto> {
        Some(DurationProto { seconds, nanos: 0 })
    }

    /// Ten seconds between looks, half a minute out, and all may be.
    fn rules() -> OutlierDetectionProto {
        OutlierDetectionProto {
            max_ejection_percent: number(100),
            ..OutlierDetectionProto::default()
        }
    }

    struct Scene {
        settings: Arc<OutlierDetection>,
        detector: Detector,
        set: EndpointSet,
        outliers: Outliers,
        start: Instant,
        chance: u64,
    }

    impl Scene {
        fn new(endpoints: u16, rules: &OutlierDetectionProto) -> Scene {
            let endpoint = |port| Arc::new(Endpoint::on_port(port));
            let start = Instant::now();
            let settings = Arc::new(OutlierDetection::from_proto(rules).unwrap());
            Scene {
                detector: Detector::new(settings.clone(), start),
                settings,
                set: EndpointSet::new(vec![vec![Locality {
                    endpoints: (0..endpoints).map(endpoint).collect(),
                    ..Locality::default()
                }]]),
                outliers: Outliers::default(),
                start,
                chance: 0,
            }
        }

        fn count(&self, port: usize, outcomes: &[Outcome]) {
            let endpoint = self.set.iter().nth(port).unwrap();
            for outcome in outcomes {
                let monitor = &endpoint.state.monitor;
                if monitor.count(*outcome, &self.settings.thresholds) {
                    self.outliers.alarm();
                }
            }
        }

        /// So many of a hundred answers are good.
        fn answers(&self, port: usize, good: usize) {
            self.count(
                port,
                &[Answered(200), Answered(500)].repeat(good.min(100 - good)),
            );
            let rest = if good > 50 { 200 } else { 500 };
            self.count(port, &vec![Answered(rest); 100 - 2 * good.min(100 - good)]);
        }

        /// Looks so many seconds after the start: who is out then.
        fn out_at(&mut self, seconds: u64) -> Vec<u16> {
            let chance = self.chance;
            let before = self.out();
            let changed = self.detector.look(&mut Look {
                cluster: "web",
                endpoints: &self.set,
                outliers: &self.outliers,
                now: self.start + Duration::from_secs(seconds),
                random: &mut || chance,
            });
            let now = self.out();
            assert_eq!(changed, before != now);
            assert_eq!(self.outliers.active() as usize, now.len());
            now
        }

        fn out(&self) -> Vec<u16> {
            let all = self.set.iter();
            let out = all.filter(|e| e.state.monitor.is_ejected());
            out.map(|e| e.address.port()).collect()
        }
    }

    const NOBODY: [u16; 0] = [];
    const BAD: [Outcome; 5] = [Answered(500); 5];

    #[test]
    fn out_at_once_and_back_when_the_time_is_over_longer_every_time() {
        let mut scene = Scene::new(3, &rules());
        scene.count(1, &BAD[1..]);
        assert_eq!(scene.out_at(1), NOBODY);
        scene.count(1, &BAD[..1]);
        assert_eq!(scene.out_at(2), [1]);
        assert_eq!(scene.outliers.of(Sign::Consecutive5xx), (1, 1));
        assert_eq!(scene.out_at(12), [1]);
        assert_eq!(scene.out_at(31), [1]);
        // Only looks of an interval let anybody back.
        scene.count(0, &BAD);
        assert_eq!(scene.out_at(33), [0, 1]);
        assert_eq!(scene.out_at(42), [0]);
        // The second time counts double, unless it was forgiven.
        scene.count(1, &BAD);
        assert_eq!(scene.out_at(43), [0, 1]);
        assert_eq!(scene.out_at(73), [1]);
        assert_eq!(scene.out_at(102), [1]);
        assert_eq!(scene.out_at(112), NOBODY);
        for second in [122, 132, 142] {
            assert_eq!(scene.out_at(second), NOBODY);
        }
        assert!(scene.detector.terms.is_empty());
        scene.count(1, &BAD);
        assert_eq!(scene.out_at(143), [1]);
        assert_eq!(scene.out_at(175), NOBODY);
    }

    #[test]
    fn the_time_has_a_most_and_a_jitter() {
        let mut scene = Scene::new(
            1,
            &OutlierDetectionProto {
                max_ejection_time: seconds(40),
                max_ejection_time_jitter: seconds(5),
                ..rules()
            },
        );
        let key = ([10, 0, 0, 1], 0).into();
        for (second, times) in [(1, 1), (100, 2), (200, 3), (300, 3)] {
            // No interval forgives anything meanwhile.
            scene.detector.next = scene.start + Duration::from_secs(second + 50);
            scene.count(0, &BAD);
            assert_eq!(scene.out_at(second), [0]);
            let term = scene.detector.terms[&(key, Transport::Plain)];
            assert_eq!(term.times, times);
            assert_eq!(scene.out_at(second + 50), NOBODY);
        }
        let term = |times, jitter| Term {
            since: scene.start,
            times,
            jitter: Duration::from_secs(jitter),
        };
        assert_eq!(scene.detector.time(term(1, 0)), Duration::from_secs(30));
        assert_eq!(scene.detector.time(term(3, 5)), Duration::from_secs(45));
    }

    #[test]
    fn only_so_many_are_out_at_a_time() {
        for (percent, always, out) in [
            (10, false, 0),
            (10, true, 1),
            (33, false, 0),
            (34, false, 1),
            (50, false, 1),
            (67, false, 2),
            (100, false, 3),
        ] {
            let mut scene = Scene::new(
                3,
                &OutlierDetectionProto {
                    max_ejection_percent: number(percent),
                    always_eject_one_host: Some(BoolValue { value: always }),
                    ..rules()
                },
            );
            (0..3).for_each(|port| scene.count(port, &BAD));
            assert_eq!(scene.out_at(1).len(), out, "{percent} {always}");
            assert_eq!(scene.outliers.overflow(), 3 - out as u64);
            // It is found again.
            (0..3).for_each(|port| scene.count(port, &BAD));
            scene.out_at(2);
            assert_eq!(scene.outliers.overflow(), 2 * (3 - out as u64));
        }
    }

    #[test]
    fn signs_have_an_effect_as_often_as_they_are_enforced() {
        let mut scene = Scene::new(
            1,
            &OutlierDetectionProto {
                enforcing_consecutive_5xx: number(30),
                consecutive_gateway_failure: number(3),
                ..rules()
            },
        );
        scene.chance = 30;
        scene.count(0, &[Failed; 5]);
        assert_eq!(scene.out_at(1), NOBODY);
        assert_eq!(scene.outliers.of(Sign::Consecutive5xx), (1, 0));
        assert_eq!(scene.outliers.of(Sign::ConsecutiveGatewayFailure), (1, 0));
        scene.chance = 29;
        scene.count(0, &[Failed; 5]);
        assert_eq!(scene.out_at(2), [0]);
    }

    #[test]
    fn who_does_worse_than_most_is_out_at_the_interval() {
        let rates = OutlierDetectionProto {
            consecutive_5xx: number(0),
            ..rules()
        };
        let mut scene = Scene::new(6, &rates);
        (0..5).for_each(|port| scene.answers(port, 100));
        scene.answers(5, 60);
        assert_eq!(scene.out_at(9), NOBODY);
        assert_eq!(scene.out_at(10), [5]);
        assert_eq!(scene.outliers.of(Sign::SuccessRate), (1, 1));
        // Four that were asked are too few to compare; nobody is asked for a while.
        let mut scene = Scene::new(6, &rates);
        (0..3).for_each(|port| scene.answers(port, 100));
        scene.answers(5, 0);
        assert_eq!(scene.out_at(10), NOBODY);
        assert_eq!(scene.out_at(20), NOBODY);
        // All alike.
        (0..6).for_each(|port| scene.answers(port, 60));
        assert_eq!(scene.out_at(30), NOBODY);
    }

    #[test]
    fn who_does_badly_is_out_whatever_others_do_where_that_is_enforced() {
        let mut rules = OutlierDetectionProto {
            consecutive_5xx: number(0),
            enforcing_success_rate: number(0),
            failure_percentage_minimum_hosts: number(2),
            ..rules()
        };
        for (enforcing, out) in [(0, vec![]), (100, vec![0, 1])] {
            rules.enforcing_failure_percentage = number(enforcing);
            let mut scene = Scene::new(3, &rules);
            scene.chance = 99;
            scene.answers(0, 10);
            scene.answers(1, 15);
            scene.answers(2, 16);
            assert_eq!(scene.out_at(10), out);
            assert_eq!(scene.outliers.of(Sign::FailurePercentage).0, 2);
        }
    }

    #[test]
    fn ways_are_judged_apart_where_they_are_counted_apart() {
        let mut scene = Scene::new(
            2,
            &OutlierDetectionProto {
                split_external_local_origin_errors: true,
                consecutive_local_origin_failure: number(2),
                ..rules()
            },
        );
        scene.count(0, &[Failed, Answered(200), Failed]);
        scene.count(1, &[Answered(500), Answered(500)]);
        assert_eq!(scene.out_at(1), [0]);
        let sign = Sign::ConsecutiveLocalOriginFailure;
        assert_eq!(scene.outliers.of(sign), (1, 1));
    }
}

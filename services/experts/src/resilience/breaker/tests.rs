use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn rules() -> BreakerSettings {
    BreakerSettings::default()
}

fn after(now: Instant, ms: u64) -> Instant {
    now + Duration::from_millis(ms)
}

/// Fails until it is open, and says after how many failures.
fn trip(breaker: &mut Breaker, now: Instant) -> u32 {
    let mut failures = 0;
    while let Some(pass) = breaker.admit(now) {
        breaker.failed(pass, now);
        failures += 1;
    }
    failures
}

fn succeed(breaker: &mut Breaker, now: Instant) {
    let mut pass = breaker.admit(now).unwrap();
    breaker.answered(&mut pass, now);
    breaker.completed(pass, now);
}

#[test]
fn consecutive_failures_open_it_and_each_opening_is_longer() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new(rules(), now);
    assert_eq!(trip(&mut breaker, now), 5);
    for seconds in [5, 10, 20, 40, 60, 60] {
        assert_eq!(breaker.state(now), BreakerState::Open);
        assert_eq!(breaker.admits_from(now), Some(after(now, seconds * 1000)));
        assert_eq!(breaker.admit(after(now, seconds * 1000 - 1)), None);
        now = after(now, seconds * 1000);
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        let probe = breaker.admit(now).unwrap();
        assert_eq!((breaker.admit(now), breaker.admits_from(now)), (None, None), "one probe at a time");
        breaker.failed(probe, now);
    }
    now = after(now, 60_000);
    succeed(&mut breaker, now);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    assert_eq!(trip(&mut breaker, now), 5, "it starts afresh");
    assert_eq!(breaker.admits_from(now), Some(after(now, 5_000)));
}

#[test]
fn a_success_between_failures_keeps_it_closed_below_the_rate() {
    let now = Instant::now();
    let mut breaker = Breaker::new(rules(), now);
    for _ in 0..100 {
        for _ in 0..4 {
            succeed(&mut breaker, now);
        }
        for _ in 0..3 {
            let pass = breaker.admit(now).expect("3 of 7 is below a half");
            breaker.failed(pass, now);
        }
    }
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn the_error_rate_opens_it_once_there_are_enough_requests() {
    let now = Instant::now();
    let mut breaker = Breaker::new(rules(), now);
    let mut requests = 0;
    while let Some(pass) = breaker.admit(now) {
        requests += 1;
        if requests % 2 == 0 { breaker.failed(pass, now) } else { breaker.completed(pass, now) }
    }
    assert_eq!(requests, 20);
    // The same failures spread over more than the window are forgotten.
    let mut slow = Breaker::new(rules(), now);
    for n in 0..200 {
        let at = after(now, n * 600);
        let pass = slow.admit(at).unwrap();
        if n % 2 == 0 { slow.failed(pass, at) } else { slow.completed(pass, at) }
    }
}

#[test]
fn answers_that_break_off_open_it_again_for_longer() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new(rules(), now);
    for opening in [5_000, 10_000, 20_000] {
        for _ in 0..5 {
            let mut pass = breaker.admit(now).unwrap();
            breaker.answered(&mut pass, now);
            breaker.failed(pass, now);
        }
        assert_eq!(breaker.admits_from(now), Some(after(now, opening)));
        now = after(now, opening);
    }
}

#[test]
fn old_outcomes_and_forced_calls() {
    let now = Instant::now();
    let mut breaker = Breaker::new(rules(), now);
    let old = breaker.admit(now).unwrap();
    trip(&mut breaker, now);
    breaker.completed(old, now);
    breaker.failed(old, now);
    assert_eq!(breaker.admits_from(now), Some(after(now, 5_000)), "a call from before says nothing");
    breaker.failed(breaker.force(), now);
    assert_eq!(breaker.admits_from(now), Some(after(now, 5_000)), "a forced one changes nothing by failing");
    let mut forced = breaker.force();
    breaker.answered(&mut forced, now);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    breaker.completed(forced, now);
    trip(&mut breaker, now);
    let probe = breaker.admit(after(now, 5_000)).unwrap();
    breaker.cancelled(probe);
    assert!(breaker.admit(after(now, 5_000)).is_some(), "a cancelled probe makes room for another");
    let mut off = Breaker::new(BreakerSettings { enabled: false, ..rules() }, now);
    for _ in 0..100 {
        let pass = off.admit(now).unwrap();
        off.failed(pass, now);
    }
}

#[test]
fn the_cap_rounds_down() {
    let cap =
        |share, endpoints| BreakerSettings { max_ejected_share: share, ..rules() }.most_ejected(endpoints);
    assert_eq!([1, 2, 3, 4, 5].map(|n| cap(0.5, n)), [0, 1, 1, 2, 2]);
    assert_eq!([cap(0.0, 9), cap(1.0, 1), cap(1.0, 9), cap(1.0 / 3.0, 3)], [0, 1, 9, 1]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    Force,
    Answered(usize),
    Completed(usize),
    Failed(usize),
    Cancelled(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Admit),
        1 => Just(Step::Force),
        2 => (0usize..8).prop_map(Step::Answered),
        3 => (0usize..8).prop_map(Step::Completed),
        5 => (0usize..8).prop_map(Step::Failed),
        1 => (0usize..8).prop_map(Step::Cancelled),
        2 => (0u64..8_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..300)
}

/// The rules in their plainest form: a list of every outcome in the present closed time.
#[derive(Default)]
struct Model {
    outcomes: VecDeque<(u64, bool)>,
    consecutive: u32,
}

impl Model {
    fn opens(&mut self, rules: &BreakerSettings, now_ms: u64, success: bool) -> bool {
        self.consecutive = if success { 0 } else { self.consecutive + 1 };
        self.outcomes.push_back((now_ms, success));
        let slot = rules.window_ms / 10;
        let recent = |at: u64| at / slot + 10 > now_ms / slot;
        let total = self.outcomes.iter().filter(|(at, _)| recent(*at)).count() as u32;
        let bad = self.outcomes.iter().filter(|(at, ok)| recent(*at) && !ok).count() as u32;
        let often = total >= rules.min_requests && bad as f32 >= rules.error_rate * total as f32;
        !success && (self.consecutive >= rules.consecutive_failures || often)
    }
}

proptest! {
    #[test]
    fn it_opens_exactly_by_its_rules(
        steps in steps(),
        consecutive_failures in 1u32..6,
        min_requests in 1u32..12,
        probes in 1u32..4,
    ) {
        let rules = BreakerSettings {
            consecutive_failures,
            min_requests,
            half_open_probes: probes,
            ..rules()
        };
        let start = Instant::now();
        let mut breaker = Breaker::new(rules.clone(), start);
        let mut model = Model::default();
        let mut now_ms = 0;
        // Calls under way, with whether each is a probe of the present half-open time.
        let mut calls: Vec<Pass> = Vec::new();
        for step in steps {
            let now = after(start, now_ms);
            let (epoch, closed) = (breaker.epoch, breaker.phase == Phase::Closed);
            match step {
                Step::Wait(ms) => now_ms += ms,
                Step::Force => calls.push(breaker.force()),
                Step::Admit => {
                    let expected = breaker.admits_from(now).is_some_and(|from| from <= now);
                    let pass = breaker.admit(now);
                    prop_assert_eq!(pass.is_some(), expected);
                    calls.extend(pass);
                }
                Step::Answered(at) if at < calls.len() => {
                    let current = calls[at].epoch == epoch;
                    breaker.answered(&mut calls[at], now);
                    if current && !closed {
                        model = Model::default();
                        prop_assert_eq!(breaker.state(now), BreakerState::Closed);
                    }
                }
                Step::Completed(at) if at < calls.len() => {
                    let mut pass = calls.swap_remove(at);
                    // A body ends after its head.
                    let current = pass.epoch == epoch;
                    breaker.answered(&mut pass, now);
                    if current && !closed {
                        model = Model::default();
                    }
                    breaker.completed(pass, now);
                    if current {
                        model.opens(&rules, now_ms, true);
                    }
                    prop_assert!(!current || breaker.phase == Phase::Closed);
                }
                Step::Failed(at) if at < calls.len() => {
                    let pass = calls.swap_remove(at);
                    let current = pass.epoch == epoch;
                    let was = breaker.phase;
                    breaker.failed(pass, now);
                    let opened = match was {
                        Phase::Closed => current && model.opens(&rules, now_ms, false),
                        Phase::HalfOpen { .. } => current && pass.probe,
                        Phase::Open { .. } => false,
                    };
                    let is_open = breaker.epoch != epoch;
                    prop_assert_eq!(is_open, opened);
                    if opened {
                        prop_assert_eq!(breaker.state(now), BreakerState::Open);
                        prop_assert!(breaker.admits_from(now).unwrap() <= after(now, rules.max_open_ms));
                    }
                }
                Step::Cancelled(at) if at < calls.len() => breaker.cancelled(calls.swap_remove(at)),
                _ => {}
            }
            let probing = calls.iter().filter(|c| c.probe && c.epoch == breaker.epoch).count() as u32;
            prop_assert!(probing <= probes);
            if let Phase::HalfOpen { probes } = breaker.phase {
                prop_assert_eq!(probing, probes, "every probe is counted, none twice");
            }
        }
        // Left alone, it lets a call through again, once the probes under way have ended.
        for call in calls {
            breaker.cancelled(call);
        }
        let later = after(start, now_ms + rules.max_open_ms);
        prop_assert!(breaker.admit(later).is_some());
    }
}

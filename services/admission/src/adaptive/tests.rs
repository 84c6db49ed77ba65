use proptest::prelude::*;

use super::*;

fn gradient_limit(config: GradientConfig) -> Adaptive {
    Adaptive::new(AdaptiveConfig::Gradient(config), None)
}

fn aimd_limit(config: AimdConfig) -> Adaptive {
    Adaptive::new(AdaptiveConfig::Aimd(config), None)
}

fn served(latency_ms: u64) -> Sample {
    Sample { latency: Duration::from_millis(latency_ms), outcome: Outcome::Success }
}

const REFUSED: Sample = Sample { latency: Duration::ZERO, outcome: Outcome::Overload };

/// Feeds windows of a server that serves `capacity` requests at a time in 100 ms each, to which as many requests
/// are sent as the limit lets through, at most `offered`. Returns the limits, window by window.
fn drive(adaptive: &mut Adaptive, from_s: u64, windows: u64, capacity: u32, offered: u32) -> Vec<u32> {
    let mut limits = Vec::new();
    for window in 0..windows {
        let in_flight = adaptive.limit().min(offered);
        let latency_ms = 100 * u64::from(in_flight.max(capacity)) / u64::from(capacity);
        for i in 0..=10 {
            let now_us = (from_s + window) * 1_100_000 + i * 100_000;
            adaptive.sample(served(latency_ms), in_flight, now_us);
        }
        limits.push(adaptive.limit());
    }
    limits
}

#[test]
fn the_gradient_grows_to_what_the_server_bears_and_holds_there() {
    let config = GradientConfig { tolerance: 1.2, ..GradientConfig::default() };
    let mut adaptive = gradient_limit(config);
    let limits = drive(&mut adaptive, 0, 120, 50, 1000);
    // Without a limit it would be 200: here latency stays within twice its best.
    assert!(limits[60..].iter().all(|limit| (50..=100).contains(limit)), "{limits:?}");
}

#[test]
fn the_gradient_falls_when_the_server_slows_down() {
    let mut adaptive = gradient_limit(GradientConfig { max: 60, ..GradientConfig::default() });
    let before = drive(&mut adaptive, 0, 60, 60, 1000);
    assert_eq!(before.last(), Some(&60));
    let after = drive(&mut adaptive, 60, 10, 10, 1000);
    assert!(*after.last().unwrap() < 30, "{after:?}");
}

#[test]
fn an_idle_limit_is_not_raised() {
    for mut adaptive in [gradient_limit(GradientConfig::default()), aimd_limit(AimdConfig::default())] {
        let limits = drive(&mut adaptive, 0, 30, 100, 5);
        assert!(limits.iter().all(|limit| *limit == 20), "{limits:?}");
    }
}

#[test]
fn aimd_gains_one_a_window_and_loses_a_share() {
    let config = AimdConfig { initial: 50, backoff: 0.8, latency_ms: Some(300), ..AimdConfig::default() };
    let mut adaptive = aimd_limit(config);
    assert_eq!(drive(&mut adaptive, 0, 3, 1000, 1000), [51, 52, 53]);
    adaptive.sample(REFUSED, 53, 3_300_000);
    assert_eq!(drive(&mut adaptive, 3, 1, 1000, 1000), [42], "one refusal in a window is enough");
    assert_eq!(drive(&mut adaptive, 4, 1, 4, 1000), [33], "and so is a latency over the threshold");
}

#[test]
fn a_ceiling_holds_whatever_is_learned() {
    let mut adaptive = aimd_limit(AimdConfig::default());
    adaptive.set_ceiling(Some(22));
    assert_eq!(drive(&mut adaptive, 0, 4, 1000, 1000), [21, 22, 22, 22]);
    adaptive.set_ceiling(Some(2));
    assert_eq!(adaptive.limit(), 2);
    adaptive.set_ceiling(None);
    assert_eq!(drive(&mut adaptive, 4, 2, 1000, 1000), [5, 6]);
}

#[test]
fn settings_out_of_bounds_are_named() {
    let paths = |config: AdaptiveConfig| -> Vec<String> {
        config.problems().into_iter().map(|problem| problem.path).collect()
    };
    assert!(paths(AdaptiveConfig::Gradient(GradientConfig::default())).is_empty());
    assert!(paths(AdaptiveConfig::Aimd(AimdConfig::default())).is_empty());
    let bad = GradientConfig {
        min: 0,
        initial: 999,
        smoothing: f64::NAN,
        tolerance: 0.5,
        long_window: 0,
        ..Default::default()
    };
    assert_eq!(
        paths(AdaptiveConfig::Gradient(bad)),
        ["min", "initial", "smoothing", "tolerance", "long_window"]
    );
    let bad = AimdConfig { max: 1, backoff: 1.0, latency_ms: Some(0), ..AimdConfig::default() };
    assert_eq!(paths(AdaptiveConfig::Aimd(bad)), ["max", "backoff", "latency_ms"]);
    let text = r#"{ "algorithm": "aimd", "backof": 0.5 }"#;
    assert!(serde_json::from_str::<AdaptiveConfig>(text).is_err());
}

proptest! {
    #[test]
    fn a_limit_stays_within_its_bounds(
        samples in prop::collection::vec((0..10_000_u64, any::<bool>(), 0..300_u32, 0..400_000_u64), 1..300),
        min in 1..10_u32, room in 0..100_u32, by_gradient in any::<bool>(),
    ) {
        let max = min + room;
        let mut adaptive = if by_gradient {
            gradient_limit(GradientConfig { min, max, initial: min, ..GradientConfig::default() })
        } else {
            aimd_limit(AimdConfig { min, max, initial: max, ..AimdConfig::default() })
        };
        let mut now = 0;
        for (latency_ms, is_refused, in_flight, passed) in samples {
            now += passed;
            adaptive.sample(if is_refused { REFUSED } else { served(latency_ms) }, in_flight, now);
            prop_assert!((min..=max).contains(&adaptive.limit()));
        }
    }
}

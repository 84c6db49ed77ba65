//! How long an answer takes: fixed, or drawn from a distribution with a seed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A delay, written `20ms`, `uniform:10ms,30ms` or `lognormal:20ms,0.5` (median, sigma of the logarithm).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Latency {
    /// The same every time.
    Fixed(Duration),
    /// Evenly spread between two bounds.
    Uniform(Duration, Duration),
    /// Log-normal around a median, the usual shape of answer times.
    LogNormal(Duration, f64),
}

/// Why a duration or a latency could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a delay: write 20ms, 1.5s, 300us, uniform:10ms,30ms or lognormal:20ms,0.5 (median, sigma)"
)]
pub struct InvalidDelay {
    text: String,
}

impl Latency {
    /// No delay at all.
    pub const ZERO: Self = Self::Fixed(Duration::ZERO);

    /// The delay for one draw; `draw` numbers the draws, so that a run can be repeated.
    pub fn sample(&self, seed: u64, draw: u64) -> Duration {
        match *self {
            Self::Fixed(delay) => delay,
            Self::Uniform(low, high) => {
                low + high.saturating_sub(low).mul_f64(unit(seed, draw.wrapping_mul(2)))
            }
            Self::LogNormal(median, sigma) => {
                // Box-Muller: two even draws make one normal draw. The factor is bounded so that one
                // unlucky draw cannot overflow a duration.
                let radius = (-2.0 * unit(seed, draw.wrapping_mul(2)).max(f64::MIN_POSITIVE).ln()).sqrt();
                let angle = std::f64::consts::TAU * unit(seed, draw.wrapping_mul(2).wrapping_add(1));
                median.mul_f64((sigma * radius * angle.cos()).exp().min(1e6))
            }
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::ZERO
    }
}

impl std::str::FromStr for Latency {
    type Err = InvalidDelay;

    fn from_str(text: &str) -> Result<Self, InvalidDelay> {
        let invalid = || InvalidDelay { text: text.to_owned() };
        let Some((shape, values)) = text.split_once(':') else {
            return parse_duration(text).map(Self::Fixed);
        };
        let (first, second) = values.split_once(',').ok_or_else(invalid)?;
        let first = parse_duration(first).map_err(|_| invalid())?;
        match shape {
            "uniform" => {
                let high = parse_duration(second).map_err(|_| invalid())?;
                if high < first { Err(invalid()) } else { Ok(Self::Uniform(first, high)) }
            }
            "lognormal" => match second.trim().parse::<f64>() {
                Ok(sigma) if (0.0..=5.0).contains(&sigma) => Ok(Self::LogNormal(first, sigma)),
                _ => Err(invalid()),
            },
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Latency {
    type Error = InvalidDelay;

    fn try_from(text: String) -> Result<Self, InvalidDelay> {
        text.parse()
    }
}

impl From<Latency> for String {
    fn from(latency: Latency) -> Self {
        match latency {
            Latency::Fixed(delay) => micros(delay),
            Latency::Uniform(low, high) => format!("uniform:{},{}", micros(low), micros(high)),
            Latency::LogNormal(median, sigma) => format!("lognormal:{},{sigma}", micros(median)),
        }
    }
}

fn micros(delay: Duration) -> String {
    format!("{}us", delay.as_micros())
}

/// Reads `300us`, `20ms`, `1.5s` or `0`.
///
/// # Errors
/// [`InvalidDelay`] when the unit is missing or the number is not one.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDelay> {
    let invalid = || InvalidDelay { text: text.to_owned() };
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    // "ms" and "us" end in "s" too, so the longer units are tried first.
    let (number, scale) = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .into_iter()
        .find_map(|(unit, scale)| trimmed.strip_suffix(unit).map(|number| (number, scale)))
        .ok_or_else(invalid)?;
    let seconds = number.trim().parse::<f64>().map_err(|_| invalid())? * scale;
    Duration::try_from_secs_f64(seconds).map_err(|_| invalid())
}

/// The `draw`-th even number in [0, 1) of the sequence that `seed` names (splitmix64).
pub(crate) fn unit(seed: u64, draw: u64) -> f64 {
    (mix(seed.wrapping_add(draw.wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Spreads the bits of `x` over the whole word.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(parse_duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_duration("300us"), Ok(Duration::from_micros(300)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "20", "ms", "-1s", "20 m"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_latency_survives_being_written_and_read() {
        for text in ["20000us", "uniform:10000us,30000us", "lognormal:20000us,0.5"] {
            let latency: Latency = text.parse().unwrap();
            assert_eq!(String::from(latency), text);
        }
        for wrong in ["normal:1ms,1ms", "uniform:2ms,1ms", "lognormal:20ms", "lognormal:20ms,-1"] {
            assert!(wrong.parse::<Latency>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn draws_repeat_with_the_seed_and_keep_their_distribution() {
        let latency: Latency = "lognormal:20ms,0.5".parse().unwrap();
        let draw = |seed| (0..999).map(|i| latency.sample(seed, i)).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let mut sorted = draw(7);
        sorted.sort();
        let median = sorted[499].as_secs_f64();
        assert!((0.017..0.023).contains(&median), "median {median}");

        let bounded: Latency = "uniform:10ms,30ms".parse().unwrap();
        for i in 0..999 {
            let delay = bounded.sample(7, i).as_millis();
            assert!((10..=30).contains(&delay), "{delay}");
        }
    }
}

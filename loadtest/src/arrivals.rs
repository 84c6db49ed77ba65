//! When requests of an open loop are due. Fixed before the first one is sent: how fast answers come changes
//! nothing about it.

use std::str::FromStr;
use std::time::Duration;

use crate::mix::unit;

/// How requests lie between each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Spacing {
    /// The same gap every time.
    #[default]
    Even,
    /// Exponential gaps: independent users (a Poisson process).
    Poisson,
}

/// A part of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Requests a second.
    pub rate: f64,
    /// How long, in seconds.
    pub secs: f64,
}

/// Rates one after the other: `200`, or `200@10,2000@2,200@10` with the seconds of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    steps: Vec<(f64, Option<f64>)>,
}

/// Why a schedule could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSchedule(String);

impl std::fmt::Display for InvalidSchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} is not a schedule: write 200, or 200@10,2000@2,200@10 (requests a second @ seconds)",
            self.0
        )
    }
}

impl std::error::Error for InvalidSchedule {}

impl FromStr for Schedule {
    type Err = InvalidSchedule;

    fn from_str(text: &str) -> Result<Self, InvalidSchedule> {
        let invalid = || InvalidSchedule(text.to_owned());
        let number = |text: &str| {
            text.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(invalid)
        };
        let steps = text
            .split(',')
            .map(|step| match step.split_once('@') {
                None => Ok((number(step)?, None)),
                Some((rate, secs)) => Ok((number(rate)?, Some(number(secs)?))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if steps.len() > 1 && steps.iter().any(|(_, secs)| secs.is_none()) {
            return Err(invalid());
        }
        Ok(Self { steps })
    }
}

impl Schedule {
    /// The steps of a run: warm-up at the first rate, then the schedule; a step without a length takes `secs`.
    pub fn steps(&self, warm_secs: f64, secs: f64) -> Vec<Step> {
        let warm = self.steps.first().map(|(rate, _)| Step { rate: *rate, secs: warm_secs });
        let rest = self.steps.iter().map(|(rate, own)| Step { rate: *rate, secs: own.unwrap_or(secs) });
        warm.into_iter().chain(rest).collect()
    }

    /// Length of the measured part in seconds.
    pub fn secs(&self, secs: f64) -> f64 {
        self.steps.iter().map(|(_, own)| own.unwrap_or(secs)).sum()
    }
}

/// The times at which requests are due, counted from the start.
#[derive(Clone, Debug)]
pub struct Arrivals {
    steps: std::vec::IntoIter<Step>,
    /// What is left of the current step: its rate and seconds.
    current: Step,
    /// Seconds from the start to now.
    at: f64,
    spacing: Spacing,
    seed: u64,
    draws: u64,
}

impl Arrivals {
    /// The arrivals of `steps`; the same seed gives the same ones.
    pub fn new(steps: Vec<Step>, spacing: Spacing, seed: u64) -> Self {
        let nothing = Step { rate: 0.0, secs: 0.0 };
        Self { steps: steps.into_iter(), current: nothing, at: 0.0, spacing, seed, draws: 0 }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        // In units of mean gaps, so that a gap may span steps with different rates.
        let mut gap = match self.spacing {
            Spacing::Even => 1.0,
            Spacing::Poisson => -(1.0 - unit(self.seed, self.draws)).ln(),
        };
        self.draws += 1;
        while gap > self.current.rate * self.current.secs {
            gap -= self.current.rate * self.current.secs;
            self.at += self.current.secs;
            self.current = self.steps.next()?;
        }
        let secs = gap / self.current.rate;
        self.at += secs;
        self.current.secs -= secs;
        Some(Duration::from_secs_f64(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arrivals(text: &str, spacing: Spacing, seed: u64) -> Vec<f64> {
        let steps = text.parse::<Schedule>().unwrap().steps(0.0, 10.0);
        Arrivals::new(steps, spacing, seed).map(|at| at.as_secs_f64()).collect()
    }

    #[test]
    fn even_arrivals_have_the_gap_of_their_step() {
        let all = arrivals("10@1,0@2,100@1", Spacing::Even, 0);
        assert!((109..=110).contains(&all.len()), "{}", all.len());
        assert!((all[0] - 0.1).abs() < 1e-9 && (all[4] - 0.5).abs() < 1e-9);
        assert!(all.iter().all(|at| *at < 1.01 || *at >= 3.0), "the pause has arrivals");
    }

    #[test]
    fn warm_up_comes_before_the_schedule() {
        let schedule: Schedule = "50".parse().unwrap();
        let steps = schedule.steps(1.0, 4.0);
        assert_eq!(steps, [Step { rate: 50.0, secs: 1.0 }, Step { rate: 50.0, secs: 4.0 }]);
        assert!((schedule.secs(4.0) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["", "fast", "-1", "10,20", "10@x", "inf"] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arrivals_rise_and_keep_the_rate(rate in 1.0_f64..2000.0, seed: u64) {
            let steps = vec![Step { rate, secs: 10.0 }];
            let all: Vec<_> = Arrivals::new(steps, Spacing::Poisson, seed).collect();
            prop_assert!(all.is_sorted());
            let wanted = rate * 10.0;
            // Six standard deviations of a Poisson count.
            prop_assert!((all.len() as f64 - wanted).abs() <= 6.0 * wanted.sqrt() + 1.0, "{} of {wanted}", all.len());
        }

        #[test]
        fn a_seed_repeats_itself(seed: u64) {
            prop_assert_eq!(arrivals("30@2,3@2", Spacing::Poisson, seed), arrivals("30@2,3@2", Spacing::Poisson, seed));
        }
    }
}

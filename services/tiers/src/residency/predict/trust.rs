/// How many outcomes a source's record remembers.
const MEMORY: f64 = 32.0;

/// Outcomes before a source can be switched off.
const LEAST_JUDGED: u32 = 16;

/// Loads of a source that is tried again, one at a time.
const PROBES: u32 = 8;

/// How much better than the limit a source has to do when it is tried again.
const BETTER: f64 = 0.2;

/// For how long a source is silent at first; each failed trial doubles it.
const PAUSE_US: u64 = 60_000_000;
const LONGEST_PAUSE_US: u64 = 64 * PAUSE_US;

/// Whether a source may load experts, by what became of its loads.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    mode: Mode,
    pause_us: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Mode {
    /// `waste` is the share of recent loads that nobody asked for.
    On {
        waste: f64,
        judged: u32,
    },
    Off {
        until_us: u64,
    },
    /// So many loads are still to be judged, and so many were wasted.
    Probing {
        left: u32,
        wasted: u32,
    },
}

impl Default for Trust {
    fn default() -> Self {
        Self { mode: Mode::On { waste: 0.0, judged: 0 }, pause_us: PAUSE_US }
    }
}

impl Trust {
    /// Whether a load may begin, with so many of the source not judged yet.
    pub(super) fn may(&self, now_us: u64, underway: usize) -> bool {
        match self.mode {
            Mode::On { .. } => true,
            Mode::Off { until_us } => now_us >= until_us && underway == 0,
            Mode::Probing { .. } => underway == 0,
        }
    }

    /// A load of the source began.
    pub(super) fn began(&mut self, now_us: u64) {
        if let Mode::Off { until_us } = self.mode
            && now_us >= until_us
        {
            self.mode = Mode::Probing { left: PROBES, wasted: 0 };
        }
    }

    /// A load of the source was asked for, or `wasted`; at most the share `limit` of them may be.
    pub(super) fn judge(&mut self, now_us: u64, wasted: bool, limit: f64) {
        match &mut self.mode {
            Mode::On { waste, judged } => {
                *judged += 1;
                // The plain mean at first, and then one that forgets.
                let weight = 1.0 / f64::from(*judged).min(MEMORY);
                *waste += (f64::from(u8::from(wasted)) - *waste) * weight;
                if *judged >= LEAST_JUDGED && *waste > limit {
                    self.mode = Mode::Off { until_us: now_us.saturating_add(self.pause_us) };
                }
            }
            // Loads from before it was switched off.
            Mode::Off { .. } => {}
            Mode::Probing { left, wasted: lost } => {
                *left -= 1;
                *lost += u32::from(wasted);
                if *left == 0 {
                    let waste = f64::from(*lost) / f64::from(PROBES);
                    if waste <= limit - BETTER {
                        *self = Self { mode: Mode::On { waste, judged: PROBES }, pause_us: PAUSE_US };
                    } else {
                        self.pause_us = (self.pause_us * 2).min(LONGEST_PAUSE_US);
                        self.mode = Mode::Off { until_us: now_us.saturating_add(self.pause_us) };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waste_switches_off_and_a_good_trial_on_again() {
        let mut trust = Trust::default();
        for _ in 0..LEAST_JUDGED - 1 {
            trust.judge(0, true, 0.8);
        }
        assert!(trust.may(0, 5), "a few say nothing");
        trust.judge(0, true, 0.8);
        assert!(!trust.may(0, 0) && !trust.may(PAUSE_US - 1, 0));
        assert!(trust.may(PAUSE_US, 0) && !trust.may(PAUSE_US, 1), "one at a time");

        // A trial below the limit, but not clearly so.
        let probe = |trust: &mut Trust, now, wasted| {
            for i in 0..PROBES {
                trust.began(now);
                trust.judge(now, i < wasted, 0.8);
            }
        };
        probe(&mut trust, PAUSE_US, 6);
        assert!(!trust.may(3 * PAUSE_US - 1, 0), "the pause doubles");
        probe(&mut trust, 3 * PAUSE_US, 4);
        assert!(trust.may(3 * PAUSE_US, 5));
        for _ in 0..LEAST_JUDGED * 4 {
            trust.judge(4 * PAUSE_US, true, 0.8);
        }
        assert!(!trust.may(5 * PAUSE_US - 1, 0) && trust.may(5 * PAUSE_US, 0), "the pause is short again");
    }

    #[test]
    fn the_pause_has_an_end() {
        let (mut trust, mut now) = (Trust::default(), 0);
        for _ in 0..LEAST_JUDGED {
            trust.judge(now, true, 0.5);
        }
        for _ in 0..20 {
            now += LONGEST_PAUSE_US;
            assert!(trust.may(now, 0));
            for _ in 0..PROBES {
                trust.began(now);
                trust.judge(now, true, 0.5);
            }
        }
        assert!(!trust.may(now, 0));
    }
}

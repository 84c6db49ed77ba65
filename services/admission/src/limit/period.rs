use super::settings::Window;

/// Milliseconds in a day.
const DAY: u64 = 86_400_000;

impl Window {
    /// The number of the calendar period that holds a moment (milliseconds since the Unix epoch): days since
    /// the epoch, months since the year 0. Sliding and endless windows have the one period 0.
    pub const fn period(self, now_ms: u64) -> u64 {
        match self {
            Self::Minute | Self::Total => 0,
            Self::Day => now_ms / DAY,
            Self::Month => month_of_day(now_ms / DAY),
        }
    }

    /// When the calendar period that holds a moment ends, in milliseconds since the Unix epoch; `None` for
    /// windows that do not end.
    pub fn end(self, now_ms: u64) -> Option<u64> {
        let day = now_ms / DAY;
        match self {
            Self::Minute | Self::Total => None,
            Self::Day => Some((day + 1) * DAY),
            Self::Month => {
                let month = month_of_day(day);
                let days = (1..=31).find(|after| month_of_day(day + after) != month)?;
                Some((day + days) * DAY)
            }
        }
    }
}

/// A moment with its calendar periods worked out, since one step asks for them many times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Milliseconds since the Unix epoch.
    pub(super) ms: u64,
    day: u64,
    month: u64,
}

impl Moment {
    pub(super) fn new(ms: u64) -> Self {
        Self { ms, day: Window::Day.period(ms), month: Window::Month.period(ms) }
    }

    /// As [`Window::period`].
    pub(super) fn period(&self, window: Window) -> u64 {
        match window {
            Window::Minute | Window::Total => 0,
            Window::Day => self.day,
            Window::Month => self.month,
        }
    }
}

/// `12 * year + month - 1` of a day since the Unix epoch, by the proleptic Gregorian calendar; Hinnant's
/// `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>), with years that begin in March.
const fn month_of_day(day: u64) -> u64 {
    let day = day + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_based = (5 * of_year + 2) / 153;
    (era * 400 + year_of_era) * 12 + march_based + 2
}

/// What was used in one calendar period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) period: u64,
    pub(super) used: u64,
}

impl Fixed {
    /// Begins anew when another period has come. A clock that was set back a little goes on in the period
    /// that had begun; one that was set back by more than a period had been wrong.
    pub(super) fn advance(&mut self, period: u64) {
        if self.period < period || self.period > period + 1 {
            *self = Self { period, used: 0 };
        }
    }

    pub(super) fn add(&mut self, amount: u64) {
        self.used = self.used.saturating_add(amount);
    }

    /// Takes back what was added in `period`, if that is still the one.
    pub(super) fn refund(&mut self, period: u64, amount: u64) {
        if self.period == period {
            self.used = self.used.saturating_sub(amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-28 12:00, 2024-02-29, 2024-12-31, 2100-02-28 (no leap year), 1970-01-01.
    #[test]
    fn months_end_where_the_calendar_says() {
        let cases = [
            (1_709_121_600_000, 2024 * 12 + 1, 1_709_251_200_000),
            (1_709_164_800_000, 2024 * 12 + 1, 1_709_251_200_000),
            (1_735_603_200_000, 2024 * 12 + 11, 1_735_689_600_000),
            (4_107_456_000_000, 2100 * 12 + 1, 4_107_542_400_000),
            (0, 1970 * 12, 2_678_400_000),
        ];
        for (now, month, end) in cases {
            assert_eq!(Window::Month.period(now), month, "{now}");
            assert_eq!(Window::Month.end(now), Some(end), "{now}");
            assert_eq!(Window::Month.period(end), month + 1);
            assert_eq!(Window::Month.period(end - 1), month);
        }
    }

    #[test]
    fn a_clock_that_steps_back_keeps_the_count_and_a_wrong_one_does_not() {
        let mut day = Fixed::default();
        day.advance(20_000);
        day.add(7);
        day.advance(19_999);
        assert_eq!(day, Fixed { period: 20_000, used: 7 });
        day.advance(19_998);
        assert_eq!(day, Fixed { period: 19_998, used: 0 });
    }
}

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nano-dollars in a dollar.
const NANOS: u64 = 1_000_000_000;

/// The most that a setting may say, in dollars.
const MOST: f64 = 1e9;

/// An amount of money in US dollars, exact to a billionth.
// Whole nano-dollars, so that adding never rounds, and not micro-dollars, because at 0.05 USD per million a
// token costs less than one. Arithmetic saturates at about 18 billion dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = f64, minimum = 0)]
pub struct Usd(u64);

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount in nano-dollars.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// An amount in dollars, to the nearest nano-dollar; `None` when it is negative, not a number or above
    /// a billion.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        (0.0..=MOST).contains(&dollars).then(|| Self((dollars * NANOS as f64).round() as u64))
    }

    /// The amount in nano-dollars.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The amount in dollars; exact to the nano-dollar up to nine million.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / NANOS as f64
    }

    /// What `tokens` cost at this price per million tokens, rounded up: what is counted against a budget
    /// must not vanish by rounding.
    #[must_use]
    pub fn per_million(self, tokens: u64) -> Self {
        let nanos = (u128::from(self.0) * u128::from(tokens)).div_ceil(1_000_000);
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} USD", self.dollars())
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars).ok_or_else(|| {
            serde::de::Error::custom(format!("{dollars} is not an amount in US dollars from 0 to a billion"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cost_at_least_a_nano_dollar() {
        let price = Usd::from_dollars(0.05).unwrap();
        assert_eq!(price.per_million(1), Usd::from_nanos(50));
        assert_eq!(Usd::from_nanos(1).per_million(1), Usd::from_nanos(1));
        assert_eq!(Usd::from_nanos(u64::MAX).per_million(u64::MAX), Usd::from_nanos(u64::MAX));
    }

    #[test]
    fn settings_read_as_they_were_written() {
        for text in ["12.5", "0.000000001", "100", "0"] {
            let usd: Usd = serde_json::from_str(text).unwrap();
            let back: Usd = serde_json::from_str(&serde_json::to_string(&usd).unwrap()).unwrap();
            assert_eq!(usd, back);
            assert_eq!(usd.dollars().to_string(), text);
        }
        for text in ["-1", "1e10", "\"1\""] {
            assert!(serde_json::from_str::<Usd>(text).is_err(), "{text}");
        }
    }
}

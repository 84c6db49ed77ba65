//! One tensor as signs and a scale.

use super::float::Float;
use super::packed::{Layout, pack, unpack};

/// A compressed tensor.
pub(super) struct Packed {
    pub(super) layout: Layout,
    pub(super) bytes: Vec<u8>,
    pub(super) scale: f32,
    pub(super) kept: usize,
    pub(super) loss: Loss,
}

/// What compression took away: sums of squares.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loss {
    /// Of the differences.
    pub(super) error: f64,
    /// Of the entries.
    pub(super) whole: f64,
}

impl Loss {
    /// The difference's Frobenius norm by the tensor's.
    pub(super) fn relative(self) -> f64 {
        if self.whole > 0.0 { (self.error / self.whole).sqrt() } else { 0.0 }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.error += other.error;
        self.whole += other.whole;
    }
}

/// Keeps the `density` share of the entries with the largest magnitudes, of equal ones the first. Zeros are not kept.
///
/// The scale s of the kept set K makes the sum of (|w| - s)^2 over K least: its derivative is zero at the mean of |w|
/// over K. It is rounded to the tensor's own type, so that expanding gives what was measured.
pub(super) fn compress(float: Float, bytes: &[u8], density: f64) -> Result<Packed, String> {
    let values = float.decode(bytes);
    // Magnitudes of floating-point numbers are in the order of their bits.
    let magnitude = |value: &f32| value.to_bits() & 0x7fff_ffff;
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(format!("entry {at} is {}; an adapter with such weights does not work", values[at]));
    }
    let most = ((values.len() as f64 * density).ceil() as usize).clamp(1, values.len().max(1));
    let mut ranked: Vec<u32> = values.iter().map(magnitude).collect();
    let least = match values.len() - most.min(values.len()) {
        at if at < ranked.len() => *ranked.select_nth_unstable(at).1,
        _ => 0,
    };
    drop(ranked);
    let above = values.iter().filter(|value| magnitude(value) > least).count();
    let mut ties = if least == 0 { 0 } else { most - above };
    let mut sum = 0.0;
    let sign = |value: &f32| {
        let is_tie = magnitude(value) == least && ties > 0;
        ties -= usize::from(is_tie);
        if !is_tie && magnitude(value) <= least {
            return 0;
        }
        sum += f64::from(value.abs());
        if *value < 0.0 { -1 } else { 1 }
    };
    let signs: Vec<i8> = values.iter().map(sign).collect();
    let kept = signs.iter().filter(|sign| **sign != 0).count();
    let scale = if kept == 0 { 0.0 } else { float.nearest((sum / kept as f64) as f32) };
    let mut loss = Loss::default();
    for (value, sign) in values.iter().zip(&signs) {
        let (value, copy) = (f64::from(*value), f64::from(scale) * f64::from(*sign));
        loss.add(Loss { error: (value - copy).powi(2), whole: value.powi(2) });
    }
    let (layout, bytes) = pack(&signs);
    Ok(Packed { layout, bytes, scale, kept, loss })
}

/// What [`compress`] kept, each entry with its sign times the scale.
pub(super) fn expand(
    float: Float,
    entries: usize,
    scale: f32,
    kept: usize,
    layout: Layout,
    bytes: &[u8],
) -> Result<Vec<u8>, String> {
    let size = float.size();
    let length = entries.checked_mul(size).ok_or("has more entries than memory can hold")?;
    let mut out = Vec::new();
    out.try_reserve_exact(length).map_err(|error| format!("{length} bytes: {error}"))?;
    out.resize(length, 0);
    let positive = float.encode(scale);
    let mut negative = positive;
    negative[size - 1] |= 0x80;
    unpack(layout, bytes, entries, kept, |position, is_negative| {
        let number = if is_negative { &negative } else { &positive };
        out[position * size..][..size].copy_from_slice(&number[..size]);
    })?;
    Ok(out)
}

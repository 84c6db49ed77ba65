//! The floating-point numbers that adapters are made of.

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

/// A type of weights that can be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Float {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE 754's.
    F16,
    /// 16 bits, the first half of 32.
    #[serde(rename = "BF16")]
    Bf16,
}

impl Float {
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(super) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// Bytes of a number.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// All numbers of a tensor; 32 bits hold each of them exactly.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let half = |pair: &[u8; 2]| u16::from_le_bytes(*pair);
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|pair| from_f16(half(pair))).collect(),
            Self::Bf16 => {
                let wide = |pair| f32::from_bits(u32::from(half(pair)) << 16);
                bytes.as_chunks().0.iter().map(wide).collect()
            }
        }
    }

    /// The nearest number of this type to one that is positive and no larger than its largest: first its bytes, of
    /// which `size` count, the last with the sign.
    pub(super) fn encode(self, positive: f32) -> [u8; 4] {
        let half = |bits: u16| {
            let [low, high] = bits.to_le_bytes();
            [low, high, 0, 0]
        };
        match self {
            Self::F32 => positive.to_le_bytes(),
            Self::F16 => half(to_f16(positive)),
            Self::Bf16 => half((to_even(positive.to_bits(), 16)) as u16),
        }
    }

    /// The same, as a number.
    pub(super) fn nearest(self, positive: f32) -> f32 {
        let bytes = self.encode(positive);
        self.decode(&bytes[..self.size()]).first().copied().unwrap_or_default()
    }
}

/// Takes the last `dropped` bits away; a tie goes to the even number.
fn to_even(bits: u32, dropped: u32) -> u32 {
    let odd = (bits >> dropped) & 1;
    (bits + (1 << (dropped - 1)) - 1 + odd) >> dropped
}

/// The distance between the smallest numbers of 16 bits.
const LEAST: f32 = 1.0 / (1 << 24) as f32;

/// What must be added to an exponent of 16 bits for that of 32.
const BIAS: u32 = 127 - 15;

fn from_f16(bits: u16) -> f32 {
    let (sign, exponent, mantissa) =
        (u32::from(bits >> 15) << 31, u32::from(bits >> 10) & 0x1f, u32::from(bits) & 0x3ff);
    match exponent {
        0 => f32::from_bits((mantissa as f32 * LEAST).to_bits() | sign),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | (mantissa << 13)),
        _ => f32::from_bits(sign | ((exponent + BIAS) << 23) | (mantissa << 13)),
    }
}

fn to_f16(positive: f32) -> u16 {
    // Below the smallest normal number all numbers have the same distance; rounding up to it gives its bits.
    if positive < LEAST * 1024.0 {
        return (positive / LEAST).round_ties_even() as u16;
    }
    to_even(positive.to_bits() - (BIAS << 23), 13) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_of_16_bits() {
        let f16 = |bits: u16| Float::F16.decode(&bits.to_le_bytes())[0].to_bits();
        for (bits, number) in [
            (0x0001_u16, 2.0_f32.powi(-24)),
            (0x03ff, 1023.0 * 2.0_f32.powi(-24)),
            (0x0400, 2.0_f32.powi(-14)),
            (0x3555, 0.333_251_95),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(f16(bits), number.to_bits(), "{bits:#x}");
        }
        assert!(from_f16(0x7e00).is_nan());
        assert_eq!(Float::Bf16.decode(&0xbf80_u16.to_le_bytes()), [-1.0]);
    }

    #[test]
    fn every_positive_number_of_16_bits_is_its_own_nearest() {
        for (float, infinity) in [(Float::F16, 0x7c00_u16), (Float::Bf16, 0x7f80)] {
            for bits in 0..infinity {
                let number = float.decode(&bits.to_le_bytes())[0];
                assert_eq!(float.encode(number)[..2], bits.to_le_bytes(), "{float:?} {bits:#x}");
            }
        }
    }

    #[test]
    fn halfway_goes_to_the_even_number() {
        for float in [Float::F16, Float::Bf16] {
            for bits in [1_u16, 2, 0x3c01, 0x3c02] {
                let number = |bits: u16| f64::from(float.decode(&bits.to_le_bytes())[0]);
                let between = f64::midpoint(number(bits), number(bits + 1)) as f32;
                let even = bits + (bits & 1);
                assert_eq!(float.encode(between)[..2], even.to_le_bytes(), "{float:?} {bits:#x}");
                let above = f32::from_bits(between.to_bits() + 1);
                assert_eq!(float.encode(above)[..2], (bits + 1).to_le_bytes(), "{float:?} {bits:#x}");
            }
        }
    }
}

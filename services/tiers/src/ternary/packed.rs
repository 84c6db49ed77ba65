//! Signs as bits. Bits go into bytes lowest first.
//!
//! | layout | bits |
//! |---|---|
//! | `bitmap` | for each entry whether it is kept, then for each that is whether it is negative |
//! | `rice` | for each kept entry how many are left out before it, then whether it is negative. A count is written as count >> k ones, a zero, and its lowest k bits |

use serde::{Deserialize, Serialize};

/// The longest k of a `rice` layout.
const LONGEST: usize = 24;

/// How a tensor's signs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "layout")]
pub enum Layout {
    /// A bit for each entry and one more for each that is kept.
    Bitmap,
    /// The gaps between those that are kept, as Rice codes.
    Rice {
        /// The low bits of each gap that are written as they are.
        k: u32,
    },
}

/// Writes signs (-1, 0 or 1) in the layout that takes the fewest bytes.
pub(super) fn pack(signs: &[i8]) -> (Layout, Vec<u8>) {
    let mut bits = [0_u64; LONGEST + 1];
    let mut kept = 0_u64;
    for (gap, _) in gaps(signs) {
        kept += 1;
        for (k, bits) in bits.iter_mut().enumerate() {
            *bits += (gap >> k) + 2 + k as u64;
        }
    }
    let rice = bits.iter().zip(0..).min();
    match rice {
        Some((bits, k)) if *bits < signs.len() as u64 + kept => (Layout::Rice { k }, rice_of(signs, k)),
        _ => (Layout::Bitmap, bitmap_of(signs)),
    }
}

fn rice_of(signs: &[i8], k: u32) -> Vec<u8> {
    let mut writer = Writer::default();
    for (gap, negative) in gaps(signs) {
        let mut ones = gap >> k;
        while ones >= 32 {
            writer.push(u64::from(u32::MAX), 32);
            ones -= 32;
        }
        // The ones, and the zero after them.
        writer.push((1 << ones) - 1, ones as u32 + 1);
        writer.push(gap & ((1 << k) - 1), k);
        writer.push(negative.into(), 1);
    }
    writer.finish()
}

fn bitmap_of(signs: &[i8]) -> Vec<u8> {
    let mut writer = Writer::default();
    for sign in signs {
        writer.push(u64::from(*sign != 0), 1);
    }
    for sign in signs.iter().filter(|sign| **sign != 0) {
        writer.push(u64::from(*sign < 0), 1);
    }
    writer.finish()
}

fn gaps(signs: &[i8]) -> Gaps<'_> {
    Gaps { signs: signs.iter(), before: 0 }
}

/// How many zeros are before each sign, and whether it is negative.
struct Gaps<'a> {
    signs: std::slice::Iter<'a, i8>,
    before: u64,
}

impl Iterator for Gaps<'_> {
    type Item = (u64, bool);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.signs.next()? {
                0 => self.before += 1,
                sign => return Some((std::mem::take(&mut self.before), *sign < 0)),
            }
        }
    }
}

/// Reads what [`pack`] wrote: calls `keep` with each kept entry's position, below `entries`, and whether it is negative.
pub(super) fn unpack(
    layout: Layout,
    bytes: &[u8],
    entries: usize,
    kept: usize,
    keep: impl FnMut(usize, bool),
) -> Result<(), String> {
    let end = match layout {
        Layout::Bitmap => read_bitmap(bytes, entries, kept, keep)?,
        Layout::Rice { k } => read_rice(bytes, k, entries, kept, keep)?,
    };
    if end.div_ceil(8) != bytes.len() {
        return Err(format!("{} bytes are needed, and there are {}", end.div_ceil(8), bytes.len()));
    }
    Ok(())
}

fn read_bitmap(
    bytes: &[u8],
    entries: usize,
    kept: usize,
    mut keep: impl FnMut(usize, bool),
) -> Result<usize, String> {
    let mut signs = Reader { bytes, at: entries };
    let mut map = Reader { bytes, at: 0 };
    let mut found = 0;
    let mut position = 0;
    while position < entries {
        let width = (entries - position).min(32) as u32;
        let mut word = map.read(width)?;
        while word != 0 {
            found += 1;
            keep(position + word.trailing_zeros() as usize, signs.read(1)? == 1);
            word &= word - 1;
        }
        position += width as usize;
    }
    if found != kept {
        return Err(format!("{kept} entries should be kept, and {found} are"));
    }
    Ok(signs.at)
}

fn read_rice(
    bytes: &[u8],
    k: u32,
    entries: usize,
    kept: usize,
    mut keep: impl FnMut(usize, bool),
) -> Result<usize, String> {
    if k as usize > LONGEST {
        return Err(format!("k is {k}, and {LONGEST} is the most"));
    }
    let mut reader = Reader { bytes, at: 0 };
    let mut next = 0_u64;
    for _ in 0..kept {
        let high = reader.ones()?;
        let position = next + (high << k) + reader.read(k)?;
        let negative = reader.read(1)? == 1;
        if position >= entries as u64 {
            return Err(format!("entry {position} is kept, and there are {entries}"));
        }
        keep(position as usize, negative);
        next = position + 1;
    }
    Ok(reader.at)
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// Bits that do not fill a byte yet.
    open: u64,
    width: u32,
}

impl Writer {
    /// Adds the lowest `width` bits, at most 33, of a value that has no others.
    fn push(&mut self, value: u64, width: u32) {
        self.open |= value << self.width;
        self.width += width;
        while self.width >= 8 {
            self.bytes.push(self.open as u8);
            self.open >>= 8;
            self.width -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.width > 0 {
            self.bytes.push(self.open as u8);
        }
        self.bytes
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl Reader<'_> {
    /// Bits of a window that are always there.
    const SURE: u32 = 57;

    /// The bits from here on, zeros behind the end.
    fn window(&self) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = match rest.first_chunk() {
            Some(eight) => u64::from_le_bytes(*eight),
            None => rest.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)),
        };
        word >> (self.at % 8)
    }

    fn skip(&mut self, bits: u32) -> Result<(), String> {
        self.at += bits as usize;
        if self.at > self.bytes.len() * 8 {
            return Err(format!("{} bytes end in the middle of an entry", self.bytes.len()));
        }
        Ok(())
    }

    /// The next bits, at most 32.
    fn read(&mut self, width: u32) -> Result<u64, String> {
        let value = self.window() & ((1 << width) - 1);
        self.skip(width)?;
        Ok(value)
    }

    /// How many ones come next; the zero after them is read, too.
    fn ones(&mut self) -> Result<u64, String> {
        let mut count = 0;
        loop {
            let ones = self.window().trailing_ones();
            if ones < Self::SURE {
                self.skip(ones + 1)?;
                return Ok(count + u64::from(ones));
            }
            self.skip(Self::SURE)?;
            count += u64::from(Self::SURE);
        }
    }
}

//! From text to the token ids that the graph reads.
//!
//! A prompt is tokenised once. The graph reads a window of it: special tokens, a head and a tail. So of a
//! prompt beyond [`EXACT_BYTES`] only its two ends are tokenised, which keeps the cost of long prompts at
//! that of short ones; their token count is then an estimate, and says so.

mod plain;

use std::borrow::Cow;

use tokenizers::Tokenizer;

use plain::Plain;

/// Longest text that is tokenised whole, whatever it is.
const EXACT_BYTES: usize = 2 << 10;

/// Bytes tokenised from either end of a longer text. A routing window of 128 tokens needs some 300 bytes
/// of ordinary text from each end.
const NARROW_BYTES: usize = EXACT_BYTES / 2;

/// Bytes that are looked at from either end when the narrow ones hold too few tokens (blanks, words of
/// hundreds of letters). What lies between is never looked at.
const WIDE_BYTES: usize = 4 << 10;

/// Bytes of text that are looked at for one token of a head-only window.
const HEAD_BYTES_PER_TOKEN: usize = 64;

/// A text as the graph reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenized {
    /// The window: special tokens, the head, and the tail if anything was left out.
    pub ids: Vec<u32>,
    /// Tokens of the whole text, without special tokens.
    pub tokens: u32,
    /// Tokens of the text that are not in the window.
    pub truncated_tokens: u32,
    /// Whether the two counts are estimates, because the text was too long to be tokenised whole.
    pub estimated: bool,
}

/// Makes windows with one tokenizer.
pub(crate) struct Windows {
    tokenizer: Tokenizer,
    /// Reads plain words, where the tokenizer is of a kind that allows it.
    plain: Option<Plain>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

/// The part of a text that a routing window is made from.
pub(crate) struct Excerpt<'a> {
    head: &'a str,
    tail: &'a str,
    bytes: usize,
}

impl<'a> Excerpt<'a> {
    /// The same text gives the same excerpt; equal excerpts give equal windows.
    pub(crate) fn of(text: &'a str) -> Self {
        let bytes = text.len();
        if bytes <= 2 * WIDE_BYTES {
            return Self { head: text, tail: "", bytes };
        }
        Self { head: first(text, WIDE_BYTES), tail: last(text, WIDE_BYTES), bytes }
    }

    fn is_cut(&self) -> bool {
        self.head.len() < self.bytes
    }

    fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Whether making the window takes next to no time.
    pub(crate) fn is_small(&self) -> bool {
        self.len() <= EXACT_BYTES
    }

    /// The two ends, `bytes` of each or what there is.
    fn ends(&self, bytes: usize) -> (&'a str, &'a str) {
        (first(self.head, bytes), last(if self.is_cut() { self.tail } else { self.head }, bytes))
    }

    /// What the window depends on, as one string: the text itself, or for a text that was cut its two
    /// ends and its length. No uncut text has the key of a cut one, which is longer than any of them.
    pub(crate) fn key(&self) -> Cow<'a, str> {
        if self.is_cut() {
            Cow::Owned(format!("{}{}{:04x}{:016x}", self.head, self.tail, self.head.len(), self.bytes))
        } else {
            Cow::Borrowed(self.head)
        }
    }

    pub(crate) fn to_owned(&self) -> OwnedExcerpt {
        OwnedExcerpt { head: self.head.to_owned(), tail: self.tail.to_owned(), bytes: self.bytes }
    }
}

/// An [`Excerpt`] that can go to another thread.
pub(crate) struct OwnedExcerpt {
    head: String,
    tail: String,
    bytes: usize,
}

impl OwnedExcerpt {
    pub(crate) fn borrow(&self) -> Excerpt<'_> {
        Excerpt { head: &self.head, tail: &self.tail, bytes: self.bytes }
    }
}

impl Windows {
    /// Takes the tokenizer over. What its file says about truncation and padding is dropped, and the
    /// names of special tokens inside a text are plain text: no prompt can forge one.
    ///
    /// # Errors
    /// What is wrong with the tokenizer.
    pub(crate) fn new(mut tokenizer: Tokenizer) -> Result<Self, String> {
        let failed = |error: tokenizers::Error| error.to_string();
        tokenizer.with_truncation(None).map_err(failed)?;
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        let plain = tokenizer.encode_fast("a", false).map_err(failed)?.get_ids().to_vec();
        let whole = tokenizer.encode_fast("a", true).map_err(failed)?.get_ids().to_vec();
        let at = (0..whole.len()).find(|&at| !plain.is_empty() && whole[at..].starts_with(&plain));
        let Some(at) = at else {
            return Err("does not tokenise even the letter a".to_owned());
        };
        let (prefix, rest) = whole.split_at(at);
        let suffix = rest[plain.len()..].to_vec();
        Ok(Self { prefix: prefix.to_vec(), suffix, plain: Plain::of(&tokenizer), tokenizer })
    }

    /// The largest id that the tokenizer can yield.
    pub(crate) fn largest_id(&self) -> u32 {
        self.tokenizer.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// How many special tokens come before and after a prompt's own.
    pub(crate) fn margins(&self) -> (usize, usize) {
        (self.prefix.len(), self.suffix.len())
    }

    /// Special tokens around ids, as the graph expects them.
    pub(crate) fn enclose(&self, head: &[u32], tail: &[u32]) -> Vec<u32> {
        [&self.prefix, head, tail, &self.suffix].concat()
    }

    /// The routing window: head and tail halves within `max_tokens`, the head having the odd one.
    pub(crate) fn routing(&self, excerpt: &Excerpt<'_>, max_tokens: usize) -> Result<Tokenized, String> {
        let room = self.room(max_tokens);
        let (head_room, tail_room) = (room.div_ceil(2), room / 2);
        if !excerpt.is_small() {
            let steps = [Some(NARROW_BYTES), excerpt.is_cut().then_some(WIDE_BYTES)];
            for bytes in steps.into_iter().flatten() {
                let (head, tail) = excerpt.ends(bytes);
                let read = head.len() + tail.len();
                let (head, tail) = (self.ids(head)?, self.ids(tail)?);
                let enough = head.len() >= head_room && tail.len() >= tail_room;
                if enough || bytes == WIDE_BYTES {
                    let total = estimate(head.len() + tail.len(), read, excerpt.bytes);
                    let head = &head[..head.len().min(head_room)];
                    let tail = &tail[tail.len() - tail.len().min(tail_room)..];
                    return Ok(self.tokenized(head, tail, total, true));
                }
            }
        }
        let ids = self.ids(excerpt.head)?;
        let total = ids.len();
        if total <= room {
            return Ok(self.tokenized(&ids, &[], total, false));
        }
        Ok(self.tokenized(&ids[..head_room], &ids[total - tail_room..], total, false))
    }

    /// The embedding window: the first `max_tokens`.
    pub(crate) fn head(&self, text: &str, max_tokens: usize) -> Result<Tokenized, String> {
        let room = self.room(max_tokens);
        let head = first(text, max_tokens.saturating_mul(HEAD_BYTES_PER_TOKEN));
        let ids = self.ids(head)?;
        let total = estimate(ids.len(), head.len(), text.len());
        Ok(self.tokenized(&ids[..ids.len().min(room)], &[], total, head.len() < text.len()))
    }

    fn room(&self, max_tokens: usize) -> usize {
        max_tokens.saturating_sub(self.prefix.len() + self.suffix.len())
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        let general = |text: &str, ids: &mut Vec<u32>| {
            let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
            ids.extend_from_slice(encoding.get_ids());
            Ok(())
        };
        if let Some(plain) = &self.plain {
            return plain.ids(text, general);
        }
        let mut ids = Vec::new();
        general(text, &mut ids)?;
        Ok(ids)
    }

    fn tokenized(&self, head: &[u32], tail: &[u32], total: usize, estimated: bool) -> Tokenized {
        let truncated = total.saturating_sub(head.len() + tail.len());
        Tokenized {
            ids: self.enclose(head, tail),
            tokens: u32::try_from(total).unwrap_or(u32::MAX),
            truncated_tokens: u32::try_from(truncated).unwrap_or(u32::MAX),
            estimated,
        }
    }
}

/// The first `bytes` of a text, or a little less where that would split a character.
fn first(text: &str, bytes: usize) -> &str {
    text.split_at(text.floor_char_boundary(bytes)).0
}

/// The last `bytes` of a text, or a little less where that would split a character.
fn last(text: &str, bytes: usize) -> &str {
    text.split_at(text.ceil_char_boundary(text.len().saturating_sub(bytes))).1
}

/// Tokens of `all` bytes when `read` of them gave `tokens`.
fn estimate(tokens: usize, read: usize, all: usize) -> usize {
    if read == 0 || read == all {
        return tokens;
    }
    (tokens as f64 * (all as f64 / read as f64)).round() as usize
}

#[cfg(test)]
mod tests;

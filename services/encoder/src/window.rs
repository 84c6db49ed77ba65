//! From text to the token ids that the graph reads.
//!
//! A prompt is tokenised once, as a whole where it is short. The graph reads a window of it: special
//! tokens, a head and a tail. Prompts beyond [`SLICE_BYTES`] at either end are cut before they are
//! tokenised, so that a prompt of megabytes costs no more than one of 8 KiB; their token count is then
//! an estimate, and says so.

use std::borrow::Cow;

use tokenizers::Tokenizer;

/// Bytes of text that are looked at from either end. A routing window of 128 tokens needs some 300
/// bytes of ordinary text from each end; text that yields fewer tokens than fit is not padded up.
const SLICE_BYTES: usize = 4 << 10;

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
        if bytes <= 2 * SLICE_BYTES {
            return Self { head: text, tail: "", bytes };
        }
        let (head, _) = text.split_at(text.floor_char_boundary(SLICE_BYTES));
        let (_, tail) = text.split_at(text.ceil_char_boundary(bytes - SLICE_BYTES));
        Self { head, tail, bytes }
    }

    fn is_cut(&self) -> bool {
        self.head.len() < self.bytes
    }

    /// Bytes that will be tokenised.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.tail.len()
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
        Ok(Self { prefix: prefix.to_vec(), suffix, tokenizer })
    }

    /// The largest id that the tokenizer can yield.
    pub(crate) fn largest_id(&self) -> u32 {
        self.tokenizer.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// Special tokens around ids, as the graph expects them.
    pub(crate) fn enclose(&self, head: &[u32], tail: &[u32]) -> Vec<u32> {
        [&self.prefix, head, tail, &self.suffix].concat()
    }

    /// The routing window: head and tail halves within `max_tokens`, the head having the odd one.
    pub(crate) fn routing(&self, excerpt: &Excerpt<'_>, max_tokens: usize) -> Result<Tokenized, String> {
        let room = self.room(max_tokens);
        let head = self.ids(excerpt.head)?;
        let (head_room, tail_room) = (room.div_ceil(2), room / 2);
        if excerpt.is_cut() {
            let tail = self.ids(excerpt.tail)?;
            let read = head.len() + tail.len();
            let total = estimate(read, excerpt.len(), excerpt.bytes);
            let head = &head[..head.len().min(head_room)];
            let tail = &tail[tail.len() - tail.len().min(tail_room)..];
            return Ok(self.tokenized(head, tail, total, true));
        }
        let total = head.len();
        if total <= room {
            return Ok(self.tokenized(&head, &[], total, false));
        }
        Ok(self.tokenized(&head[..head_room], &head[total - tail_room..], total, false))
    }

    /// The embedding window: the first `max_tokens`.
    pub(crate) fn head(&self, text: &str, max_tokens: usize) -> Result<Tokenized, String> {
        let room = self.room(max_tokens);
        let cut = text.floor_char_boundary(max_tokens.saturating_mul(HEAD_BYTES_PER_TOKEN));
        let ids = self.ids(&text[..cut])?;
        let total = estimate(ids.len(), cut, text.len());
        Ok(self.tokenized(&ids[..ids.len().min(room)], &[], total, cut < text.len()))
    }

    fn room(&self, max_tokens: usize) -> usize {
        max_tokens.saturating_sub(self.prefix.len() + self.suffix.len())
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
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

/// Tokens of `all` bytes when `read` of them gave `tokens`.
fn estimate(tokens: usize, read: usize, all: usize) -> usize {
    if read == 0 || read == all {
        return tokens;
    }
    (tokens as f64 * (all as f64 / read as f64)).round() as usize
}

#[cfg(test)]
mod tests;

//! WordPiece for plain ASCII words, some twenty times as fast as the general tokenizer.
//!
//! BERT's tokenizers split at white space first, and what is in one word has no effect on another. So the
//! words of a text that are plain ASCII are read here, and only the others go through the general
//! tokenizer. The result is the same, token by token; a property test holds the two together.
//!
//! For an ASCII word the general tokenizer's steps come down to: lower-case letters, split off every
//! punctuation character, then take the longest known piece from the left, again and again, and give the
//! unknown token for the whole word where no piece fits (Wu et al. 2016, section 4.1, greedy variant).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{Model, ModelWrapper, Tokenizer};

/// Pieces by their bytes.
type Pieces = HashMap<Box<[u8]>, u32, BuildHasherDefault<Fnv>>;

/// The vocabulary, as plain words need it.
pub(super) struct Plain {
    /// Pieces that begin a word.
    first: Pieces,
    /// Pieces that go on with a word, without their prefix.
    rest: Pieces,
    unknown: u32,
    lowercase: bool,
    /// A longer word is unknown as a whole.
    max_word: usize,
    /// No piece has more bytes.
    longest: usize,
}

/// Part of a text between separators.
enum Run<'a> {
    /// One word of plain ASCII.
    Plain(&'a [u8]),
    /// Words of which none is plain, with what separates them.
    Other(&'a str),
}

impl Plain {
    /// Takes over a tokenizer's vocabulary, if the tokenizer is of BERT's kind, so that words can be read
    /// apart from each other.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else {
            return None;
        };
        let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = tokenizer.get_pre_tokenizer() else {
            return None;
        };
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else { return None };
        // Added tokens that are not special are looked for across words.
        let ordinary = tokenizer.get_added_tokens_decoder().into_values().any(|token| !token.special);
        if !normalizer.clean_text || ordinary || model.continuing_subword_prefix.is_empty() {
            return None;
        }
        let (mut first, mut rest) = (Pieces::default(), Pieces::default());
        for (piece, id) in model.get_vocab() {
            // A piece that begins a word may look like one that goes on with it.
            if let Some(inner) = piece.strip_prefix(&model.continuing_subword_prefix) {
                rest.insert(inner.as_bytes().into(), id);
            }
            first.insert(piece.into_bytes().into(), id);
        }
        Some(Self {
            unknown: model.token_to_id(&model.unk_token)?,
            longest: first.keys().chain(rest.keys()).map(|piece| piece.len()).max()?,
            lowercase: normalizer.lowercase,
            max_word: model.max_input_chars_per_word,
            first,
            rest,
        })
    }

    /// The ids of a text's tokens. `other` gives those of text that is not plain.
    ///
    /// # Errors
    /// Those of `other`.
    pub(super) fn ids<E>(
        &self,
        text: &str,
        mut other: impl FnMut(&str, &mut Vec<u32>) -> Result<(), E>,
    ) -> Result<Vec<u32>, E> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 4);
        let mut lower = Vec::new();
        for run in (Runs { text }) {
            match run {
                Run::Plain(word) if self.lowercase => {
                    lower.clear();
                    lower.extend(word.iter().map(u8::to_ascii_lowercase));
                    self.word(&lower, &mut ids);
                }
                Run::Plain(word) => self.word(word, &mut ids),
                Run::Other(text) => other(text, &mut ids)?,
            }
        }
        Ok(ids)
    }

    /// Splits punctuation off a word.
    fn word(&self, word: &[u8], ids: &mut Vec<u32>) {
        let mut start = 0;
        for (at, byte) in word.iter().enumerate() {
            if byte.is_ascii_punctuation() {
                self.pieces(&word[start..at], ids);
                self.pieces(&word[at..=at], ids);
                start = at + 1;
            }
        }
        self.pieces(&word[start..], ids);
    }

    /// Greedy longest match.
    fn pieces(&self, word: &[u8], ids: &mut Vec<u32>) {
        let mark = ids.len();
        let mut start = 0;
        if word.len() > self.max_word {
            ids.push(self.unknown);
            return;
        }
        while start < word.len() {
            let pieces = if start == 0 { &self.first } else { &self.rest };
            let longest = word.len().min(start + self.longest);
            let fit =
                (start + 1..=longest).rev().find_map(|end| Some((end, *pieces.get(&word[start..end])?)));
            let Some((end, id)) = fit else {
                ids.truncate(mark);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            start = end;
        }
    }
}

/// Iterates over the runs of what is left of a text.
struct Runs<'a> {
    text: &'a str,
}

fn separates(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The next word, which begins at the start of `text`, and whether it is plain: printable ASCII.
fn next_word(text: &str) -> (&str, bool) {
    let end = text.bytes().position(separates).unwrap_or(text.len());
    let (word, _) = text.split_at(end);
    (word, word.bytes().all(|b| b.is_ascii_graphic()))
}

fn skip_separators(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}

impl<'a> Iterator for Runs<'a> {
    type Item = Run<'a>;

    fn next(&mut self) -> Option<Run<'a>> {
        let whole = skip_separators(self.text);
        if whole.is_empty() {
            return None;
        }
        let (word, plain) = next_word(whole);
        if plain {
            self.text = &whole[word.len()..];
            return Some(Run::Plain(word.as_bytes()));
        }
        // Neighbours that are not plain either go to the general tokenizer in one call.
        let mut end = word.len();
        loop {
            let rest = skip_separators(&whole[end..]);
            let (word, plain) = next_word(rest);
            if plain {
                break;
            }
            end = whole.len() - rest.len() + word.len();
        }
        let (run, rest) = whole.split_at(end);
        self.text = rest;
        Some(Run::Other(run))
    }
}

/// FNV-1a: short keys that nobody outside chooses against us, since a miss costs as much as a hit.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        // The table takes its control bits from the top, which FNV leaves poor for short keys.
        self.0 ^ (self.0 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_usize(&mut self, length: usize) {
        self.0 ^= length as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn tokenizers() -> [Tokenizer; 2] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        ["tests/data/tiny/tokenizer.json", "../../router-models/default/tokenizer.json"].map(|file| {
            let mut tokenizer = Tokenizer::from_file(root.join(file)).unwrap();
            tokenizer.with_truncation(None).unwrap();
            tokenizer.with_padding(None);
            tokenizer.set_encode_special_tokens(true);
            tokenizer
        })
    }

    fn both(tokenizer: &Tokenizer, plain: &Plain, text: &str) -> (Vec<u32>, Vec<u32>) {
        let general = |text: &str| tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
        let fast = plain.ids(text, |text, ids| {
            ids.extend(general(text));
            Ok::<(), std::convert::Infallible>(())
        });
        (fast.unwrap(), general(text))
    }

    #[test]
    fn what_is_odd_reads_as_the_general_tokenizer_reads_it() {
        let long = "x".repeat(101);
        let odd = [
            "",
            "  \t\n",
            "Hello, World!",
            "don't-stop (now)...",
            "[CLS] [SEP] [MASK] ##ing",
            "caf\u{e9} cafe\u{301} naïve plain",
            "a\u{1}b \u{7f} c\u{b}d",
            "non\u{a0}breaking\u{2003}space and\u{200b}zero",
            "日本語 text 混ざる mixed",
            "emoji 🙂 and “quotes” — dashes",
            "SELECT * FROM t WHERE a >= 10;",
            "https://example.com/a?b=c&d=%20",
            long.as_str(),
            "antidisestablishmentarianism zzzzqqqq",
        ];
        for tokenizer in tokenizers() {
            let plain = Plain::of(&tokenizer).expect("it is of BERT's kind");
            for text in odd {
                let (fast, general) = both(&tokenizer, &plain, text);
                assert_eq!(fast, general, "{text:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 100, ..ProptestConfig::default() })]
        #[test]
        fn any_text_reads_as_the_general_tokenizer_reads_it(
            ascii in prop::collection::vec("[ -~\t\n]{0,60}", 20),
            any in prop::collection::vec("\\PC{0,20}|[a-zA-Z ]{0,20}|[\\x00-\\x7f]{0,20}", 20),
        ) {
            for tokenizer in tokenizers() {
                let plain = Plain::of(&tokenizer).unwrap();
                for text in ascii.iter().chain(&any) {
                    let (fast, general) = both(&tokenizer, &plain, text);
                    prop_assert_eq!(fast, general, "{:?}", text);
                }
            }
        }
    }
}

//! A JSON lexer that finds the few things this gateway looks at, in pieces of any size.
//!
//! It checks nothing: what is not JSON yields no marks, or useless ones, and never an error.

use memchr::memchr2;

/// Something found. Positions are in the piece that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The opening quote of the top-level `model`'s string.
    ModelOpen(usize),
    /// One past its closing quote.
    ModelClose(usize),
    /// The opening brace of the top-level `usage`'s object.
    UsageOpen(usize),
    /// One past its closing brace.
    UsageClose(usize),
    /// The top-level `choices` is an empty array.
    NoChoices,
    /// The top-level `choices` is anything else.
    Choices,
    /// A choice has a `finish_reason` that is a string.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lex {
    Free,
    Text,
    Escape,
}

/// A member whose value is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    None,
    Model,
    Usage,
    Choices,
    /// The first thing inside the array of choices.
    FirstChoice,
    Finish,
}

/// The longest key of interest is `finish_reason`.
const WORD: usize = 16;
/// Marks a string that is no key of interest: too long, escaped or too deep.
const NO_WORD: u8 = u8::MAX;
/// The depth of a choice's members: object, array, object.
const CHOICE_DEPTH: u32 = 3;

/// The lexer's state between two pieces.
#[derive(Debug)]
pub(super) struct Scanner {
    lex: Lex,
    depth: u32,
    word: [u8; WORD],
    length: u8,
    /// The string that was just closed, if it can be a key.
    closed: Key,
    /// The key whose value comes next.
    expected: Key,
    in_model: bool,
    in_usage: bool,
}

/// What a byte means outside of strings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Nothing: white space, numbers, words.
    Other,
    Quote,
    Open,
    Close,
    Colon,
    Comma,
}

const CLASSES: [Class; 256] = {
    let mut table = [Class::Other; 256];
    table[b'"' as usize] = Class::Quote;
    table[b'{' as usize] = Class::Open;
    table[b'[' as usize] = Class::Open;
    table[b'}' as usize] = Class::Close;
    table[b']' as usize] = Class::Close;
    table[b':' as usize] = Class::Colon;
    table[b',' as usize] = Class::Comma;
    table
};

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            lex: Lex::Free,
            depth: 0,
            word: [0; WORD],
            length: NO_WORD,
            closed: Key::None,
            expected: Key::None,
            in_model: false,
            in_usage: false,
        }
    }

    /// Whether a document has begun and not ended.
    pub(super) fn is_inside(&self) -> bool {
        self.depth > 0 || self.lex != Lex::Free
    }

    /// Reads `piece` from `*at` up to the next mark, and moves `*at` past what was read. `None` at the
    /// piece's end.
    pub(super) fn next(&mut self, piece: &[u8], at: &mut usize) -> Option<Mark> {
        while *at < piece.len() {
            let mark = match self.lex {
                Lex::Free => self.free(piece, at),
                Lex::Text => self.text(piece, at),
                Lex::Escape => {
                    *at += 1;
                    self.lex = Lex::Text;
                    None
                }
            };
            if mark.is_some() {
                return mark;
            }
        }
        None
    }

    /// Reads on in a string.
    fn text(&mut self, piece: &[u8], at: &mut usize) -> Option<Mark> {
        let rest = &piece[*at..];
        let Some(end) = memchr2(b'"', b'\\', rest) else {
            self.keep(rest);
            *at = piece.len();
            return None;
        };
        *at += end + 1;
        if rest[end] == b'\\' {
            self.lex = Lex::Escape;
            self.length = NO_WORD;
            return None;
        }
        self.lex = Lex::Free;
        if std::mem::take(&mut self.in_model) {
            return Some(Mark::ModelClose(*at));
        }
        self.closed = match self.length {
            NO_WORD => Key::None,
            // Whole in this piece, as nearly all are.
            0 => self.key(&rest[..end]),
            _ => {
                self.keep(&rest[..end]);
                self.key(self.word.get(..usize::from(self.length)).unwrap_or_default())
            }
        };
        None
    }

    /// Keeps a part of a string that may be a key.
    fn keep(&mut self, part: &[u8]) {
        if self.length == NO_WORD {
            return;
        }
        let length = usize::from(self.length);
        match self.word.get_mut(length..length + part.len()) {
            Some(room) => {
                room.copy_from_slice(part);
                self.length += part.len() as u8;
            }
            None => self.length = NO_WORD,
        }
    }

    fn key(&self, word: &[u8]) -> Key {
        match (self.depth, word) {
            (1, b"model") => Key::Model,
            (1, b"usage") => Key::Usage,
            (1, b"choices") => Key::Choices,
            (CHOICE_DEPTH, b"finish_reason") => Key::Finish,
            _ => Key::None,
        }
    }

    /// Reads on between strings, up to the next one or a mark.
    fn free(&mut self, piece: &[u8], at: &mut usize) -> Option<Mark> {
        while let Some(&byte) = piece.get(*at) {
            let class = CLASSES[usize::from(byte)];
            *at += 1;
            let found = if self.expected == Key::None {
                if class == Class::Other {
                    continue;
                }
                None
            } else {
                if byte.is_ascii_whitespace() {
                    continue;
                }
                self.value(byte, *at - 1)
            };
            let stepped = self.step(class, *at);
            if found.is_some() || stepped.is_some() {
                return found.or(stepped);
            }
            if self.lex != Lex::Free {
                return None;
            }
        }
        None
    }

    /// The first byte of an expected value. It means what it means anywhere, but for `choices`, whose first
    /// element is looked at before.
    fn value(&mut self, byte: u8, start: usize) -> Option<Mark> {
        let key = std::mem::replace(&mut self.expected, Key::None);
        match (key, byte) {
            (Key::Choices, b'[') => {
                self.expected = Key::FirstChoice;
                None
            }
            (Key::FirstChoice, b']') => Some(Mark::NoChoices),
            (Key::Choices | Key::FirstChoice, _) => Some(Mark::Choices),
            (Key::Model, b'"') => {
                self.in_model = true;
                Some(Mark::ModelOpen(start))
            }
            (Key::Usage, b'{') => {
                self.in_usage = true;
                Some(Mark::UsageOpen(start))
            }
            (Key::Finish, b'"') => Some(Mark::Finish),
            _ => None,
        }
    }

    fn step(&mut self, class: Class, next: usize) -> Option<Mark> {
        let closed = std::mem::replace(&mut self.closed, Key::None);
        match class {
            Class::Quote => {
                self.lex = Lex::Text;
                self.length = if matches!(self.depth, 1 | CHOICE_DEPTH) { 0 } else { NO_WORD };
            }
            Class::Colon => self.expected = closed,
            Class::Open => self.depth = self.depth.saturating_add(1),
            Class::Close => {
                self.depth = self.depth.saturating_sub(1);
                if self.in_usage && self.depth <= 1 {
                    self.in_usage = false;
                    return Some(Mark::UsageClose(next));
                }
            }
            Class::Comma => {}
            // The beginning of a number or a word whose key was of interest.
            Class::Other => self.closed = closed,
        }
        None
    }
}

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memchr;
use memchr::memmem::Finder;

use super::{Editor, Output};
use crate::call::Usage;

const PREFIX: &[u8] = b"data:";
/// Room for ` [DONE]` and a carriage return.
const HEAD: usize = 8;
/// An event that has not decided by then is no usage event.
const LONGEST_HELD: usize = 16 * 1024;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
static FINISH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"finish_reason\""));
static DONE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("[DONE]"));

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With `[DONE]`.
    Complete,
    /// After a finished choice, but without `[DONE]`, which was added.
    Repaired,
    /// In the middle: an error event was added.
    Cut,
}

/// Corrects server-sent events and sees to it that they end well.
#[derive(Debug)]
pub(crate) struct EventFilter {
    editor: Editor,
    line: Line,
    /// The first bytes of the present line's data; `length` is one more than fits when there were more.
    head: [u8; HEAD],
    length: usize,
    /// The first byte of the event's data: only an object can be the usage event.
    first: Option<u8>,
    hold: Hold,
    held: Vec<u8>,
    /// Whether nothing of an event has come since the last one ended.
    between: bool,
    done: bool,
    /// Of the event that has begun and not ended.
    event_bytes: u64,
}

/// Whether the present event is held back until it is known not to be the usage event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// The client is to see the usage event.
    Never,
    /// It may be the usage event.
    Undecided,
    /// It is another.
    Passed,
}

/// Where in a line the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// This far into `data:`.
    Start(usize),
    /// After a carriage return that began the line.
    Return,
    /// In the value of `data`.
    Data,
    /// In a comment or another field.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// What may become `data:` or an empty line.
    Opening,
    /// A part of a `data` value.
    Data,
    /// A part of another line.
    Other,
    /// The end of a `data` line.
    DataEnd,
    /// The end of another line.
    LineEnd,
    /// The empty line after an event.
    EventEnd,
}

impl Line {
    /// The token that begins at `at`, and where it ends.
    fn token(&mut self, piece: &[u8], at: usize) -> (Token, usize) {
        let rest = &piece[at..];
        let text = || at + memchr(b'\n', rest).unwrap_or(rest.len());
        match (*self, rest[0]) {
            (line, b'\n') => {
                *self = Self::Start(0);
                let token = match line {
                    Self::Start(0) | Self::Return => Token::EventEnd,
                    Self::Data => Token::DataEnd,
                    Self::Start(_) | Self::Other => Token::LineEnd,
                };
                (token, at + 1)
            }
            (Self::Start(0), _) if rest.starts_with(PREFIX) => {
                *self = Self::Data;
                (Token::Opening, at + PREFIX.len())
            }
            (Self::Start(matched), byte) if PREFIX[matched] == byte => {
                *self = if matched + 1 == PREFIX.len() { Self::Data } else { Self::Start(matched + 1) };
                (Token::Opening, at + 1)
            }
            (Self::Start(0), b'\r') => {
                *self = Self::Return;
                (Token::Opening, at + 1)
            }
            (Self::Data, _) => (Token::Data, text()),
            _ => {
                *self = Self::Other;
                (Token::Other, text())
            }
        }
    }
}

impl EventFilter {
    pub(crate) fn new(editor: Editor, strip: bool) -> Self {
        Self {
            editor,
            line: Line::Start(0),
            head: [0; HEAD],
            length: 0,
            first: None,
            hold: if strip { Hold::Undecided } else { Hold::Never },
            held: Vec::new(),
            between: true,
            done: false,
            event_bytes: 0,
        }
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        self.editor.usage
    }

    pub(super) fn event_bytes(&self) -> u64 {
        self.event_bytes
    }

    pub(super) fn push(&mut self, piece: Bytes, out: &mut Output) {
        if self.between && self.held.is_empty() && self.editor.replacement.is_none() && is_dull(&piece) {
            out.push(piece);
            return;
        }
        let rewriting = self.hold != Hold::Never || self.editor.replacement.is_some();
        if rewriting {
            out.buffer().reserve(self.held.len() + piece.len() + 64);
        }
        let mut event = out.len();
        if !self.held.is_empty() {
            out.buffer().append(&mut self.held);
        }
        let mut at = 0;
        while at < piece.len() {
            let (token, end) = self.line.token(&piece, at);
            let mut from = at;
            match token {
                Token::Data => {
                    self.note(&piece[at..end]);
                    // Writes nothing where there is no replacement.
                    from += self.editor.run(&piece[at..end], out);
                    if self.editor.choices == Some(true) || self.first.is_some_and(|b| b != b'{') {
                        self.pass();
                    }
                }
                Token::DataEnd => {
                    self.editor.release(out);
                    self.done |= self.is_done();
                    self.length = 0;
                }
                Token::Other => self.pass(),
                Token::Opening | Token::LineEnd | Token::EventEnd => {}
            }
            if rewriting {
                out.buffer().extend_from_slice(&piece[from..end]);
            }
            self.event_bytes += (end - at) as u64;
            at = end;
            self.between = token == Token::EventEnd;
            if self.between {
                self.event_bytes = 0;
                if self.hold == Hold::Undecided && self.is_usage_event() {
                    out.buffer().truncate(event);
                }
                event = out.len();
                self.next_event();
            }
        }
        if !rewriting {
            out.push(piece);
        } else if self.hold == Hold::Undecided {
            if out.len() - event > LONGEST_HELD {
                self.pass();
            } else {
                self.held = out.buffer().split_off(event);
            }
        }
    }

    /// Lets go of an event that was held back and is whole but for its last line end. Half an event of
    /// which the client has seen nothing is dropped.
    pub(super) fn finish(&mut self, out: &mut Output) {
        self.done |= self.is_done();
        if self.held.is_empty() {
            self.editor.release(out);
        } else if self.is_usage_event() || self.editor.scanner.is_inside() {
            self.held.clear();
            self.line = Line::Start(0);
            self.between = true;
        } else {
            out.buffer().append(&mut self.held);
        }
    }

    /// Ends the stream after [`EventFilter::finish`]: `failure` is the error event's data when the upstream
    /// failed, and `unfinished` when it ended properly, but before the answer did.
    pub(crate) fn end(&mut self, failure: Option<&str>, unfinished: &str, out: &mut Output) -> Ended {
        // A client's parser drops what no empty line follows.
        let boundary = match (self.between, self.line) {
            (true, _) => "",
            (false, Line::Start(0) | Line::Return) => "\n",
            (false, _) => "\n\n",
        };
        out.buffer().extend_from_slice(boundary.as_bytes());
        self.between = true;
        self.line = Line::Start(0);
        if self.done {
            return Ended::Complete;
        }
        let (last, ended) = match failure {
            None if self.editor.finished => ("[DONE]", Ended::Repaired),
            None => (unfinished, Ended::Cut),
            Some(error) => (error, Ended::Cut),
        };
        for part in ["data: ", last, "\n\n"] {
            out.buffer().extend_from_slice(part.as_bytes());
        }
        ended
    }

    fn next_event(&mut self) {
        self.editor.reset();
        self.first = None;
        if self.hold == Hold::Passed {
            self.hold = Hold::Undecided;
        }
    }

    fn pass(&mut self) {
        if self.hold == Hold::Undecided {
            self.hold = Hold::Passed;
        }
    }

    fn is_usage_event(&self) -> bool {
        self.editor.choices == Some(false) && self.editor.has_usage
    }

    /// Remembers how the line's data begins.
    fn note(&mut self, data: &[u8]) {
        if self.first.is_none() {
            self.first = data.trim_ascii_start().first().copied();
        }
        let room = HEAD.saturating_sub(self.length);
        let kept = data.len().min(room);
        self.head[self.length.min(HEAD)..][..kept].copy_from_slice(&data[..kept]);
        self.length = if data.len() > room { HEAD + 1 } else { self.length + kept };
    }

    fn is_done(&self) -> bool {
        self.head.get(..self.length).is_some_and(|head| head.trim_ascii() == b"[DONE]")
    }
}

/// Whether a piece that begins with an event is made of whole events in which nothing is of interest but the
/// model's name. Nearly all pieces of a stream are, and finding that out is much faster than reading them.
/// In doubt, they are read.
fn is_dull(piece: &[u8]) -> bool {
    has_single_lines(piece)
        && is_only_null(piece, &USAGE)
        && is_only_null(piece, &FINISH)
        && DONE.find(piece).is_none()
}

/// Whether each event is one line, and the last one has ended. In an event of several lines, a name could be
/// cut in two.
fn has_single_lines(mut piece: &[u8]) -> bool {
    while let Some(end) = memchr(b'\n', piece) {
        match piece.get(end + 1..).and_then(|rest| rest.strip_prefix(b"\n")) {
            Some(rest) => piece = rest,
            None => return false,
        }
    }
    piece.is_empty()
}

/// Whether a name stands nowhere but as a value, and before `null`. What is not JSON is not looked through.
fn is_only_null(piece: &[u8], name: &Finder<'_>) -> bool {
    name.find_iter(piece).all(|at| match piece[at + name.needle().len()..].trim_ascii_start() {
        [b',' | b'}' | b']', ..] => true,
        [b':', value @ ..] => value.trim_ascii_start().starts_with(b"null"),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_dull_only_where_nothing_can_be_of_interest() {
        let chunk = |end: &str| format!("data: {{\"choices\":[{{\"delta\":{{}},{end}}}]}}\n\n");
        for dull in [
            chunk("\"finish_reason\":null"),
            chunk("\"finish_reason\" : null}],\"usage\":null,\"x\":[{"),
            chunk("\"content\":\"usage\""),
            chunk("\"content\":\"\\\"usage\\\": 1\""),
            ": ping\n\ndata: {}\n\n".to_owned(),
        ] {
            assert!(is_dull(dull.as_bytes()), "{dull}");
        }
        for read in [
            chunk("\"finish_reason\":\"stop\""),
            chunk("\"finish_reason\" \n\n: \"stop\""),
            chunk("\"finish_reason\"?:\"stop\""),
            chunk("\"usage\": {\"prompt_tokens\":1}"),
            "data: {\"us\ndata: age\":{}}\n\n".to_owned(),
            "data: {}\n\ndata: {}\n".to_owned(),
            "data: {}\r\n\r\n".to_owned(),
            "data: [DONE]\n\n".to_owned(),
        ] {
            assert!(!is_dull(read.as_bytes()), "{read}");
        }
    }
}

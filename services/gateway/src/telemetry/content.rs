//! What was asked and answered, in the form that the conventions for generative AI give messages.
//!
//! Only for sampled requests, and only where the operator wants it. The prompt is put into form before the
//! expert is called, so that its body need not be kept; the answer is read beside its way to the client, piece
//! by piece, and of a stream no more is kept than what the trace will show. Each of the three texts is JSON of
//! at most the configured length: what does not fit is cut between two characters, and marked.

mod answer;
mod prompt;

use bytes::Bytes;
use experts::Operation;
use protocols::sse::Parser;

use answer::Answer;

/// The longest event of a stream, and the longest answer in one piece, that is read. Longer ones are passed on
/// like all others, but are missing in the trace.
const MOST: usize = 1 << 20;
/// What the JSON of a message takes at most beside its texts, its brackets included.
const MESSAGE: usize = 128;
/// And what the JSON of a part takes.
const PART: usize = 96;

/// What a request and its answer say, as traces show it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// `gen_ai.system_instructions`: where the client's protocol has a field of its own for them.
    pub system: Option<String>,
    /// `gen_ai.input.messages`.
    pub input: String,
    /// `gen_ai.output.messages`; none where there was no answer.
    pub output: Option<String>,
    /// The attributes whose text is not whole.
    pub truncated: Vec<&'static str>,
    /// Why each choice ended, in the expert's words.
    pub finish_reasons: Vec<Box<str>>,
}

/// Nobody reads prompts in a log.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let output = self.output.as_ref().map_or(0, String::len);
        write!(f, "Content({} and {output} bytes)", self.input.len())
    }
}

/// Collects the content of one request.
pub struct Recorder {
    content: Content,
    source: Source,
    answer: Answer,
}

/// How an answer arrives.
enum Source {
    /// Its first byte will tell.
    Unknown,
    /// As server-sent events.
    Events(Parser),
    /// As one document; its pieces, which share the memory that they arrived in, and their length.
    Document(Vec<Bytes>, usize),
    /// No more is to come, or to be read.
    Done,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Takes down the prompt in `body`. `own_system` says that the client's protocol has a field of its own for
    /// instructions, which stand as the first message here. `limit` is the most bytes of each text. `None` for
    /// embeddings, for which the conventions have no messages.
    pub fn new(operation: Operation, body: &[u8], own_system: bool, limit: usize) -> Option<Self> {
        let mut content = Content::default();
        match operation {
            Operation::ChatCompletions => prompt::chat(body, own_system, limit, &mut content),
            Operation::Completions => prompt::completion(body, limit, &mut content),
            Operation::Embeddings => return None,
        }
        Some(Self { content, source: Source::Unknown, answer: Answer::new(limit) })
    }

    /// Reads the next piece of the answer.
    pub fn read(&mut self, piece: &Bytes) {
        if let Source::Unknown = self.source {
            let Some(first) = piece.iter().find(|byte| !byte.is_ascii_whitespace()) else { return };
            self.source = if *first == b'{' {
                Source::Document(Vec::new(), 0)
            } else {
                Source::Events(Parser::new(MOST))
            };
        }
        match &mut self.source {
            Source::Events(parser) => parser.push(piece, |event| self.answer.event(&event)),
            Source::Document(pieces, length) => {
                *length += piece.len();
                if *length <= MOST {
                    pieces.push(piece.clone());
                } else {
                    self.answer.cut();
                    self.source = Source::Done;
                }
            }
            Source::Unknown | Source::Done => {}
        }
    }

    /// Reads a whole answer; pieces that come after it are the same in other words.
    pub fn read_whole(&mut self, document: &[u8]) {
        self.answer.document(document);
        self.source = Source::Done;
    }

    /// What was said, once the answer has ended.
    pub fn finish(mut self) -> Content {
        match std::mem::replace(&mut self.source, Source::Done) {
            Source::Events(mut parser) => parser.finish(|event| self.answer.event(&event)),
            Source::Document(pieces, _) => match &*pieces {
                [one] => self.answer.document(one),
                many => self.answer.document(&many.concat()),
            },
            Source::Unknown | Source::Done => {}
        }
        self.answer.finish(&mut self.content);
        self.content
    }
}

/// The bytes that are left of a text's limit.
struct Room {
    left: usize,
    cut: bool,
}

impl Room {
    fn new(limit: usize) -> Self {
        Self { left: limit, cut: false }
    }

    /// Takes so many bytes; if there are not that many, takes none, and what wanted them is missing.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.left;
        if fits {
            self.left -= bytes;
        } else {
            self.cut = true;
        }
        fits
    }

    /// The beginning of `text` that fits as a JSON string, and takes its bytes.
    fn fit<'t>(&mut self, text: &'t str) -> &'t str {
        for (at, character) in text.char_indices() {
            let bytes = escaped(character);
            if bytes > self.left {
                // What comes later must not be shown as if it followed.
                self.left = 0;
                self.cut = true;
                return &text[..at];
            }
            self.left -= bytes;
        }
        text
    }

    /// A name, which makes no sense when it is cut.
    fn name<'t>(&mut self, name: Option<&'t str>) -> Option<&'t str> {
        name.filter(|name| self.take(name.chars().map(escaped).sum()))
    }
}

/// The bytes of a character in a JSON string.
fn escaped(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

/// Writes one part of a message: its type and the text of its main field, cut to what fits, then the fields that
/// `more` adds, each with a comma before it. Nothing when there is no room for a part at all.
fn part(out: &mut String, room: &mut Room, kind: &str, field: &str, text: &str, more: &str) {
    if room.take(PART + kind.len() + field.len() + more.len()) {
        let fitting = room.fit(text);
        write_part(out, kind, field, &quoted(fitting), fitting.len() < text.len(), more);
    }
}

/// Writes a part whose text is JSON already.
fn write_part(out: &mut String, kind: &str, field: &str, json: &str, cut: bool, more: &str) {
    if out.ends_with('}') {
        out.push(',');
    }
    let mark = if cut { ",\"truncated\":true" } else { "" };
    for text in ["{\"type\":\"", kind, "\"", more, ",\"", field, "\":", json, mark, "}"] {
        out.push_str(text);
    }
}

/// A field of a part, with a comma before it.
fn field(key: &str, value: Option<&str>) -> String {
    value.map_or_else(String::new, |value| format!(",\"{key}\":{}", quoted(value)))
}

/// Text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;

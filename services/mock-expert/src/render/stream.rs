//! A streamed answer, event by event.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::{CREATED, Shape, call_id, logprobs, quoted, stop_reason, usage};
use crate::answer::{Answer, Choice, tokens};
use crate::request::Form;

/// The events of one answer. The first opens every choice, then comes one part per token (all choices
/// together), and the last part holds the finish reasons, the usage where it was asked for, and `[DONE]`.
pub(crate) struct Stream {
    shape: Shape,
    head: String,
    answer: Answer,
    /// For every choice, where its tokens end.
    ends: Vec<Vec<usize>>,
    form: Form,
    stamp: bool,
    done: bool,
    next: usize,
    parts: usize,
}

impl Stream {
    pub(crate) fn new(shape: Shape, model: &str, answer: Answer, form: Form, stamp: bool) -> Self {
        let object = match shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        };
        let head = format!(
            r#"data: {{"id":"{}","object":"{object}","created":{CREATED},"model":{},"system_fingerprint":"fp_mock","#,
            shape.id(answer.id),
            quoted(model)
        );
        let ends: Vec<Vec<usize>> = answer
            .choices
            .iter()
            .map(|choice| {
                let mut end = 0;
                tokens(&choice.text)
                    .map(|token| {
                        end += token.len();
                        end
                    })
                    .collect()
            })
            .collect();
        let pieces = match &answer.dictated {
            Some(dictated) => dictated.pieces(),
            None => ends.iter().map(Vec::len).max().unwrap_or(0),
        };
        let parts = pieces + 2;
        Self { shape, head, answer, ends, form, stamp, done: true, next: 0, parts }
    }

    /// Leaves `[DONE]` out.
    pub(crate) fn without_done(mut self) -> Self {
        self.done = false;
        self
    }

    /// How many parts there are, at least two.
    pub(crate) fn parts(&self) -> usize {
        self.parts
    }

    fn part(&self, number: usize) -> String {
        let mut out = String::with_capacity((self.head.len() + 128) * self.answer.choices.len());
        for (index, choice) in self.answer.choices.iter().enumerate() {
            if number == 0 {
                self.open(&mut out, index, choice);
            } else if number + 1 == self.parts {
                self.close(&mut out, index, choice);
            } else if let Some(dictated) = &self.answer.dictated {
                let delta = dictated.piece(number - 1).unwrap_or_default();
                self.event(&mut out, index, &format!(r#""delta":{delta}"#), None, None);
            } else if let Some(token) = self.token(index, number - 1) {
                self.content(&mut out, index, choice, token);
            }
        }
        if number + 1 == self.parts {
            if self.form.include_usage {
                let _ = write!(out, "{}\"choices\":[],\"usage\":{}}}\n\n", self.head, usage(&self.answer));
            }
            if self.done {
                out.push_str("data: [DONE]\n\n");
            }
        }
        out
    }

    fn token(&self, index: usize, number: usize) -> Option<&str> {
        let ends = self.ends.get(index)?;
        let start = if number == 0 { 0 } else { *ends.get(number - 1)? };
        self.answer.choices.get(index)?.text.get(start..*ends.get(number)?)
    }

    fn open(&self, out: &mut String, index: usize, choice: &Choice) {
        match (self.shape, &choice.tool) {
            (Shape::Text, _) => {}
            (Shape::Chat, None) => {
                self.event(
                    out,
                    index,
                    r#""delta":{"role":"assistant","content":"","refusal":null}"#,
                    None,
                    None,
                );
            }
            (Shape::Chat, Some(name)) => {
                let delta = format!(
                    r#""delta":{{"role":"assistant","content":null,"tool_calls":[{{"index":0,"id":"{}","type":"function","function":{{"name":{},"arguments":""}}}}]}}"#,
                    call_id(self.answer.id, index),
                    quoted(name)
                );
                self.event(out, index, &delta, None, None);
            }
        }
    }

    fn content(&self, out: &mut String, index: usize, choice: &Choice, token: &str) {
        let stamped = self.stamp.then(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            format!("@@{}@{token}", now.as_nanos())
        });
        let text = quoted(stamped.as_deref().unwrap_or(token));
        let delta = match (self.shape, &choice.tool) {
            (Shape::Text, _) => format!(r#""text":{text}"#),
            (Shape::Chat, None) => format!(r#""delta":{{"content":{text}}}"#),
            (Shape::Chat, Some(_)) => {
                format!(r#""delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":{text}}}}}]}}"#)
            }
        };
        let logprobs = self.form.logprobs.map(|best| logprobs::of(self.shape, token, best).to_string());
        self.event(out, index, &delta, logprobs.as_deref(), None);
    }

    fn close(&self, out: &mut String, index: usize, choice: &Choice) {
        let delta = match self.shape {
            Shape::Chat => format!(r#""delta":{{}}{}"#, stop_reason(&self.answer)),
            Shape::Text => r#""text":"""#.to_owned(),
        };
        self.event(out, index, &delta, None, Some(&choice.finish));
    }

    fn event(
        &self,
        out: &mut String,
        index: usize,
        delta: &str,
        logprobs: Option<&str>,
        finish: Option<&str>,
    ) {
        let finish = finish.map_or_else(|| "null".to_owned(), quoted);
        let usage = if self.form.include_usage { r#","usage":null"# } else { "" };
        // Writing into a string cannot fail.
        let _ = write!(
            out,
            "{}\"choices\":[{{\"index\":{index},{delta},\"logprobs\":{},\"finish_reason\":{finish}}}]{usage}}}\n\n",
            self.head,
            logprobs.unwrap_or("null")
        );
    }
}

impl Iterator for Stream {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        // A completion has nothing to open; an empty part would end the stream.
        while self.next < self.parts {
            let part = self.part(self.next);
            self.next += 1;
            if !part.is_empty() {
                return Some(part.into());
            }
        }
        None
    }
}

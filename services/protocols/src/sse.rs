//! Reads server-sent events from bytes that are cut anywhere.

use memchr::memchr2;

/// What a stream consists of.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// An event's data, its lines joined by line feeds.
    Data(&'a [u8]),
    /// A comment, which servers send to keep a connection alive.
    Comment,
    /// An event that is longer than the limit. It is the last thing that is read.
    TooLong,
}

/// The state between two pieces of a stream. It keeps no more than the event that has begun and not ended.
#[derive(Debug)]
pub struct Parser {
    /// The most bytes of a line and of an event's data.
    limit: usize,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// The lines of the present event's data.
    data: Vec<u8>,
    /// How many they are.
    lines: usize,
    /// Whether the last byte was a carriage return, with which a line feed makes one line end.
    after_return: bool,
    /// Whether no line has been read.
    at_start: bool,
    stopped: bool,
}

impl Parser {
    /// A parser that reads lines and events of at most `limit` bytes, and stops at a longer one.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            lines: 0,
            after_return: false,
            at_start: true,
            stopped: false,
        }
    }

    /// Reads the next piece and gives every event that it completes to `take`.
    pub fn push(&mut self, mut piece: &[u8], mut take: impl FnMut(Event<'_>)) {
        while !piece.is_empty() && !self.stopped {
            if std::mem::take(&mut self.after_return) && piece[0] == b'\n' {
                piece = &piece[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', piece) else {
                self.line.extend_from_slice(piece);
                self.check(self.line.len(), &mut take);
                return;
            };
            self.after_return = piece[end] == b'\r';
            if self.line.is_empty() {
                self.end_line(&piece[..end], &mut take);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&piece[..end]);
                self.end_line(&line, &mut take);
                line.clear();
                self.line = line;
            }
            piece = &piece[end + 1..];
        }
    }

    /// Ends a stream. An event that lacks nothing but the empty line after it is given to `take`; servers
    /// that stop after `data: [DONE]` are not uncommon.
    pub fn finish(&mut self, mut take: impl FnMut(Event<'_>)) {
        if self.stopped {
            return;
        }
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.end_line(&line, &mut take);
        }
        self.end_line(b"", &mut take);
        self.stopped = true;
    }

    fn end_line(&mut self, line: &[u8], take: &mut impl FnMut(Event<'_>)) {
        self.check(line.len(), take);
        if self.stopped {
            return;
        }
        let mark = std::mem::take(&mut self.at_start).then(|| line.strip_prefix(b"\xef\xbb\xbf")).flatten();
        let line = mark.unwrap_or(line);
        if line.is_empty() {
            if std::mem::take(&mut self.lines) > 0 {
                take(Event::Data(&self.data));
                self.data.clear();
            }
        } else if line[0] == b':' {
            take(Event::Comment);
        } else if let Some(value) = data_of(line) {
            if self.lines > 0 {
                self.data.push(b'\n');
            }
            self.lines += 1;
            self.data.extend_from_slice(value);
            self.check(self.data.len(), take);
        }
    }

    fn check(&mut self, length: usize, take: &mut impl FnMut(Event<'_>)) {
        if length > self.limit && !self.stopped {
            self.stopped = true;
            self.line = Vec::new();
            take(Event::TooLong);
            self.data = Vec::new();
        }
    }
}

/// The value of a `data` line.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    match line.strip_prefix(b"data")? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]], limit: usize) -> Vec<String> {
        let mut seen = Vec::new();
        let mut parser = Parser::new(limit);
        let mut take = |event: Event<'_>| {
            seen.push(match event {
                Event::Data(data) => String::from_utf8_lossy(data).into_owned(),
                Event::Comment => "(comment)".to_owned(),
                Event::TooLong => "(too long)".to_owned(),
            });
        };
        for piece in pieces {
            parser.push(piece, &mut take);
        }
        parser.finish(&mut take);
        seen
    }

    #[test]
    fn lines_end_and_join_as_the_standard_says() {
        let cases: &[(&str, &[&str])] = &[
            ("data: a\n\ndata:b\r\n\r\ndata:  c\r\rdata\n\n", &["a", "b", " c", ""]),
            ("data: a\ndata: b\n\n", &["a\nb"]),
            ("event: x\nid: 1\nretry: 5\ndatax: no\ndata: a\n\n", &["a"]),
            (": hi\n\n:\ndata: a\n\n\n\n", &["(comment)", "(comment)", "a"]),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", &["a"]),
            ("data: [DONE]", &["[DONE]"]),
            ("data: a\n", &["a"]),
            ("", &[]),
        ];
        for (input, expected) in cases {
            assert_eq!(&read(&[input.as_bytes()], 100), expected, "{input:?}");
        }
    }

    #[test]
    fn too_long_ends_it() {
        assert_eq!(read(&[b"data: 12345\n\n", b"data: 1\n\n"], 4), ["(too long)"]);
        assert_eq!(read(&[b"data: 1\n", b"data: 2\ndata: 3\ndata: 4\ndata: 5\n\n"], 8), ["(too long)"]);
        assert_eq!(read(&[b"xxxx", b"xxxxxxxx", b"\n\ndata: 1\n\n"], 10), ["(too long)"]);
        assert_eq!(read(&[b": xxxxxxxxxx\n\ndata: 1\n\n"], 10), ["(too long)"]);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(lines in prop::collection::vec("(data:? ?|:|id: )?[ab\u{e4}]{0,4}(\r\n|\n|\r)", 0..12), cut in 0usize..200, other in 0usize..200) {
            let input = lines.concat().into_bytes();
            let (a, b) = (cut.min(other) % (input.len() + 1), cut.max(other) % (input.len() + 1));
            let (a, b) = (a.min(b), a.max(b));
            for limit in [1000, 9] {
                prop_assert_eq!(read(&[&input[..a], &input[a..b], &input[b..]], limit), read(&[&input], limit));
            }
        }
    }
}

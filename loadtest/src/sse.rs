//! Events of a streamed answer, and how long each was under way.

use std::time::{SystemTime, UNIX_EPOCH};

/// Counts `data:` lines and reads the clock that `mock-expert --stamp` writes into them.
#[derive(Debug, Default)]
pub struct Events {
    /// The beginning of a line whose end has not come yet.
    tail: Vec<u8>,
    /// `data:` lines so far.
    pub count: u64,
    /// Nanoseconds between the making of a chunk and its arrival here.
    pub delays: Vec<u64>,
}

impl Events {
    /// Takes the next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        self.tail.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(length) = self.tail[used..].iter().position(|byte| *byte == b'\n') {
            let line = &self.tail[used..used + length];
            if line.starts_with(b"data:") {
                self.count += 1;
                self.delays.extend(stamp(line).and_then(|made| now.checked_sub(made)));
            }
            used += length + 1;
        }
        self.tail.drain(..used);
    }
}

/// The number in `@@NUMBER@`.
fn stamp(line: &[u8]) -> Option<u64> {
    let start = line.windows(2).position(|pair| pair == b"@@")? + 2;
    let end = start + line[start..].iter().position(|byte| *byte == b'@')?;
    std::str::from_utf8(&line[start..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_across_pieces() {
        let mut events = Events::default();
        for piece in ["da", "ta: {\"a\":\"@@1", "000@x\"}\n\ndata: [DONE]\n", "\n"] {
            events.feed(piece.as_bytes());
        }
        assert_eq!((events.count, events.delays.len()), (2, 1));
    }
}

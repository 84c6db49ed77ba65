//! Events of a streamed answer: how many, how long each was under way, whether the stream ended as it should.

use std::ops::Range;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads the events of one stream as they come.
#[derive(Debug)]
pub struct Events {
    /// The beginning of a line whose end has not come yet.
    tail: Vec<u8>,
    /// When events count.
    window: Range<Instant>,
    /// When the last event came.
    last: Option<Instant>,
    /// Events that came inside the window.
    pub count: u64,
    /// Nanoseconds between the making of a chunk by `mock-expert --stamp` and its arrival here.
    pub delays: Vec<u64>,
    /// Nanoseconds between two arrivals of events.
    pub gaps: Vec<u64>,
    /// Whether `[DONE]` came.
    pub done: bool,
    /// Whether an error came as an event.
    pub error: bool,
}

impl Events {
    /// A stream of which nothing came yet; what comes outside of `window` is read but not counted.
    pub fn new(window: Range<Instant>) -> Self {
        Self {
            tail: Vec::new(),
            window,
            last: None,
            count: 0,
            delays: Vec::new(),
            gaps: Vec::new(),
            done: false,
            error: false,
        }
    }

    /// Takes the next bytes of the body, which came at `now`.
    pub fn feed(&mut self, bytes: &[u8], now: Instant) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let counts = self.window.contains(&now);
        let mut tail = std::mem::take(&mut self.tail);
        tail.extend_from_slice(bytes);
        let (mut used, mut any) = (0, false);
        while let Some(length) = tail[used..].iter().position(|byte| *byte == b'\n') {
            if let Some(data) = tail[used..used + length].strip_prefix(b"data:") {
                any = true;
                self.line(data.trim_ascii(), counts.then_some(wall));
            }
            used += length + 1;
        }
        tail.drain(..used);
        self.tail = tail;
        if any
            && let Some(last) = self.last.replace(now)
            && counts
        {
            self.gaps.push(now.saturating_duration_since(last).as_nanos() as u64);
        }
    }

    fn line(&mut self, data: &[u8], counted_at: Option<u64>) {
        self.done |= data == b"[DONE]";
        self.error |= data.starts_with(b"{\"error\"");
        if let Some(wall) = counted_at {
            self.count += 1;
            self.delays.extend(stamp(data).and_then(|made| wall.checked_sub(made)));
        }
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
    use std::time::Duration;

    use super::*;

    fn fed(pieces: &[&str], window: Range<Instant>, from: Instant) -> Events {
        let mut events = Events::new(window);
        for (number, piece) in pieces.iter().enumerate() {
            events.feed(piece.as_bytes(), from + Duration::from_millis(number as u64 * 10));
        }
        events
    }

    #[test]
    fn lines_are_counted_across_pieces() {
        let now = Instant::now();
        let pieces = ["da", "ta: {\"a\":\"@@1", "000@x\"}\n\ndata: [DONE]\n", "\n"];
        let events = fed(&pieces, now..now + Duration::from_secs(1), now);
        assert_eq!((events.count, events.delays.len()), (2, 1));
        assert!(events.done && !events.error);
    }

    #[test]
    fn gaps_lie_between_arrivals_inside_the_window() {
        let now = Instant::now();
        let piece = "data: {}\n\n";
        let window = now + Duration::from_millis(15)..now + Duration::from_millis(35);
        let events = fed(&[piece, piece, piece, piece, piece], window, now);
        assert_eq!((events.count, events.gaps.as_slice()), (2, &[10_000_000, 10_000_000][..]));
    }

    #[test]
    fn an_error_event_is_seen() {
        let now = Instant::now();
        let events = fed(&["data: {\"error\":{\"message\":\"x\"}}\n\n"], now..now, now);
        assert!(events.error && !events.done);
    }
}

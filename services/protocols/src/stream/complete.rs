/// Follows the text of a JSON object or array until its last bracket.
#[derive(Default)]
pub(super) struct Completeness {
    depth: u32,
    in_string: bool,
    after_backslash: bool,
    whole: bool,
}

impl Completeness {
    pub(super) fn feed(&mut self, text: &str) {
        for byte in text.bytes() {
            if std::mem::take(&mut self.after_backslash) {
                continue;
            }
            match byte {
                b'\\' if self.in_string => self.after_backslash = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.whole |= self.depth == 0;
                }
                _ => {}
            }
        }
    }

    /// Whether the last bracket has come. Text that is neither an object nor an array is never whole.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
}

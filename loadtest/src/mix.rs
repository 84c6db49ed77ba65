//! What is sent: bodies by weight, keys by chance, both drawn from a seed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// What in a body is replaced by a running number, so that no two requests are the same.
pub const PLACEHOLDER: &[u8] = b"########";

/// One entry of a mix file, which is a JSON list of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What the report calls it.
    pub name: String,
    /// How often it is drawn, relative to the others.
    #[serde(default = "one")]
    pub weight: f64,
    /// A file with the body, relative to the mix file.
    pub file: PathBuf,
    /// Another path than the run's.
    pub path: Option<String>,
    /// More headers, `name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The client leaves so many milliseconds after it sent the request.
    pub leave_after_ms: Option<u64>,
}

fn one() -> f64 {
    1.0
}

/// A request without its running number and key.
#[derive(Debug)]
pub struct Item {
    /// What the report calls it.
    pub name: String,
    /// Whether its answer is a stream of events.
    pub stream: bool,
    /// When the client leaves.
    pub leave_after: Option<std::time::Duration>,
    weight: f64,
    /// Without the empty line at its end.
    head: Vec<u8>,
    body: Vec<u8>,
    placeholder: Option<usize>,
}

impl Item {
    /// Prepares `entry` for a server at `host`. `path` and `headers` are the run's own.
    ///
    /// # Errors
    /// When the body cannot be read or the weight is no weight.
    pub fn new(entry: Entry, folder: &Path, host: &str, path: &str, headers: &[String]) -> Result<Self> {
        let file = folder.join(&entry.file);
        let body = std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        ensure!(entry.weight.is_finite() && entry.weight > 0.0, "{}: the weight must be above 0", entry.name);
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
            entry.path.as_deref().unwrap_or(path),
            body.len()
        );
        for header in headers.iter().chain(&entry.headers) {
            head.push_str(header);
            head.push_str("\r\n");
        }
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        Ok(Self {
            name: entry.name,
            stream: json.is_some_and(|json| json["stream"] == true),
            leave_after: entry.leave_after_ms.map(std::time::Duration::from_millis),
            weight: entry.weight,
            placeholder: body.windows(PLACEHOLDER.len()).position(|window| window == PLACEHOLDER),
            head: head.into_bytes(),
            body,
        })
    }
}

/// All that a run sends.
#[derive(Debug)]
pub struct Mix {
    /// The requests.
    pub items: Vec<Item>,
    /// API keys of which each request carries one; none when empty.
    pub keys: Vec<String>,
    /// Stands for every draw.
    pub seed: u64,
}

impl Mix {
    /// Writes request `number` into `out` and says which item it is.
    pub fn write(&self, number: u64, out: &mut Vec<u8>) -> usize {
        let index = self.draw(number);
        let item = &self.items[index];
        out.clear();
        out.extend_from_slice(&item.head);
        if !self.keys.is_empty() {
            let draw = unit(self.seed ^ 1, number);
            let key = &self.keys[(draw * self.keys.len() as f64) as usize];
            out.extend_from_slice(b"authorization: Bearer ");
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        let body = out.len();
        out.extend_from_slice(&item.body);
        if let Some(at) = item.placeholder {
            let digits = format!("{:08}", number % 100_000_000);
            out[body + at..body + at + PLACEHOLDER.len()].copy_from_slice(digits.as_bytes());
        }
        index
    }

    /// The item of request `number`.
    fn draw(&self, number: u64) -> usize {
        let total: f64 = self.items.iter().map(|item| item.weight).sum();
        let mut left = unit(self.seed, number) * total;
        for (index, item) in self.items.iter().enumerate() {
            left -= item.weight;
            if left < 0.0 {
                return index;
            }
        }
        self.items.len() - 1
    }
}

/// A number in 0..1 for draw `number` of a seed (splitmix64).
pub fn unit(seed: u64, number: u64) -> f64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, weight: f64, body: &str) -> Item {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("body.json"), body).unwrap();
        let json = format!(r#"{{"name": "{name}", "weight": {weight}, "file": "body.json"}}"#);
        let entry = serde_json::from_str(&json).unwrap();
        Item::new(entry, folder.path(), "host:1", "/v1/chat/completions", &["x-a: b".to_owned()]).unwrap()
    }

    #[test]
    fn weights_are_kept_and_repeat_with_the_seed() {
        let mix =
            |seed| Mix { items: vec![item("a", 3.0, "{}"), item("b", 1.0, "{}")], keys: Vec::new(), seed };
        let draws = |mix: Mix| (0..4000).map(|number| mix.draw(number)).collect::<Vec<_>>();
        let one = draws(mix(1));
        let rare = one.iter().filter(|index| **index == 1).count();
        assert!((900..1100).contains(&rare), "{rare}");
        assert_eq!(one, draws(mix(1)));
        assert_ne!(one, draws(mix(2)));
    }

    #[test]
    fn a_request_has_its_number_its_key_and_its_length() {
        let keys = vec!["sk-one".to_owned(), "sk-two".to_owned()];
        let body = format!("{{\"stream\": true, \"n\": \"{}\"}}", String::from_utf8_lossy(PLACEHOLDER));
        let mix = Mix { items: vec![item("a", 1.0, &body)], keys, seed: 0 };
        let mut out = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..50 {
            assert_eq!(mix.write(number, &mut out), 0);
            let text = String::from_utf8(out.clone()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
            assert!(head.contains("x-a: b\r\n"));
            assert!(body.contains(&format!("\"{number:08}\"")), "{body}");
            seen.extend(
                head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).map(str::to_owned),
            );
        }
        assert_eq!(seen.len(), 2);
        assert!(mix.items[0].stream);
    }
}

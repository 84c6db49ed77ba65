//! Recorded requests.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::chance::{Chance, Zipf};

/// How many experts are made up for recordings of a single model.
const DRAWN_EXPERTS: u32 = 150;

/// The seed of their popularity, and the file whose draws come first.
const DRAW_SEED: u32 = 7;
const DRAWN_FIRST: (&str, &str) = ("mooncake_conversation", "azure_llm2023_conv");

/// Requests in their order, each for an expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The file's name, without its endings.
    pub name: String,
    /// Whom each request is for: numbers from 0, in the order of appearance or of popularity.
    pub experts: Vec<u32>,
    /// How many experts there are.
    pub expert_count: usize,
    /// What the recording calls each; empty for experts that were made up.
    pub names: Vec<String>,
    /// When each came, in seconds, where the recording has a clock that means anything.
    pub times_s: Option<Vec<f64>>,
    /// Which conversation each belongs to, where the recording says so.
    pub sessions: Option<Vec<u64>>,
}

/// Why a recording could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line makes no sense.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// There is no request in it.
    #[error("{}: there are no requests; give JSON lines with `expert` and perhaps `t_s`, or a CSV file with a heading", .0.display())]
    Empty(PathBuf),
}

/// A line of a trace of one's own, of the gateway's access log, or a decision record.
#[derive(Deserialize)]
struct Line {
    /// The expert's name. A line of the gateway's has none where nobody answered.
    expert: Option<String>,
    /// When the request came, in seconds from any moment; all lines have it, or none.
    t_s: Option<f64>,
    /// Its conversation, or who sent it; all lines have it, or none.
    session: Option<String>,
    /// The same, as decision records have it: in milliseconds since 1970 UTC.
    time_ms: Option<u64>,
    /// The same, as the access log has it.
    time: Option<String>,
}

impl Line {
    /// When the request came, in seconds, and whether the gateway wrote the line: its lines are in the order in which
    /// requests ended.
    fn moment(&self) -> Result<(Option<f64>, bool), String> {
        let since = |time: std::time::SystemTime| {
            time.duration_since(std::time::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
        };
        match (self.t_s, self.time_ms, &self.time) {
            (Some(time), ..) if !time.is_finite() => Err("`t_s` must be a finite number".to_owned()),
            (Some(time), ..) => Ok((Some(time), false)),
            (None, Some(ms), _) => Ok((Some(ms as f64 / 1e3), true)),
            (None, None, Some(time)) => match humantime::parse_rfc3339(time) {
                Ok(time) => Ok((Some(since(time)), true)),
                Err(error) => Err(format!("`time` is {time:?}: {error}")),
            },
            (None, None, None) => Ok((None, false)),
        }
    }
}

impl Trace {
    /// Reads a recording, plain or gzip: JSON lines, or a CSV file of the layouts that `docs/tiers.md` names.
    ///
    /// # Errors
    /// The file and line, and what is wrong there.
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let text = read_text(path)?;
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name =
            [".gz", ".csv", ".jsonl"].iter().fold(file.as_str(), |name, end| name.trim_end_matches(end));
        if text.trim().is_empty() {
            return Err(TraceError::Empty(path.to_owned()));
        }
        let rows =
            if text.trim_start().starts_with('{') { json_lines(path, &text)? } else { table(path, &text)? };
        if rows.experts.is_empty() {
            return Err(TraceError::Empty(path.to_owned()));
        }
        let expert_count = rows.experts.iter().max().map_or(0, |most| *most as usize + 1);
        let Rows { experts, names, times_s, sessions } = rows;
        Ok(Self { name: name.to_owned(), experts, expert_count, names, times_s, sessions })
    }

    /// A trace without a clock, for tests and for requests made up.
    pub fn from_order(name: &str, experts: Vec<u32>) -> Self {
        let expert_count = experts.iter().max().map_or(0, |most| *most as usize + 1);
        Self {
            name: name.to_owned(),
            experts,
            expert_count,
            names: Vec::new(),
            times_s: None,
            sessions: None,
        }
    }
}

struct Rows {
    experts: Vec<u32>,
    names: Vec<String>,
    times_s: Option<Vec<f64>>,
    sessions: Option<Vec<u64>>,
}

fn read_text(path: &Path) -> Result<String, TraceError> {
    let fail = |error| TraceError::Io { path: path.to_owned(), error };
    let bytes = std::fs::read(path).map_err(fail)?;
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).map_err(fail)?;
    } else {
        bytes.as_slice().read_to_string(&mut text).map_err(fail)?;
    }
    Ok(text)
}

/// Numbers names in the order of their appearance.
#[derive(Default)]
struct Names(HashMap<String, u32>);

impl Names {
    fn number(&mut self, name: String) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(name).or_insert(next)
    }

    /// By number.
    fn list(self) -> Vec<String> {
        let mut names: Vec<(String, u32)> = self.0.into_iter().collect();
        names.sort_by_key(|(_, number)| *number);
        names.into_iter().map(|(name, _)| name).collect()
    }
}

fn json_lines(path: &Path, text: &str) -> Result<Rows, TraceError> {
    let fail = |line: usize, problem: String| TraceError::Line { path: path.to_owned(), line, problem };
    let (mut names, mut experts, mut times) = (Names::default(), Vec::new(), Vec::new());
    let (mut conversations, mut sessions) = (Names::default(), Vec::new());
    let mut logged = Vec::new();
    for (line, row) in (1..).zip(text.lines()).filter(|(_, row)| !row.trim().is_empty()) {
        let row: Line = serde_json::from_str(row).map_err(|error| fail(line, error.to_string()))?;
        let (time, of_gateway) = row.moment().map_err(|problem| fail(line, problem))?;
        let expert = match row.expert {
            Some(expert) => expert,
            None if of_gateway => continue,
            None => return Err(fail(line, "missing field `expert`".to_owned())),
        };
        if of_gateway {
            logged.push((time.unwrap_or_default(), expert));
            continue;
        }
        experts.push(names.number(expert));
        if let Some(time) = time {
            if times.last().is_some_and(|last| time < *last) {
                return Err(fail(line, "`t_s` must be a number that never goes back".to_owned()));
            }
            times.push(time);
        }
        if let Some(session) = row.session {
            sessions.push(u64::from(conversations.number(session)));
        }
        for (key, given) in [("t_s", times.len()), ("session", sessions.len())] {
            if given > 0 && given != experts.len() {
                let problem = format!("some lines have `{key}` and others do not; give it to all or to none");
                return Err(fail(line, problem));
            }
        }
    }
    if !logged.is_empty() && !experts.is_empty() {
        return Err(fail(1, "some lines are the gateway's and others are not; give one kind".to_owned()));
    }
    logged.sort_by(|a: &(f64, String), b| a.0.total_cmp(&b.0));
    for (time, expert) in logged {
        experts.push(names.number(expert));
        times.push(time);
    }
    let (times_s, sessions) =
        ((!times.is_empty()).then_some(times), (!sessions.is_empty()).then_some(sessions));
    Ok(Rows { experts, names: names.list(), times_s, sessions })
}

fn table(path: &Path, text: &str) -> Result<Rows, TraceError> {
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| heading.iter().position(|column| *column == name);
    let (model, loras, adapter, runs) =
        (column("model"), column("loras"), column("adapter"), column("hash_runs"));
    let rows: Vec<Vec<&str>> =
        lines.filter(|line| !line.is_empty()).map(|line| line.split(',').collect()).collect();
    for (line, row) in (2..).zip(&rows) {
        if row.len() != heading.len() {
            let problem = format!("{} columns, where the heading has {}", row.len(), heading.len());
            return Err(TraceError::Line { path: path.to_owned(), line, problem });
        }
    }
    let numbered =
        |key: &dyn Fn(&[&str]) -> String, keep: &dyn Fn(&[&str]) -> bool| -> (Vec<u32>, Vec<String>) {
            let mut names = Names::default();
            let numbers = rows.iter().filter(|row| keep(row)).map(|row| names.number(key(row))).collect();
            (numbers, names.list())
        };
    let mut sessions = None;
    // The clock of the image requests is left out: it belongs to a work that takes tens of seconds.
    let images = column("n_images").is_some();
    let times = column("t_s").filter(|_| !images);
    let (experts, names) = match (model, loras, adapter, runs) {
        (Some(model), Some(loras), ..) => {
            numbered(&|row| format!("{}|{}", row[model], row[loras]), &|_| true)
        }
        // A request whose model nobody recorded is left out.
        (Some(model), ..) => {
            let keep = |row: &[&str]| !row[model].is_empty();
            sessions = column("session").map(|session| numbered(&|row| row[session].to_owned(), &keep).0);
            numbered(&|row| row[model].to_owned(), &keep)
        }
        (_, _, Some(adapter), _) => numbered(&|row| row[adapter].to_owned(), &|_| true),
        (.., Some(runs)) => {
            let (numbers, _) = numbered(&|row| conversation(row[runs]), &|_| true);
            let count = numbers.iter().max().map_or(0, |most| *most as usize + 1);
            let drawn = draw(path, count)?;
            sessions = Some(numbers.clone());
            (numbers.iter().map(|number| drawn[*number as usize]).collect(), Vec::new())
        }
        _ if column("in_tokens").is_some() => (draw(path, rows.len())?, Vec::new()),
        _ => {
            let problem = format!("no column says which expert a request is for: {}", heading.join(","));
            return Err(TraceError::Line { path: path.to_owned(), line: 1, problem });
        }
    };
    let times_s = match times {
        Some(column) if experts.len() == rows.len() => {
            let read = |(line, row): (usize, &Vec<&str>)| {
                let fail = |_| TraceError::Line {
                    path: path.to_owned(),
                    line,
                    problem: format!("`t_s` is `{}` and must be a number", row[column]),
                };
                row[column].parse::<f64>().map_err(fail)
            };
            Some((2..).zip(&rows).map(read).collect::<Result<_, _>>()?)
        }
        _ => None,
    };
    let sessions = sessions.map(|numbers| numbers.into_iter().map(u64::from).collect());
    Ok(Rows { experts, names, times_s, sessions })
}

/// What a conversation begins with: the first block after the one that all share.
fn conversation(runs: &str) -> String {
    let mut runs = runs.split(' ').map(|run| run.split_once('-').map_or((run, None), |(a, b)| (a, Some(b))));
    let first = runs.next().unwrap_or(("", None));
    match (runs.next(), first) {
        (None, (begin, Some(_))) => {
            begin.parse().map_or_else(|_| begin.to_owned(), |b: u64| (b + 1).to_string())
        }
        (Some((begin, _)), _) | (None, (begin, None)) => begin.to_owned(),
    }
}

/// Experts for requests or conversations of a single model, by Zipf's law. Both recordings draw from one sequence.
fn draw(path: &Path, count: usize) -> Result<Vec<u32>, TraceError> {
    let (mut chance, law) = (Chance::new(DRAW_SEED), Zipf::new(DRAWN_EXPERTS));
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(rest) = file.strip_prefix(DRAWN_FIRST.0) {
        let first = path.with_file_name(format!("{}{rest}", DRAWN_FIRST.1));
        if first.exists() {
            let rows = read_text(&first)?.lines().skip(1).filter(|line| !line.is_empty()).count();
            for _ in 0..rows {
                chance.even();
            }
        }
    }
    Ok((0..count).map(|_| law.draw(&mut chance)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Trace, TraceError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Trace::read(&path)
    }

    #[test]
    fn json_lines_are_a_trace() {
        let trace = read(
            "mine.jsonl",
            "{\"expert\":\"a\",\"t_s\":1}\n{\"expert\":\"b\",\"t_s\":1.5}\n\n{\"expert\":\"a\",\"t_s\":2}\n",
        );
        let trace = trace.unwrap();
        assert_eq!(trace.name, "mine");
        assert_eq!(trace.experts, [0, 1, 0]);
        assert_eq!(trace.names, ["a", "b"]);
        assert_eq!(trace.times_s, Some(vec![1.0, 1.5, 2.0]));
    }

    #[test]
    fn what_the_gateway_wrote_is_a_trace() {
        // In the order in which requests ended; nobody answered the second.
        let log = "{\"time\":\"2026-01-02T03:04:07.500Z\",\"expert\":\"b\"}\n{\"time\":\"2026-01-02T03:04:06Z\"}\n\
            {\"time\":\"2026-01-02T03:04:05Z\",\"expert\":\"a\",\"log\":\"access\"}\n";
        let log = read("access.jsonl", log).unwrap();
        let times = log.times_s.unwrap();
        assert_eq!((log.experts, times[1] - times[0]), (vec![0, 1], 2.5));
        let records = "{\"time_ms\":7000,\"expert\":\"b\"}\n{\"time_ms\":5000,\"expert\":null}\n{\"time_ms\":6000,\"expert\":\"a\"}\n";
        let records = read("records.jsonl", records).unwrap();
        assert_eq!((records.experts, records.times_s), (vec![0, 1], Some(vec![6.0, 7.0])));
        let mixed = "{\"expert\":\"a\"}\n{\"time_ms\":7000,\"expert\":\"b\"}\n";
        assert!(read("x.jsonl", mixed).unwrap_err().to_string().contains("give one kind"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            ("{\"expert\":\"a\"}\n{\"model\":\"b\"}\n", "line 2: missing field `expert`"),
            ("{\"expert\":\"a\",\"t_s\":2}\n{\"expert\":\"b\",\"t_s\":1}\n", "line 2: `t_s` must be"),
            ("{\"expert\":\"a\"}\n{\"expert\":\"b\",\"t_s\":1}\n", "line 2: some lines have"),
            (
                "{\"expert\":\"a\",\"session\":\"s\"}\n{\"expert\":\"b\"}\n",
                "line 2: some lines have `session`",
            ),
            ("", "there are no requests"),
            ("t_s,model\n1,2\n3\n", "line 3: 1 columns, where the heading has 2"),
            ("t_s,model\nx,2\n", "line 2: `t_s` is `x`"),
            ("a,b\n1,2\n", "line 1: no column says"),
        ] {
            let error = read("t.csv", text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn tables_are_read_by_their_columns() {
        let combos = read("x.csv", "seq,model,loras,n_images\n0,1,,1\n1,1,2+3,1\n2,1,,4\n").unwrap();
        assert_eq!((combos.experts, combos.times_s), (vec![0, 1, 0], None));
        let users = read("x.csv", "model,session\n4,x\n,y\n4,z\n5,x\n").unwrap();
        assert_eq!((users.experts, users.sessions), (vec![0, 0, 1], Some(vec![0, 1, 0])));
        let clients = read("x.csv", "t_s,model,base\n0.5,7,0\n1.0,9,0\n").unwrap();
        assert_eq!((clients.experts, clients.times_s), (vec![0, 1], Some(vec![0.5, 1.0])));
        assert_eq!(["0-13", "0 14-27", "5", "0 3"].map(conversation), ["1", "14", "5", "3"]);
    }
}

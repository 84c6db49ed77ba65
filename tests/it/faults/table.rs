//! The tables of `docs/failures.md`, which say what is to happen.

use anyhow::{Context, Result, bail, ensure};
use e2e::repository;

/// What the client gets of an expert that fails, when nobody else answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A whole answer, or a stream with `[DONE]`.
    Answer,
    /// The expert's own error.
    Passed(u16),
    /// An error of the gateway's.
    Error(u16, String),
    /// An answer that begins and breaks off.
    Cut,
    /// The bytes as they came, though they are no valid answer.
    AsItCame,
}

/// What an endpoint's circuit breaker makes of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Failure,
    Nothing,
    /// The endpoint is left alone for as long as it asked.
    Rest,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// As the mock takes it, or `refused`.
    pub(super) fault: String,
    /// What the record says: a try's status or error, or the end of the body.
    pub(super) recorded: String,
    pub(super) whole: End,
    pub(super) stream: End,
    pub(super) tries: usize,
    /// Whether somebody else is asked.
    pub(super) others: bool,
    pub(super) verdict: Verdict,
    /// Whether it happens after the head of the answer.
    pub(super) late: bool,
}

impl Row {
    pub(super) fn end(&self, streamed: bool) -> &End {
        if streamed { &self.stream } else { &self.whole }
    }

    pub(super) fn is_refusal(&self) -> bool {
        self.fault == "refused"
    }
}

/// All lines of both tables.
pub(super) fn rows() -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(repository().join("docs/failures.md"))?;
    let mut rows = Vec::new();
    let mut late = false;
    for line in text.lines() {
        late |= line.starts_with("## After the first byte");
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let Some(fault) = cells.get(1).and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`')) else {
            continue;
        };
        let row = match cells[..] {
            [_, _, recorded, client, tries, others, breaker] if !late => Row {
                fault: fault.to_owned(),
                recorded: recorded.to_owned(),
                whole: end(client)?,
                stream: end(client)?,
                tries: tries.parse().with_context(|| line.to_owned())?,
                others: yes(others)?,
                verdict: verdict(breaker)?,
                late,
            },
            [_, _, whole, stream, recorded, breaker] if late => Row {
                fault: fault.to_owned(),
                recorded: recorded.to_owned(),
                whole: end(whole)?,
                stream: end(stream)?,
                tries: 1,
                others: false,
                verdict: verdict(breaker)?,
                late,
            },
            _ => bail!("a line that is not understood: {line}"),
        };
        rows.push(row);
    }
    ensure!(rows.len() >= 20, "only {} lines were found", rows.len());
    Ok(rows)
}

fn end(cell: &str) -> Result<End> {
    let mut quoted = cell.split('`').skip(1).step_by(2);
    Ok(match (quoted.next(), quoted.next()) {
        (Some(status), Some(code)) => End::Error(status.parse()?, code.to_owned()),
        (Some(status), None) => End::Passed(status.parse()?),
        _ => match cell {
            "the answer" | "is the answer" => End::Answer,
            "breaks off" | "ends with an error event" => End::Cut,
            "passes as it came" => End::AsItCame,
            _ => bail!("`{cell}` is not understood"),
        },
    })
}

fn yes(cell: &str) -> Result<bool> {
    match cell {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => bail!("`{cell}` is neither yes nor no"),
    }
}

fn verdict(cell: &str) -> Result<Verdict> {
    Ok(match cell {
        "failure" => Verdict::Failure,
        "rest" => Verdict::Rest,
        "no" => Verdict::Nothing,
        _ => bail!("`{cell}` is not understood"),
    })
}

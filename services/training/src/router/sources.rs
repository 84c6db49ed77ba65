//! How good a head is on prompts of origins that it was not trained on: each source is left out in its turn.
//!
//! Rows of one source have its format, and a head learns the format. Accuracy on other rows of the same sources
//! says little about prompts from elsewhere; accuracy on a source that was left out says more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::plan::Material;
use super::{Progress, TrainError};
use crate::calibrate;
use crate::data::Row;
use crate::features::{Example, Tables};
use crate::head::{Head, Lessons, Penalty};
use crate::metrics::{Answer, SourceEval};
use crate::publish::hex;

/// Which rows are left out, and where results are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaveOut {
    /// Groups of sources, each left out once; 0 makes a group of every source.
    pub groups: usize,
    /// Whether the penalties are chosen by it, from a small grid around those that were given.
    pub select: bool,
    /// A file that keeps the result of each fit, so that an interrupted run goes on where it was.
    pub checkpoint: Option<PathBuf>,
}

/// Accuracy on sources that were left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeaveOutReport {
    /// Mean over the sources of their accuracy.
    pub mean: f64,
    /// Each source that was left out once.
    pub per_source: BTreeMap<String, SourceEval>,
    /// Sources that stayed in, because a category has no other.
    pub kept: Vec<String>,
    /// For each source, the mean loss of its rows at each of a row of temperatures ([`calibrate::losses`]).
    #[serde(skip)]
    pub(super) losses: Vec<Vec<f64>>,
    /// Weight of half the squared lexical weights.
    pub lexical_penalty: f32,
    /// Weight of half the squared embedding weights.
    pub embedding_penalty: f32,
    /// Mean of every point of the grid that was tried: lexical penalty, embedding penalty, mean.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<(f32, f32, f64)>,
}

impl fmt::Display for LeaveOutReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self.per_source.len();
        write!(f, "left out     {sources} sources, mean accuracy {:.1} %", 100.0 * self.mean)?;
        if !self.kept.is_empty() {
            write!(f, " ({} stay in: a category has no other)", self.kept.len())?;
        }
        for (lexical, embedding, mean) in &self.tried {
            let chosen = [self.lexical_penalty, self.embedding_penalty].map(f32::to_bits);
            let mark = if [*lexical, *embedding].map(f32::to_bits) == chosen { "*" } else { " " };
            write!(
                f,
                "\n   {mark} penalties {lexical:.1e} lexical, {embedding:.1e} embedding: {:.2} %",
                100.0 * mean
            )?;
        }
        for (name, eval) in &self.per_source {
            write!(f, "\n     {name:<60} {:>6} rows {:>6.1} %", eval.rows, 100.0 * eval.accuracy)?;
        }
        Ok(())
    }
}

/// All that the fits are made of.
pub(super) struct Trial<'a> {
    pub material: &'a Material,
    pub train: &'a [Example],
    pub valid: &'a [Example],
    pub weights: &'a [f32],
    pub tables: Tables,
    pub penalty: Penalty,
    pub max_steps: usize,
}

/// Factors of the given penalties that are tried: stronger ones, since they are what other origins need.
const GRID: [(f32, f32); 5] = [(1.0, 1.0), (3.0, 1.0), (1.0, 3.0), (3.0, 3.0), (0.3, 1.0)];

impl Trial<'_> {
    /// Leaves each group out, for every point of the grid that is to be tried; the best point's report.
    pub(super) fn run(
        &self,
        how: &LeaveOut,
        progress: &mut impl FnMut(Progress),
    ) -> Result<LeaveOutReport, TrainError> {
        let (groups, kept) = groups(self.material, how.groups);
        if groups.is_empty() {
            let problem = "no source can be left out: rows name none, or no category has two".to_owned();
            return Err(TrainError::Rows { path: PathBuf::from("leave_one_source_out"), problem });
        }
        let grid = if how.select { &GRID[..] } else { &GRID[..1] };
        let mut results = Results::open(how.checkpoint.as_deref())?;
        let total = grid.len() * groups.len();
        let mut best: Option<LeaveOutReport> = None;
        let mut tried = Vec::new();
        for (point, (lexical, embedding)) in grid.iter().enumerate() {
            let penalty = Penalty {
                lexical: self.penalty.lexical * lexical,
                embedding: self.penalty.embedding * embedding,
                ..self.penalty
            };
            let mut per_source = BTreeMap::new();
            for (index, group) in groups.iter().enumerate() {
                progress(Progress::LeavingOut { done: point * groups.len() + index, total });
                per_source.extend(results.get(self.key(penalty, group), || self.without(penalty, group))?);
            }
            let losses = per_source.values().map(|kept: &Kept| kept.losses.clone()).collect();
            let per_source: BTreeMap<_, _> =
                per_source.into_iter().map(|(source, kept)| (source, kept.eval())).collect();
            let sum: f64 = per_source.values().map(|eval| eval.accuracy).sum();
            let mean = sum / per_source.len().max(1) as f64;
            tried.push((penalty.lexical, penalty.embedding, mean));
            if best.as_ref().is_none_or(|best| mean > best.mean) {
                best = Some(LeaveOutReport {
                    mean,
                    per_source,
                    losses,
                    kept: kept.clone(),
                    lexical_penalty: penalty.lexical,
                    embedding_penalty: penalty.embedding,
                    tried: Vec::new(),
                });
            }
        }
        let best = best.ok_or(TrainError::Option { field: "select", problem: "has nothing to try" })?;
        Ok(LeaveOutReport { tried: if how.select { tried } else { Vec::new() }, ..best })
    }

    /// Fits without a group and measures on it.
    fn without(&self, penalty: Penalty, group: &BTreeSet<String>) -> BTreeMap<String, Kept> {
        let outside = |row: &Row| row.source.as_ref().is_none_or(|source| !group.contains(source));
        let pick = |rows: &[Row], examples: &[Example], labels: &[usize]| -> (Vec<Example>, Vec<usize>) {
            let all = rows.iter().zip(examples).zip(labels);
            all.filter(|((row, _), _)| outside(row)).map(|((_, e), l)| (e.clone(), *l)).unzip()
        };
        let material = self.material;
        let (train, labels) = pick(&material.train, self.train, &material.train_labels);
        let (valid, valid_labels) = pick(&material.valid, self.valid, &material.valid_labels);
        let rows = material.train.iter().zip(self.weights);
        let weights: Vec<f32> = rows.filter(|(row, _)| outside(row)).map(|(_, weight)| *weight).collect();
        let head = Head::fit(
            Lessons { weights: &weights, ..Lessons::new(&train, &labels) },
            (&valid, &valid_labels),
            (material.categories.len(), self.tables),
            penalty,
            self.max_steps,
            |_| ControlFlow::Continue(()),
        );
        let mut found: BTreeMap<String, (Vec<Vec<f32>>, Vec<usize>)> = BTreeMap::new();
        for ((row, example), &label) in material.train.iter().zip(self.train).zip(&material.train_labels) {
            let Some(source) = row.source.as_ref().filter(|source| group.contains(*source)) else { continue };
            let (logits, labels) = found.entry(source.clone()).or_default();
            logits.push(head.logits(example));
            labels.push(label);
        }
        found.into_iter().map(|(source, (logits, labels))| (source, Kept::of(&logits, &labels))).collect()
    }

    /// Names a fit by everything that its result depends on.
    fn key(&self, penalty: Penalty, group: &BTreeSet<String>) -> String {
        let mut digest = Sha256::new();
        digest.update(format!("{penalty:?} {} {:?} {group:?}", self.max_steps, self.tables));
        for (rows, examples, labels) in [
            (&self.material.train, self.train, &self.material.train_labels),
            (&self.material.valid, self.valid, &self.material.valid_labels),
        ] {
            for ((row, example), label) in rows.iter().zip(examples).zip(labels) {
                digest.update(row.text.as_bytes());
                digest.update(label.to_le_bytes());
                digest.update(row.source.as_deref().unwrap_or_default().as_bytes());
                example.embedding.iter().for_each(|x| digest.update(x.to_le_bytes()));
            }
        }
        self.weights.iter().for_each(|weight| digest.update(weight.to_le_bytes()));
        hex(&digest.finalize())
    }
}

/// Sources in groups of about as many rows, such that every category keeps a source whichever group is left out;
/// and the sources for which there is no such group.
fn groups(material: &Material, wanted: usize) -> (Vec<BTreeSet<String>>, Vec<String>) {
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    let mut categories: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut sources: BTreeMap<usize, BTreeSet<Option<&str>>> = BTreeMap::new();
    for (row, &label) in material.train.iter().zip(&material.train_labels) {
        sources.entry(label).or_default().insert(row.source.as_deref());
        if let Some(source) = &row.source {
            *rows.entry(source).or_default() += 1;
            categories.entry(source).or_default().insert(label);
        }
    }
    let mut order: Vec<(&str, usize)> = rows.into_iter().collect();
    order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let count = if wanted == 0 { order.len() } else { wanted };
    let mut groups: Vec<(usize, BTreeSet<String>)> = vec![(0, BTreeSet::new()); count];
    let mut kept = Vec::new();
    for (source, rows) in order {
        let mut smallest: Vec<usize> = (0..groups.len()).collect();
        smallest.sort_by_key(|&at| groups[at].0);
        let fits = |at: &usize| {
            categories[source].iter().all(|label| {
                let stays = |s: Option<&str>| s.is_none_or(|s| s != source && !groups[*at].1.contains(s));
                sources[label].iter().any(|s| stays(*s))
            })
        };
        match smallest.into_iter().find(fits) {
            Some(at) => {
                groups[at].0 += rows;
                groups[at].1.insert(source.to_owned());
            }
            None => kept.push(source.to_owned()),
        }
    }
    let groups = groups.into_iter().map(|(_, group)| group).filter(|group| !group.is_empty());
    (groups.collect(), kept)
}

/// Results by fit, in memory and in a file.
struct Results<'a> {
    file: Option<&'a Path>,
    known: BTreeMap<String, BTreeMap<String, Kept>>,
}

/// One source's result as the file holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    rows: usize,
    accuracy: f64,
    losses: Vec<f64>,
}

impl Kept {
    fn of(logits: &[Vec<f32>], labels: &[usize]) -> Self {
        let right = logits.iter().zip(labels).filter(|(logits, label)| Answer::best(**label, logits).right());
        let accuracy = right.count() as f64 / labels.len().max(1) as f64;
        Self { rows: labels.len(), accuracy, losses: calibrate::losses(logits, labels) }
    }

    fn eval(&self) -> SourceEval {
        SourceEval { rows: self.rows, accuracy: self.accuracy }
    }
}

impl<'a> Results<'a> {
    fn open(file: Option<&'a Path>) -> Result<Self, TrainError> {
        let Some(path) = file else { return Ok(Self { file, known: BTreeMap::new() }) };
        let failed = |problem: String| TrainError::File {
            path: path.to_owned(),
            problem: format!("{problem}; remove the file or give another one to keep results in"),
        };
        let known = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        Ok(Self { file, known })
    }

    fn get(
        &mut self,
        key: String,
        compute: impl FnOnce() -> BTreeMap<String, Kept>,
    ) -> Result<BTreeMap<String, Kept>, TrainError> {
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let found = compute();
        self.known.insert(key, found.clone());
        if let Some(path) = self.file {
            let failed = |problem: String| TrainError::File { path: path.to_owned(), problem };
            let bytes = serde_json::to_vec(&self.known).map_err(|error| failed(error.to_string()))?;
            // Written beside and renamed: an interrupted run leaves the old file.
            let beside = path.with_extension("partial");
            std::fs::write(&beside, bytes)
                .and_then(|()| std::fs::rename(&beside, path))
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;

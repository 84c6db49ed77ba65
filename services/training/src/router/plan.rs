//! What a training run is made of: rows, labels and counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use encoder::Manifest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{TrainError, TrainOptions, file_name};
use crate::data::{self, Row};
use crate::features::Tables;
use crate::head::Penalty;
use crate::onnx::OnnxError;
use crate::publish::hex;
use crate::quantise::{BIGRAM, UNIGRAM};

/// Rows and their labels.
#[derive(Debug)]
pub(super) struct Material {
    /// Names, in the order of the logits.
    pub categories: Vec<String>,
    pub train: Vec<Row>,
    pub train_labels: Vec<usize>,
    pub valid: Vec<Row>,
    pub valid_labels: Vec<usize>,
    pub test: Option<Vec<Row>>,
    /// Training rows that were left out, by licence.
    pub left_out: BTreeMap<String, usize>,
    /// Licences that rows may have; everything where there is no list.
    pub licences: Option<BTreeSet<String>>,
}

/// Reads the files and makes labels of their categories.
pub(super) fn material(options: &TrainOptions, base: &Manifest) -> Result<Material, TrainError> {
    let licences = options.licences.as_deref().map(licence_list).transpose()?;
    let permitted = |row: &Row| match &licences {
        Some(list) => row.license.as_deref().is_some_and(|licence| list.contains(licence)),
        None => true,
    };
    let (mut train, refused): (Vec<Row>, Vec<Row>) =
        data::read(&options.train)?.into_iter().partition(permitted);
    let left_out = data::count(refused.iter().map(|row| row.license.as_deref()));
    let valid = if let Some(path) = &options.valid {
        data::read(path)?.into_iter().filter(permitted).collect()
    } else {
        let (valid, rest) = train.into_iter().partition(|row| set_aside(&row.text));
        train = rest;
        valid
    };
    let rows = |problem: String| TrainError::Rows { path: options.train.clone(), problem };
    if train.is_empty() {
        return Err(rows("no rows are left to train on; check the list of licences".to_owned()));
    }
    let found: BTreeSet<&str> = train.iter().map(|row| row.category.as_str()).collect();
    if found.len() < 2 {
        return Err(rows("all rows have one category; at least two are needed".to_owned()));
    }
    let categories = order(&found, base);
    let place: BTreeMap<&str, usize> =
        categories.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let labels = |rows: &[Row], path: &Path| -> Result<Vec<usize>, TrainError> {
        let label = |row: &Row| {
            place.get(row.category.as_str()).copied().ok_or_else(|| TrainError::Rows {
                path: path.to_owned(),
                problem: format!("the category `{}` has no training row", row.category),
            })
        };
        rows.iter().map(label).collect()
    };
    let train_labels = labels(&train, &options.train)?;
    let valid_labels = labels(&valid, options.valid.as_deref().unwrap_or(&options.train))?;
    let test = match &options.test {
        Some(path) => {
            let rows = data::read(path)?;
            labels(&rows, path)?;
            Some(rows)
        }
        None => None,
    };
    Ok(Material { categories, train, train_labels, valid, valid_labels, test, left_out, licences })
}

/// The bundle's own order where the categories are the same, else by name.
fn order(found: &BTreeSet<&str>, base: &Manifest) -> Vec<String> {
    let known: BTreeSet<&str> = base.categories.iter().map(|c| c.name.as_str()).collect();
    if known == *found {
        base.categories.iter().map(|c| c.name.clone()).collect()
    } else {
        found.iter().map(|&name| name.to_owned()).collect()
    }
}

/// A tenth of all texts, always the same.
fn set_aside(text: &str) -> bool {
    Sha256::digest(text).first().is_some_and(|byte| byte % 10 == 0)
}

fn licence_list(path: &Path) -> Result<BTreeSet<String>, TrainError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| TrainError::File { path: path.to_owned(), problem: error.to_string() })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Heights of the lexical tables in a graph.
pub(super) fn tables(initializers: &BTreeMap<String, Vec<u64>>) -> Result<Tables, OnnxError> {
    let height = |name: &str| {
        let dims = initializers.get(name).map(Vec::as_slice);
        match dims {
            Some(&[rows, _]) if rows > 0 => Ok(usize::try_from(rows).unwrap_or(usize::MAX)),
            _ => Err(OnnxError::Missing { name: name.to_owned() }),
        }
    };
    Ok(Tables { unigrams: height(UNIGRAM)?, bigrams: height(BIGRAM)? })
}

/// Weights of the training rows, 1 on average: n^-`sources` for n rows with the row's category and source, times
/// n^-`categories` for n rows with its category.
pub(super) fn weights(material: &Material, sources: f32, categories: f32) -> Vec<f32> {
    if sources == 0.0 && categories == 0.0 {
        return Vec::new();
    }
    let mut pairs: BTreeMap<(usize, Option<&str>), f32> = BTreeMap::new();
    let mut labels: BTreeMap<usize, f32> = BTreeMap::new();
    let rows = || material.train.iter().zip(&material.train_labels);
    for (row, &label) in rows() {
        *pairs.entry((label, row.source.as_deref())).or_default() += 1.0;
        *labels.entry(label).or_default() += 1.0;
    }
    let weight = |(row, &label): (&Row, &usize)| {
        pairs[&(label, row.source.as_deref())].powf(-sources) * labels[&label].powf(-categories)
    };
    let weights: Vec<f32> = rows().map(weight).collect();
    let mean = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / weights.len().max(1) as f64;
    weights.iter().map(|w| (f64::from(*w) / mean) as f32).collect()
}

/// What the manifest says about the training.
pub(super) fn provenance(
    options: &TrainOptions,
    material: &Material,
    penalty: Penalty,
    steps: usize,
) -> Result<Value, TrainError> {
    let file = |path: &Path| -> Result<Value, TrainError> {
        let bytes = std::fs::read(path)
            .map_err(|error| TrainError::File { path: path.to_owned(), problem: error.to_string() })?;
        Ok(json!({"name": file_name(path), "sha256": hex(&Sha256::digest(bytes))}))
    };
    let train = || material.train.iter();
    Ok(json!({
        "command": "guildhall train router",
        "data": file(&options.train)?,
        "validation_data": options.valid.as_deref().map(file).transpose()?,
        "rows": material.train.len(),
        "rows_by_category": data::count(train().map(|row| Some(row.category.as_str()))),
        "rows_by_licence": data::count(train().map(|row| row.license.as_deref())),
        "rows_by_source": data::count(train().map(|row| row.source.as_deref())),
        "left_out_by_licence": material.left_out,
        "allowed_licences": material.licences,
        "validation_rows": material.valid.len(),
        "settings": {
            "lexical_penalty": plain(penalty.lexical),
            "embedding_penalty": plain(penalty.embedding),
            "first_stage_penalty": plain(options.first_stage_penalty),
            "min_rows": options.min_rows,
            "label_smoothing": plain(options.label_smoothing),
            "source_balance": plain(options.source_balance),
            "category_balance": plain(options.category_balance),
            "first_stage": options.first_stage,
            "first_stage_loss": options.first_stage_loss,
            "distillation": plain(options.distillation),
            "max_steps": options.max_steps,
            "steps": steps,
        },
    }))
}

/// A setting as it was written: widened, 3e-4 would become 0.0003000000142.
fn plain(setting: f32) -> Value {
    json!(setting.to_string().parse::<f64>().unwrap_or(f64::from(setting)))
}

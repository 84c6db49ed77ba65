//! Adapters as signs: a copy of a LoRA adapter that is a seventeenth of its size in 16 bits, with loss.
//!
//! Of each tensor the share `density` of the entries with the largest magnitudes is kept, as a sign each, times one
//! scale for the tensor. That is the idea of `ComPEFT` (Yadav, Choshen, Raffel and Bansal, arXiv:2311.13171). There the
//! scale is the entries' standard deviation times a factor that a validation set chooses; here it is the mean magnitude
//! of what is kept, which makes the squared error least and needs no data.
//!
//! A copy is a safetensors file. Under each compressed tensor's name it has the bytes of [`Layout`] as `U8`, and under
//! the others' names the tensors as they were. `__metadata__` has one entry, `guildhall.ternary`, a JSON object:
//!
//! | name | meaning |
//! |---|---|
//! | `sha256` | of this object's text after this member, and for each tensor in the order of their names: name, a zero byte, type and shape as JSON, a zero byte, bytes |
//! | `version` | 1 |
//! | `density`, `error` | what was asked for, and the relative error of all compressed tensors together |
//! | `source_sha256`, `source_bytes` | of the file that was compressed |
//! | `tensors` | for each compressed tensor: `dtype`, `shape`, `scale`, `kept`, `layout` (with `k`), `error` |
//! | `metadata` | the source's `__metadata__` |
//! | `config` | the text of the adapter's `adapter_config.json`, where there was one |

mod float;
pub mod folder;
mod packed;
mod tensor;

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{SafeTensors, TensorView};
use safetensors::{Dtype, SafeTensorError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use float::Float;
pub use packed::Layout;
use tensor::Loss;

const KEY: &str = "guildhall.ternary";
const VERSION: u32 = 1;

/// What the digest stands between, in the description's text.
const DIGEST: (&str, &str) = (r#"{"sha256":""#, r#"","#);

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The share of each tensor's entries that is kept, above 0 and at most 1.
    pub density: f64,
    /// Which tensors are compressed.
    pub tensors: Which,
}

/// Which tensors are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The two factors of each LoRA update. What else an adapter may have, such as magnitudes of `DoRA` or whole layers,
    /// is no update that may lose its small entries.
    Lora,
    /// All that are floating-point numbers, for a file of differences to a base model.
    All,
}

/// Why something cannot be compressed or expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TernaryError {
    /// What kind of thing went wrong.
    pub kind: TernaryErrorKind,
    /// What, where, and what to do about it.
    pub message: String,
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernaryErrorKind {
    /// What was given is not what this is for.
    Unfit,
    /// A copy is not as it was written.
    Damaged,
    /// There is no space left on a disk.
    Full,
    /// A file cannot be read or written.
    Io,
}

impl TernaryError {
    fn unfit(message: impl Into<String>) -> Self {
        Self { kind: TernaryErrorKind::Unfit, message: message.into() }
    }

    fn damaged(message: impl std::fmt::Display) -> Self {
        let message =
            format!("the copy is damaged: {message}; make it again with `guildhall adapter compress`");
        Self { kind: TernaryErrorKind::Damaged, message }
    }
}

/// A copy, described. Errors are Frobenius norms of the difference by those of the source, measured when the copy was
/// made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Bytes of the file that was compressed.
    pub bytes_before: u64,
    /// Bytes of the copy.
    pub bytes_after: u64,
    /// `bytes_before` by `bytes_after`.
    pub ratio: f64,
    /// The share of the entries that was to be kept.
    pub density: f64,
    /// The relative error of all compressed tensors together.
    pub error: f64,
    /// The mean of their relative errors.
    pub mean_error: f64,
    /// The compressed tensor with the largest relative error, where there is one.
    pub worst: Option<String>,
    /// Its relative error.
    pub worst_error: f64,
    /// The SHA-256 of the file that was compressed, in hexadecimal digits.
    pub source_sha256: String,
    /// Whether the copy has the adapter's configuration.
    pub has_config: bool,
    /// The tensors, by name.
    pub tensors: BTreeMap<String, TensorReport>,
}

/// A tensor of a copy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorReport {
    /// How it was compressed; none where it is kept as it was.
    #[serde(flatten)]
    pub packed: Option<PackedTensor>,
    /// Its bytes in the copy.
    pub bytes: u64,
}

/// A compressed tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackedTensor {
    /// Its type.
    pub dtype: Float,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The magnitude of every kept entry.
    pub scale: f64,
    /// How many entries are kept.
    pub kept: usize,
    /// How they are written.
    #[serde(flatten)]
    pub layout: Layout,
    /// Its relative error.
    pub error: f64,
}

/// An adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its weights, a safetensors file.
    pub weights: Vec<u8>,
    /// The text of its `adapter_config.json`.
    pub config: Option<String>,
}

/// What `__metadata__` says of a copy.
#[derive(Serialize, Deserialize)]
struct Description {
    /// First, because the digest is of the text after it.
    sha256: String,
    version: u32,
    density: f64,
    error: f64,
    source_sha256: String,
    source_bytes: u64,
    tensors: BTreeMap<String, PackedTensor>,
    metadata: BTreeMap<String, String>,
    config: Option<String>,
}

/// Makes a copy. The same adapter and options give the same bytes.
///
/// # Errors
/// [`TernaryErrorKind::Unfit`] where the weights are no safetensors file, have no tensor to compress, or one that is not
/// finite, or where the density is not above 0 and at most 1.
pub fn compress(source: &Adapter, options: Options) -> Result<Vec<u8>, TernaryError> {
    let density = options.density;
    if !(density > 0.0 && density <= 1.0) {
        return Err(TernaryError::unfit(format!("density {density} must be above 0 and at most 1")));
    }
    let (_, header) = SafeTensors::read_metadata(&source.weights).map_err(|error| unreadable(&error))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    if metadata.contains_key(KEY) {
        return Err(TernaryError::unfit(
            "is a compressed copy already; compress the adapter that it was made of",
        ));
    }
    let tensors = sorted(&source.weights)?;
    let mut described = BTreeMap::new();
    let mut packed = BTreeMap::new();
    let mut loss = Loss::default();
    for (name, view) in &tensors {
        let float = Float::of(view.dtype()).filter(|_| options.tensors == Which::All || is_factor(name));
        let Some(dtype) = float else { continue };
        let tensor = tensor::compress(dtype, view.data(), density)
            .map_err(|problem| TernaryError::unfit(format!("tensor {name}: {problem}")))?;
        loss.add(tensor.loss);
        described.insert(
            name.clone(),
            PackedTensor {
                dtype,
                shape: view.shape().to_vec(),
                scale: tensor.scale.into(),
                kept: tensor.kept,
                layout: tensor.layout,
                error: tensor.loss.relative(),
            },
        );
        packed.insert(name.clone(), tensor.bytes);
    }
    if described.is_empty() {
        return Err(TernaryError::unfit(match options.tensors {
            Which::Lora => {
                "has no tensor lora_A, lora_B or lora_embedding_ of a floating-point type; to compress a file of \
                 differences to a base model, say --tensors all"
            }
            Which::All => "has no tensor of the types F32, F16 and BF16",
        }));
    }
    let mut description = Description {
        sha256: String::new(),
        version: VERSION,
        density,
        error: loss.relative(),
        source_sha256: hex(&Sha256::digest(&source.weights)),
        source_bytes: source.weights.len() as u64,
        tensors: described,
        metadata: metadata.into_iter().collect(),
        config: source.config.clone(),
    };
    let mut views = BTreeMap::new();
    for (name, view) in tensors {
        let view = match packed.get(&name) {
            Some(bytes) => {
                TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map_err(|e| unreadable(&e))?
            }
            None => view,
        };
        views.insert(name, view);
    }
    let text = |description: &Description| {
        serde_json::to_string(description).map_err(|error| TernaryError::unfit(error.to_string()))
    };
    description.sha256 = digest(&after_digest(&text(&description)?), &views);
    let entry = HashMap::from([(KEY.to_owned(), text(&description)?)]);
    safetensors::serialize(views, Some(entry)).map_err(|error| unreadable(&error))
}

/// Makes an adapter of a copy: tensors, types, shapes and metadata as they were, the compressed ones with loss.
///
/// # Errors
/// [`TernaryErrorKind::Damaged`] where the copy is not as it was written, [`TernaryErrorKind::Unfit`] where it is none, or
/// one of another version.
pub fn expand(copy: &[u8]) -> Result<Adapter, TernaryError> {
    let (description, views) = read(copy)?;
    let mut whole = BTreeMap::new();
    for (name, packed) in &description.tensors {
        let wrong = |problem: &str| TernaryError::damaged(format!("tensor {name} {problem}"));
        let view = views.get(name).ok_or_else(|| wrong("is missing"))?;
        let entries = packed.shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side));
        let entries = entries.ok_or_else(|| wrong("has more entries than memory can hold"))?;
        let scale = packed.scale as f32;
        let bytes = tensor::expand(packed.dtype, entries, scale, packed.kept, packed.layout, view.data());
        whole.insert(name, bytes.map_err(|problem| wrong(&format!(": {problem}")))?);
    }
    let mut tensors = BTreeMap::new();
    for (name, view) in views {
        let view = match (whole.get(&name), description.tensors.get(&name)) {
            (Some(bytes), Some(packed)) => {
                let view = TensorView::new(packed.dtype.dtype(), packed.shape.clone(), bytes);
                view.map_err(TernaryError::damaged)?
            }
            _ => view,
        };
        tensors.insert(name, view);
    }
    let metadata = (!description.metadata.is_empty()).then(|| description.metadata.into_iter().collect());
    let weights = safetensors::serialize(tensors, metadata).map_err(TernaryError::damaged)?;
    Ok(Adapter { weights, config: description.config })
}

/// Describes a copy.
///
/// # Errors
/// As [`expand`].
pub fn inspect(copy: &[u8]) -> Result<Report, TernaryError> {
    let (description, views) = read(copy)?;
    let of = |name: String, view: TensorView<'_>| {
        let packed = description.tensors.get(&name).cloned();
        (name, TensorReport { packed, bytes: view.data().len() as u64 })
    };
    let packed = description.tensors.values();
    let worst = description.tensors.iter().max_by(|a, b| a.1.error.total_cmp(&b.1.error));
    Ok(Report {
        bytes_before: description.source_bytes,
        bytes_after: copy.len() as u64,
        ratio: description.source_bytes as f64 / copy.len() as f64,
        density: description.density,
        error: description.error,
        mean_error: packed.clone().map(|one| one.error).sum::<f64>() / packed.len().max(1) as f64,
        worst: worst.map(|(name, _)| name.clone()),
        worst_error: worst.map_or(0.0, |(_, packed)| packed.error),
        source_sha256: description.source_sha256.clone(),
        has_config: description.config.is_some(),
        tensors: views.into_iter().map(|(name, view)| of(name, view)).collect(),
    })
}

/// Reads a copy, and checks that it is as it was written.
fn read(copy: &[u8]) -> Result<(Description, BTreeMap<String, TensorView<'_>>), TernaryError> {
    let (_, header) = SafeTensors::read_metadata(copy).map_err(|error| unreadable(&error))?;
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
    let text = text.ok_or_else(|| {
        TernaryError::unfit(format!(
            "is a safetensors file and no compressed copy: its metadata has no {KEY}; make one with `guildhall adapter \
             compress`"
        ))
    })?;
    let views = sorted(copy)?;
    let version =
        serde_json::from_str(text).map(|of: Versioned| of.version).map_err(TernaryError::damaged)?;
    if version != VERSION {
        return Err(TernaryError::unfit(format!(
            "is a copy of version {version}, and this program reads version {VERSION}; use the one that made it"
        )));
    }
    let description: Description = serde_json::from_str(text).map_err(TernaryError::damaged)?;
    if description.sha256 != digest(&after_digest(text), &views) {
        return Err(TernaryError::damaged("its SHA-256 is another"));
    }
    Ok((description, views))
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// A description's text without the digest.
fn after_digest(text: &str) -> String {
    let (begin, end) = DIGEST;
    let after = text.strip_prefix(begin).and_then(|text| text.split_once(end));
    after.map_or(text, |(_, after)| after).to_owned()
}

fn digest(text: &str, tensors: &BTreeMap<String, TensorView<'_>>) -> String {
    let mut hash = Sha256::new_with_prefix(text);
    for (name, view) in tensors {
        let shape = serde_json::json!([view.dtype(), view.shape()]);
        hash.update(format!("{name}\0{shape}\0"));
        hash.update(view.data());
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn sorted(file: &[u8]) -> Result<BTreeMap<String, TensorView<'_>>, TernaryError> {
    let tensors = SafeTensors::deserialize(file).map_err(|error| unreadable(&error))?;
    Ok(tensors.tensors().into_iter().collect())
}

fn unreadable(error: &SafeTensorError) -> TernaryError {
    TernaryError::unfit(format!(
        "is no whole safetensors file: {error}; get it again, or save it in that format"
    ))
}

/// Whether a tensor is a factor of a LoRA update, by the names that PEFT gives.
fn is_factor(name: &str) -> bool {
    ["lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests;

//! Embeddings kept between runs: computing them is nearly all the time that training takes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

type Key = [u8; 32];

/// Vectors of one width are one tensor of the file, named by it, beside one of their keys.
const KEYS: &str = "keys.";
const VECTORS: &str = "vectors.";

/// Embeddings by text, for one encoder.
pub(crate) struct Cache {
    encoder: String,
    entries: HashMap<Key, Arc<[f32]>>,
}

impl Cache {
    /// An empty cache for the encoder that is named by the hash of its graph.
    pub(crate) fn new(encoder: &str) -> Self {
        Self { encoder: encoder.to_owned(), entries: HashMap::new() }
    }

    /// Adds the entries of a file that [`Cache::bytes`] made. Entries of another encoder do no harm: their
    /// keys are never asked for.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn load(&mut self, bytes: &[u8]) -> Result<(), String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let tensor = |name: String, dtype| match file.tensor(&name) {
            Ok(tensor) if tensor.dtype() == dtype => Ok(tensor),
            Ok(_) => Err(format!("`{name}` has the wrong type")),
            Err(error) => Err(error.to_string()),
        };
        let widths: Vec<&str> = file.names().into_iter().filter_map(|n| n.strip_prefix(VECTORS)).collect();
        if widths.is_empty() && !file.is_empty() {
            return Err(format!("no tensor is named {VECTORS}WIDTH"));
        }
        for width in widths {
            let keys = tensor(format!("{KEYS}{width}"), Dtype::U8)?;
            let values = tensor(format!("{VECTORS}{width}"), Dtype::F32)?;
            let (&[rows, 32], &[count, width]) = (keys.shape(), values.shape()) else {
                return Err("the tensors have the wrong shapes".to_owned());
            };
            if rows != count || width == 0 {
                return Err("the tensors have the wrong shapes".to_owned());
            }
            let values = values.data().chunks_exact(4 * width);
            for (key, value) in keys.data().as_chunks::<32>().0.iter().zip(values) {
                let value = value.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                self.entries.insert(*key, value);
            }
        }
        Ok(())
    }

    /// The whole cache as a safetensors file; the same entries give the same bytes.
    ///
    /// # Errors
    /// What cannot be written.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, String> {
        let mut widths: BTreeMap<usize, BTreeMap<&Key, &[f32]>> = BTreeMap::new();
        for (key, value) in &self.entries {
            widths.entry(value.len()).or_default().insert(key, value);
        }
        let parts = widths.iter().map(|(width, entries)| {
            let keys: Vec<u8> = entries.keys().flat_map(|key| key.iter().copied()).collect();
            let values: Vec<u8> =
                entries.values().flat_map(|v| v.iter().flat_map(|x| x.to_le_bytes())).collect();
            (*width, entries.len(), keys, values)
        });
        let parts: Vec<_> = parts.collect();
        let view = |dtype, shape, data| TensorView::new(dtype, shape, data).map_err(|e| e.to_string());
        let mut tensors = Vec::new();
        for (width, rows, keys, values) in &parts {
            tensors.push((format!("{KEYS}{width}"), view(Dtype::U8, vec![*rows, 32], keys)?));
            tensors.push((format!("{VECTORS}{width}"), view(Dtype::F32, vec![*rows, *width], values)?));
        }
        safetensors::serialize(tensors, None).map_err(|error| error.to_string())
    }

    /// Writes the cache to a file. Written beside and renamed: an interrupted run leaves the old file.
    ///
    /// # Errors
    /// What cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), String> {
        let beside = path.with_extension("partial");
        std::fs::write(&beside, self.bytes()?)
            .and_then(|()| std::fs::rename(&beside, path))
            .map_err(|error| error.to_string())
    }

    pub(crate) fn get(&self, text: &str) -> Option<Arc<[f32]>> {
        self.entries.get(&self.key(text)).cloned()
    }

    pub(crate) fn insert(&mut self, text: &str, embedding: Arc<[f32]>) {
        let key = self.key(text);
        self.entries.insert(key, embedding);
    }

    fn key(&self, text: &str) -> Key {
        Sha256::new().chain_update(&self.encoder).chain_update([0]).chain_update(text).finalize().into()
    }
}

/// Reads a cache file if there is one.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(path: &Path, encoder: &str) -> Result<Cache, String> {
    let mut cache = Cache::new(encoder);
    match std::fs::read(path) {
        Ok(bytes) => cache.load(&bytes)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_comes_back_for_the_same_encoder_only() {
        let mut cache = Cache::new("one");
        cache.insert("a", Arc::new([1.0, -2.5]));
        cache.insert("b", Arc::new([0.0, 4.0]));
        cache.insert("wider", Arc::new([0.5, 4.0, -1.0]));
        let bytes = cache.bytes().unwrap();
        let mut back = Cache::new("one");
        back.load(&bytes).unwrap();
        assert_eq!(back.get("a").as_deref(), Some(&[1.0, -2.5][..]));
        assert_eq!(back.get("wider").as_deref(), Some(&[0.5, 4.0, -1.0][..]));
        assert_eq!(back.get("c"), None);
        assert_eq!(back.bytes().unwrap(), bytes);
        let mut other = Cache::new("two");
        other.load(&bytes).unwrap();
        assert_eq!(other.get("a"), None);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_a_missing_one_is_not() {
        assert!(Cache::new("x").load(b"nonsense").is_err());
        assert!(read(Path::new("/nowhere/cache.safetensors"), "x").unwrap().get("a").is_none());
    }
}

//! Just enough of the ONNX file format to exchange initializers of a graph.
//!
//! An ONNX file is a protobuf message. Only the path from the model to its graph's initializers is
//! understood here; every other byte is copied as it is, so that nothing this module does not know about
//! can be lost or reordered.

use std::collections::BTreeMap;

/// `ModelProto.graph`, `GraphProto.initializer` and the fields of `TensorProto` that a tensor is made of.
const MODEL_GRAPH: u64 = 7;
const GRAPH_INITIALIZER: u64 = 5;
const TENSOR_DIMS: u64 = 1;
const TENSOR_DATA_TYPE: u64 = 2;
const TENSOR_NAME: u64 = 8;
const TENSOR_RAW_DATA: u64 = 9;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

/// Why a file is not a model that can be changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// The bytes end within a field, or do not follow the format.
    #[error("not an ONNX model: malformed at byte {at}")]
    Malformed {
        /// Offset of the field at fault.
        at: usize,
    },
    /// There is no initializer of this name.
    #[error("the graph has no initializer `{name}`; start from a bundle whose graph has a category head")]
    Missing {
        /// The name looked for.
        name: String,
    },
}

/// Element type of a tensor, by ONNX's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Float = 1,
    Int8 = 3,
}

/// A tensor to put into a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub dims: Vec<u64>,
    pub element: Element,
    /// Little-endian elements, row by row.
    pub raw: Vec<u8>,
}

impl Tensor {
    pub(crate) fn float(dims: &[usize], values: &[f32]) -> Self {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dims: wide(dims), element: Element::Float, raw }
    }

    pub(crate) fn int8(dims: &[usize], values: &[i8]) -> Self {
        let raw = values.iter().map(|v| v.to_le_bytes()[0]).collect();
        Self { dims: wide(dims), element: Element::Int8, raw }
    }

    fn encode(&self, name: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw.len() + name.len() + 64);
        for dim in &self.dims {
            put_varint(&mut out, TENSOR_DIMS << 3 | VARINT);
            put_varint(&mut out, *dim);
        }
        put_varint(&mut out, TENSOR_DATA_TYPE << 3 | VARINT);
        put_varint(&mut out, self.element as u64);
        put_bytes(&mut out, TENSOR_NAME, name.as_bytes());
        put_bytes(&mut out, TENSOR_RAW_DATA, &self.raw);
        out
    }
}

fn wide(dims: &[usize]) -> Vec<u64> {
    dims.iter().map(|&d| d as u64).collect()
}

/// Dimensions of every initializer of a model's graph, by name.
///
/// # Errors
/// [`OnnxError::Malformed`].
pub(crate) fn initializers(model: &[u8]) -> Result<BTreeMap<String, Vec<u64>>, OnnxError> {
    let mut found = BTreeMap::new();
    for field in Fields::of(model, 0) {
        let field = field?;
        let Some(graph) = field.message(MODEL_GRAPH) else { continue };
        for inner in Fields::of(graph, field.content_at) {
            let inner = inner?;
            if let Some(tensor) = inner.message(GRAPH_INITIALIZER) {
                let (name, dims) = describe(tensor, inner.content_at)?;
                found.insert(name, dims);
            }
        }
    }
    Ok(found)
}

/// The same model with some initializers exchanged; all other bytes stay as they are.
///
/// # Errors
/// [`OnnxError`] if the model is malformed or a tensor's name is not among its initializers.
pub(crate) fn replace(model: &[u8], tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, OnnxError> {
    let mut replaced: Vec<&str> = Vec::new();
    let mut out = Vec::with_capacity(model.len());
    for field in Fields::of(model, 0) {
        let field = field?;
        let Some(graph) = field.message(MODEL_GRAPH) else {
            out.extend_from_slice(field.whole);
            continue;
        };
        let mut body = Vec::with_capacity(graph.len());
        for inner in Fields::of(graph, field.content_at) {
            let inner = inner?;
            let named = match inner.message(GRAPH_INITIALIZER) {
                Some(tensor) => tensors.get_key_value(&describe(tensor, inner.content_at)?.0),
                None => None,
            };
            match named {
                Some((name, tensor)) => {
                    replaced.push(name);
                    put_bytes(&mut body, GRAPH_INITIALIZER, &tensor.encode(name));
                }
                None => body.extend_from_slice(inner.whole),
            }
        }
        put_bytes(&mut out, MODEL_GRAPH, &body);
    }
    match tensors.keys().find(|name| !replaced.contains(&name.as_str())) {
        Some(name) => Err(OnnxError::Missing { name: name.clone() }),
        None => Ok(out),
    }
}

/// Name and dimensions of a `TensorProto`.
fn describe(tensor: &[u8], at: usize) -> Result<(String, Vec<u64>), OnnxError> {
    let mut name = String::new();
    let mut dims = Vec::new();
    for field in Fields::of(tensor, at) {
        let field = field?;
        match (field.number, field.content) {
            (TENSOR_NAME, Content::Bytes(bytes)) => {
                name = String::from_utf8_lossy(bytes).into_owned();
            }
            (TENSOR_DIMS, Content::Number(dim)) => dims.push(dim),
            (TENSOR_DIMS, Content::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    let (dim, rest) =
                        take_varint(packed).ok_or(OnnxError::Malformed { at: field.content_at })?;
                    dims.push(dim);
                    packed = rest;
                }
            }
            _ => {}
        }
    }
    Ok((name, dims))
}

#[derive(Clone, Copy)]
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// One field of a message.
struct Field<'a> {
    number: u64,
    content: Content<'a>,
    /// The field with its tag, as it stands in the file.
    whole: &'a [u8],
    /// Offset of the content in the file, for messages.
    content_at: usize,
}

impl<'a> Field<'a> {
    fn message(&self, number: u64) -> Option<&'a [u8]> {
        match self.content {
            Content::Bytes(bytes) if self.number == number => Some(bytes),
            _ => None,
        }
    }
}

/// The fields of a message, in order. After an error there are no more.
struct Fields<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn of(message: &'a [u8], at: usize) -> Self {
        Self { rest: message, at }
    }

    fn parse(&self) -> Option<Field<'a>> {
        let (tag, rest) = take_varint(self.rest)?;
        let (content, after) = match tag & 7 {
            VARINT => take_varint(rest).map(|(number, after)| (Content::Number(number), after))?,
            FIXED64 => (Content::Fixed, rest.get(8..)?),
            FIXED32 => (Content::Fixed, rest.get(4..)?),
            LENGTH_DELIMITED => {
                let (length, body) = take_varint(rest)?;
                let (bytes, after) = body.split_at_checked(usize::try_from(length).ok()?)?;
                (Content::Bytes(bytes), after)
            }
            _ => return None,
        };
        let taken = self.rest.len() - after.len();
        let inside = if let Content::Bytes(bytes) = content { bytes.len() } else { 0 };
        Some(Field {
            number: tag >> 3,
            content,
            whole: &self.rest[..taken],
            content_at: self.at + taken - inside,
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, OnnxError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        if let Some(field) = self.parse() {
            self.rest = &self.rest[field.whole.len()..];
            self.at += field.whole.len();
            Some(Ok(field))
        } else {
            self.rest = &[];
            Some(Err(OnnxError::Malformed { at: self.at }))
        }
    }
}

/// A base-128 number and what follows it; `None` if it does not end or does not fit.
fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        if index == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | LENGTH_DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;

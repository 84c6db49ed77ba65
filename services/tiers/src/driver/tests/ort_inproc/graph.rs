//! The smallest ONNX models that hold weights, written field by field.

/// `y = x · w`, where `x` is `[n, side]` with `n` open and all of `w`, `[side, side]`, is `weight`.
pub(super) fn model(side: usize, weight: f32) -> Vec<u8> {
    let mut tensor = dims(side);
    number(&mut tensor, 2, 1);
    bytes(&mut tensor, 8, b"w");
    bytes(&mut tensor, 9, &weights(side, weight));
    wrap(side, &tensor)
}

/// The same with its weights in a file beside it.
pub(super) fn model_beside(side: usize, file: &str) -> Vec<u8> {
    let mut tensor = dims(side);
    number(&mut tensor, 2, 1);
    bytes(&mut tensor, 8, b"w");
    let mut entry = Vec::new();
    bytes(&mut entry, 1, b"location");
    bytes(&mut entry, 2, file.as_bytes());
    bytes(&mut tensor, 13, &entry);
    number(&mut tensor, 14, 1);
    wrap(side, &tensor)
}

/// What the weights are as bytes.
pub(super) fn weights(side: usize, weight: f32) -> Vec<u8> {
    std::iter::repeat_n(weight.to_le_bytes(), side * side).flatten().collect()
}

fn dims(side: usize) -> Vec<u8> {
    let mut tensor = Vec::new();
    number(&mut tensor, 1, side as u64);
    number(&mut tensor, 1, side as u64);
    tensor
}

fn wrap(side: usize, tensor: &[u8]) -> Vec<u8> {
    let mut node = Vec::new();
    bytes(&mut node, 1, b"x");
    bytes(&mut node, 1, b"w");
    bytes(&mut node, 2, b"y");
    bytes(&mut node, 4, b"MatMul");
    let mut graph = Vec::new();
    bytes(&mut graph, 1, &node);
    bytes(&mut graph, 2, b"g");
    bytes(&mut graph, 5, tensor);
    bytes(&mut graph, 11, &outlet("x", side));
    bytes(&mut graph, 12, &outlet("y", side));
    let mut opset = Vec::new();
    number(&mut opset, 2, 13);
    let mut model = Vec::new();
    number(&mut model, 1, 8);
    bytes(&mut model, 7, &graph);
    bytes(&mut model, 8, &opset);
    model
}

/// A float input or output, `[n, side]`.
fn outlet(name: &str, side: usize) -> Vec<u8> {
    let (mut open, mut fixed, mut shape) = (Vec::new(), Vec::new(), Vec::new());
    bytes(&mut open, 2, b"n");
    number(&mut fixed, 1, side as u64);
    bytes(&mut shape, 1, &open);
    bytes(&mut shape, 1, &fixed);
    let (mut tensor, mut kind, mut outlet) = (Vec::new(), Vec::new(), Vec::new());
    number(&mut tensor, 1, 1);
    bytes(&mut tensor, 2, &shape);
    bytes(&mut kind, 1, &tensor);
    bytes(&mut outlet, 1, name.as_bytes());
    bytes(&mut outlet, 2, &kind);
    outlet
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

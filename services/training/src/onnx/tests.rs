use proptest::prelude::*;

use super::*;

/// A model with fields before, between and after the initializers, one of them with packed dimensions.
fn model(tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let mut graph = Vec::new();
    put_bytes(&mut graph, 1, b"a node");
    for (name, tensor) in tensors {
        put_bytes(&mut graph, GRAPH_INITIALIZER, &tensor.encode(name));
        put_bytes(&mut graph, 2, b"between");
    }
    let mut packed = Vec::new();
    put_bytes(&mut packed, TENSOR_DIMS, &[2, 0x80, 0x01]);
    put_bytes(&mut packed, TENSOR_NAME, b"packed");
    put_bytes(&mut graph, GRAPH_INITIALIZER, &packed);
    put_bytes(&mut graph, 13, b"value info");
    let mut model = Vec::new();
    put_varint(&mut model, 1 << 3 | VARINT);
    put_varint(&mut model, 8);
    put_bytes(&mut model, 2, b"producer");
    put_bytes(&mut model, MODEL_GRAPH, &graph);
    put_varint(&mut model, 5 << 3 | FIXED32);
    model.extend_from_slice(&[1, 2, 3, 4]);
    put_varint(&mut model, 6 << 3 | FIXED64);
    model.extend_from_slice(&[0; 8]);
    model
}

fn only(name: &str, tensor: Tensor) -> BTreeMap<String, Tensor> {
    BTreeMap::from([(name.to_owned(), tensor)])
}

#[test]
fn an_exchanged_tensor_is_the_only_change() {
    let before =
        [("a", Tensor::float(&[2, 2], &[1.0, 2.0, 3.0, 4.0])), ("b", Tensor::int8(&[3], &[-1, 0, 1]))];
    let wide = Tensor::int8(&[300], &[7; 300]);
    let changed = replace(&model(&before), &only("b", wide.clone())).unwrap();
    assert_eq!(changed, model(&[before[0].clone(), ("b", wide)]));
    let dims = initializers(&changed).unwrap();
    assert_eq!(dims["a"], [2, 2]);
    assert_eq!(dims["b"], [300]);
    assert_eq!(dims["packed"], [2, 128]);
}

#[test]
fn a_name_that_is_not_there_is_an_error() {
    let model = model(&[("a", Tensor::float(&[1], &[0.5]))]);
    let error = replace(&model, &only("head.bias", Tensor::float(&[1], &[0.0]))).unwrap_err();
    assert_eq!(error, OnnxError::Missing { name: "head.bias".to_owned() });
}

#[test]
fn a_model_that_was_cut_off_is_an_error() {
    let model = model(&[("a", Tensor::float(&[1], &[0.5]))]);
    let cut = model.len() - 20;
    assert!(matches!(replace(&model[..cut], &BTreeMap::new()), Err(OnnxError::Malformed { .. })));
    assert!(matches!(initializers(&model[..cut]), Err(OnnxError::Malformed { .. })));
}

proptest! {
    #[test]
    fn numbers_come_back(value: u64) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        prop_assert_eq!(take_varint(&bytes), Some((value, &[][..])));
    }

    #[test]
    fn without_an_exchange_nothing_changes(names in prop::collection::btree_set("[a-z.]{1,12}", 0..5)) {
        let tensors: Vec<_> =
            names.iter().map(|n| (n.as_str(), Tensor::float(&[n.len()], &vec![0.25; n.len()]))).collect();
        let model = model(&tensors);
        prop_assert_eq!(replace(&model, &BTreeMap::new()).unwrap(), model);
    }

    #[test]
    fn exchanging_back_restores_every_byte(values in prop::collection::vec(-1.0_f32..1.0, 1..200)) {
        let original = Tensor::float(&[values.len()], &values);
        let model = model(&[("x", original.clone())]);
        let there = replace(&model, &only("x", Tensor::int8(&[1, 1], &[5]))).unwrap();
        prop_assert_eq!(replace(&there, &only("x", original)).unwrap(), model);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = initializers(&bytes);
        let _ = replace(&bytes, &BTreeMap::new());
    }
}

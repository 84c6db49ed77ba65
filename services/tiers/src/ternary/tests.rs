use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};

use super::float::Float;
use super::packed::{Layout, pack, unpack};
use super::*;

const ALL: Options = Options { density: 0.2, tensors: Which::All };

/// A file of one tensor.
fn file(name: &str, dtype: Dtype, shape: Vec<usize>, bytes: &[u8]) -> Vec<u8> {
    let view = TensorView::new(dtype, shape, bytes).unwrap();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize([(name, view)], Some(metadata)).unwrap()
}

fn adapter(weights: Vec<u8>) -> Adapter {
    Adapter { weights, config: Some("{\"r\": 8}".to_owned()) }
}

fn numbers(values: &[f32]) -> Adapter {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    adapter(file("x.lora_A.weight", Dtype::F32, vec![values.len()], &bytes))
}

/// Compresses and expands; the numbers of the only tensor.
fn around(source: &Adapter, options: Options) -> Vec<f32> {
    let back = expand(&compress(source, options).unwrap()).unwrap();
    let tensors = SafeTensors::deserialize(&back.weights).unwrap();
    Float::F32.decode(tensors.iter().next().unwrap().1.data())
}

/// Numbers whose logarithm is spread as adapters' are: some are far larger than most.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let one = (-12.0_f32..4.0, any::<bool>(), 0..10_u8);
    let number = |(log, negative, zero): (f32, bool, u8)| match (zero, negative) {
        (0, _) => 0.0,
        (_, true) => -log.exp2(),
        (_, false) => log.exp2(),
    };
    vec(one.prop_map(number), 1..400)
}

proptest! {
    #[test]
    fn what_is_kept_is_largest_and_has_its_sign(values in weights(), density in 0.001..=1.0_f64) {
        let source = numbers(&values);
        let options = Options { density, tensors: Which::Lora };
        let back = around(&source, options);
        let nonzero = values.iter().filter(|value| **value != 0.0).count();
        let kept: Vec<usize> = (0..values.len()).filter(|at| back[*at] != 0.0).collect();
        prop_assert_eq!(kept.len(), ((values.len() as f64 * density).ceil() as usize).min(nonzero));
        let least = kept.iter().map(|at| values[*at].abs()).fold(f32::MAX, f32::min);
        for (value, copy) in values.iter().zip(&back) {
            if *copy == 0.0 {
                prop_assert!(value.abs() <= least);
            } else {
                prop_assert_eq!(value.is_sign_negative(), copy.is_sign_negative());
            }
        }
    }

    #[test]
    fn no_other_scale_is_nearer(values in weights(), density in 0.001..=1.0_f64, other in 0.5..2.0_f64) {
        let back = around(&numbers(&values), Options { density, tensors: Which::Lora });
        let error = |factor: f64| -> f64 {
            let pairs = values.iter().zip(&back);
            pairs.map(|(value, copy)| (f64::from(*value) - factor * f64::from(*copy)).powi(2)).sum()
        };
        // The scale is rounded to 32 bits.
        prop_assert!(error(1.0) <= error(other) * (1.0 + 1e-6));
    }

    #[test]
    fn the_reported_error_is_the_real_one(values in weights()) {
        let source = numbers(&values);
        let copy = compress(&source, ALL).unwrap();
        let report = inspect(&copy).unwrap();
        let back = around(&source, ALL);
        let norm = |of: &dyn Fn(usize) -> f64| (0..values.len()).map(|at| of(at).powi(2)).sum::<f64>().sqrt();
        let whole = norm(&|at| f64::from(values[at]));
        let lost = norm(&|at| f64::from(values[at]) - f64::from(back[at]));
        let error = if whole > 0.0 { lost / whole } else { 0.0 };
        prop_assert!((report.error - error).abs() < 1e-9, "{} {error}", report.error);
        prop_assert!((report.worst_error - error).abs() < 1e-9);
        prop_assert_eq!(report.bytes_before, source.weights.len() as u64);
        prop_assert_eq!(report.bytes_after, copy.len() as u64);
    }

    #[test]
    fn a_copy_of_what_was_expanded_is_the_same(values in weights(), density in 0.001..=1.0_f64, bf16: bool) {
        let float = if bf16 { Float::Bf16 } else { Float::F16 };
        let bytes: Vec<u8> = values.iter().flat_map(|value| {
            let mut bytes = float.encode(value.abs());
            bytes[1] |= if *value < 0.0 { 0x80 } else { 0 };
            [bytes[0], bytes[1]]
        }).collect();
        let source = adapter(file("w", float.dtype(), vec![values.len(), 1], &bytes));
        let options = Options { density, tensors: Which::All };
        let once = expand(&compress(&source, options).unwrap()).unwrap();
        let twice = expand(&compress(&once, options).unwrap()).unwrap();
        prop_assert_eq!(&once, &twice);
        let tensors = SafeTensors::deserialize(&once.weights).unwrap();
        let view = tensors.tensor("w").unwrap();
        prop_assert_eq!((view.dtype(), view.shape()), (float.dtype(), &[values.len(), 1][..]));
    }

    #[test]
    fn signs_come_back_from_both_layouts(signs in vec(0..100_u8, 0..3000), rare in 1..100_u8) {
        let signs: Vec<i8> = signs.iter().map(|n| match *n {
            n if n >= rare => 0,
            n if n % 2 == 0 => 1,
            _ => -1,
        }).collect();
        let (layout, bytes) = pack(&signs);
        let kept = signs.iter().filter(|sign| **sign != 0).count();
        let mut back = vec![0; signs.len()];
        let keep = |at: usize, negative: bool| back[at] = if negative { -1 } else { 1 };
        unpack(layout, &bytes, signs.len(), kept, keep).unwrap();
        prop_assert_eq!(&back, &signs);
        let most = (signs.len() + kept).div_ceil(8);
        prop_assert!(bytes.len() <= most, "{layout:?} {} {most}", bytes.len());
    }

    #[test]
    fn a_changed_byte_is_noticed(values in weights(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut copy = compress(&numbers(&values), ALL).unwrap();
        // Blanks after the header mean nothing.
        let header = 8 + usize::try_from(u64::from_le_bytes(copy[..8].try_into().unwrap())).unwrap();
        let at = at.index(copy.len());
        prop_assume!(at >= header || copy[at..header].iter().any(|byte| *byte != b' '));
        copy[at] ^= 1 << bit;
        let result = expand(&copy);
        prop_assert!(result.is_err(), "byte {at} of {}, header {header}", copy.len());
    }

    #[test]
    fn a_cut_file_is_refused(values in weights(), at in any::<prop::sample::Index>()) {
        let copy = compress(&numbers(&values), ALL).unwrap();
        prop_assert!(expand(&copy[..at.index(copy.len())]).is_err());
    }

    #[test]
    fn nonsense_between_the_lines_is_refused_without_a_panic(
        bytes in vec(any::<u8>(), 0..64), entries in 0..600_usize, kept in 0..600_usize, k in 0..30_u32, bitmap: bool,
    ) {
        let layout = if bitmap { Layout::Bitmap } else { Layout::Rice { k } };
        let mut seen = 0;
        let keep = |at: usize, _| {
            assert!(at < entries);
            seen += 1;
        };
        if unpack(layout, &bytes, entries, kept, keep).is_ok() {
            prop_assert_eq!(seen, kept);
        }
    }
}

#[test]
fn a_small_tensor_by_hand() {
    let values = [0.1, -3.0, 0.0, 2.0, -0.2, 4.0, 0.3, 0.0, 0.1, -0.1];
    let copy = compress(&numbers(&values), Options { density: 0.3, tensors: Which::Lora }).unwrap();
    let report = inspect(&copy).unwrap();
    let packed = report.tensors["x.lora_A.weight"].packed.clone().unwrap();
    assert_eq!((packed.scale, packed.kept, packed.shape), (3.0, 3, vec![10]));
    assert!((report.error - (2.16_f64 / 29.16).sqrt()).abs() < 1e-6, "{}", report.error);
    let back = expand(&copy).unwrap();
    assert_eq!(back.config.as_deref(), Some("{\"r\": 8}"));
    let (_, header) = SafeTensors::read_metadata(&back.weights).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let expected = [0.0, -3.0, 0.0, 3.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(around(&numbers(&values), Options { density: 0.3, tensors: Which::Lora }), expected);
}

#[test]
fn of_equal_magnitudes_the_first_are_kept() {
    let back = around(&numbers(&[1.0, -1.0, 1.0, -1.0, 1.0]), Options { density: 0.4, tensors: Which::Lora });
    assert_eq!(back, [1.0, -1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn rare_entries_are_written_as_gaps_and_frequent_ones_as_a_map() {
    let every = |n: usize| (0..4000).map(|at| i8::from(at % n == 0)).collect::<Vec<_>>();
    let (layout, bytes) = pack(&every(100));
    assert!(matches!(layout, Layout::Rice { k: 5..=6 }), "{layout:?}");
    assert!(bytes.len() < 50, "{}", bytes.len());
    let (layout, bytes) = pack(&every(1));
    assert_eq!((layout, bytes.len()), (Layout::Bitmap, 1000));
}

#[test]
fn only_factors_are_compressed_and_the_rest_stays_as_it_is() {
    let one = 1.5_f32.to_le_bytes().repeat(64);
    let view = || TensorView::new(Dtype::F32, vec![64], &one).unwrap();
    let count = 7_u64.to_le_bytes();
    let names = ["q.lora_A.weight", "q.lora_B.weight", "q.lora_magnitude_vector", "norm.weight"];
    let tensors = names.into_iter().map(|name| (name, view()));
    let counter = ("count", TensorView::new(Dtype::U64, vec![1], &count).unwrap());
    let weights = safetensors::serialize(tensors.chain([counter]), None).unwrap();
    let source = Adapter { weights, config: None };
    let copy = compress(&source, Options { density: 0.2, tensors: Which::Lora }).unwrap();
    let report = inspect(&copy).unwrap();
    let packed = |name: &str| report.tensors[name].packed.is_some();
    assert_eq!(names.map(packed), [true, true, false, false]);
    let back = expand(&copy).unwrap();
    let tensors = SafeTensors::deserialize(&back.weights).unwrap();
    assert_eq!(tensors.tensor("norm.weight").unwrap().data(), one);
    assert_eq!(tensors.tensor("count").unwrap().data(), count);
    assert_eq!(back.weights.len(), source.weights.len());
    let all = inspect(&compress(&source, ALL).unwrap()).unwrap();
    assert_eq!(all.tensors.values().filter(|tensor| tensor.packed.is_some()).count(), 4);
}

/// Entries from a normal distribution, each divided by the root of another's mean square where there are `degrees`: few of
/// those make heavy tails (Student's distribution), as trained factors have them.
fn synthetic(degrees: u32) -> Vec<u8> {
    let mut state = 7_u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f64 + 0.5) / f64::from(1_u32 << 31)
    };
    let mut normal = move || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let mut one = || {
        let spread: f64 = (0..degrees).map(|_| normal().powi(2)).sum();
        let spread = if degrees == 0 { 1.0 } else { (spread / f64::from(degrees)).sqrt() };
        (0.01 * normal() / spread) as f32
    };
    (0..1024 * 16).flat_map(|_| ((one().to_bits() >> 16) as u16).to_le_bytes()).collect()
}

#[test]
fn what_synthetic_factors_lose() {
    println!("| entries | density | relative error | times smaller |\n|---|---|---|---|");
    for (name, degrees) in [("normal", 0), ("Student's t, 5", 5), ("Student's t, 3", 3)] {
        let source = adapter(file("q.lora_A.weight", Dtype::BF16, vec![1024, 16], &synthetic(degrees)));
        let mut before = f64::INFINITY;
        for density in [0.05, 0.1, 0.2, 0.3, 0.5] {
            let copy = compress(&source, Options { density, tensors: Which::Lora }).unwrap();
            let report = inspect(&copy).unwrap();
            let times = 2.0 * 1024.0 * 16.0 / report.tensors["q.lora_A.weight"].bytes as f64;
            println!("| {name} | {density} | {:.3} | {times:.1} |", report.error);
            if degrees == 0 {
                assert!(report.error < before, "a normal tensor loses less the more is kept, up to half");
            }
            before = report.error;
        }
    }
    // The share of a normal distribution's square that the largest fifth at its mean magnitude of 1.755 has, by tables.
    let normal = adapter(file("q.lora_A.weight", Dtype::BF16, vec![1024, 16], &synthetic(0)));
    let report =
        inspect(&compress(&normal, Options { density: 0.2, tensors: Which::Lora }).unwrap()).unwrap();
    assert!((report.error - 0.62).abs() < 0.01, "{}", report.error);
}

#[test]
fn the_same_adapter_gives_the_same_bytes() {
    let source = numbers(&[1.0, -2.0, 3.0, 0.5]);
    assert_eq!(compress(&source, ALL).unwrap(), compress(&source, ALL).unwrap());
}

#[test]
fn empty_and_untrained_tensors() {
    for values in [vec![], vec![0.0; 50]] {
        let source = numbers(&values);
        assert_eq!(around(&source, ALL), values);
        assert!(inspect(&compress(&source, ALL).unwrap()).unwrap().error.abs() < f64::EPSILON);
    }
}

#[test]
fn what_cannot_be_compressed_is_named() {
    let refused = |source: &Adapter, options: Options| {
        let error = compress(source, options).unwrap_err();
        assert_eq!(error.kind, TernaryErrorKind::Unfit);
        error.message
    };
    let message = refused(&numbers(&[1.0, f32::NAN]), ALL);
    assert!(message.contains("x.lora_A.weight: entry 1 is NaN"), "{message}");
    let delta = adapter(file("layer", Dtype::F32, vec![1], &[0, 0, 0, 0]));
    let message = refused(&delta, Options { density: 0.2, tensors: Which::Lora });
    assert!(message.contains("--tensors all"), "{message}");
    assert!(refused(&adapter(b"PK".to_vec()), ALL).contains("safetensors"));
    for density in [0.0, -1.0, 1.5, f64::NAN] {
        assert!(refused(&numbers(&[1.0]), Options { density, tensors: Which::All }).contains("density"));
    }
    let copy = compress(&numbers(&[1.0]), ALL).unwrap();
    assert!(refused(&adapter(copy), ALL).contains("already"));
}

#[test]
fn what_is_no_copy_and_what_is_a_later_one() {
    let error = expand(&numbers(&[1.0]).weights).unwrap_err();
    assert_eq!(error.kind, TernaryErrorKind::Unfit);
    assert!(error.message.contains("no compressed copy"), "{error}");
    let copy = compress(&numbers(&[1.0]), ALL).unwrap();
    let (from, to) = (br#"\"version\":1"#, br#"\"version\":2"#);
    let at = copy.windows(from.len()).position(|window| window == from).unwrap();
    let later = [&copy[..at], to, &copy[at + from.len()..]].concat();
    let error = expand(&later).unwrap_err();
    assert_eq!(error.kind, TernaryErrorKind::Unfit);
    assert!(error.message.contains("version 2"), "{error}");
}

#[test]
fn a_damaged_copy_says_so_and_what_helps() {
    let mut copy = compress(&numbers(&[1.0, 2.0, -3.0]), ALL).unwrap();
    *copy.last_mut().unwrap() ^= 1;
    let error = inspect(&copy).unwrap_err();
    assert_eq!(error.kind, TernaryErrorKind::Damaged);
    assert!(error.message.contains("SHA-256") && error.message.contains("adapter compress"), "{error}");
}

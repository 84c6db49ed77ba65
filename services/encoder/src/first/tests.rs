use proptest::prelude::*;

use super::*;

/// Weights of any shape and content.
fn weights() -> impl Strategy<Value = FirstStageWeights> {
    (1_usize..40, 2_usize..12, 1_usize..9).prop_flat_map(|(c, unigrams, bigrams)| {
        let table = move |rows: usize| {
            (prop::collection::vec(-127_i8..=127, rows * c), prop::collection::vec(0.001_f32..0.1, c))
                .prop_map(|(values, scale)| RoundedTable { values, scale })
        };
        (table(unigrams), table(bigrams), prop::collection::vec(-2.0_f32..2.0, c))
            .prop_map(|(unigram, bigram, bias)| FirstStageWeights { unigram, bigram, bias })
    })
}

/// The formula, word for word, in floating point.
fn by_definition(weights: &FirstStageWeights, ids: &[u32]) -> Vec<f64> {
    let c = weights.bias.len();
    let (u, b) = (weights.unigram.widen(), weights.bigram.widen());
    let lexicon = Lexicon { unigrams: u.len() / c, bigrams: b.len() / c };
    let share = 1.0 / ((2.0 * ids.len() as f64) - 1.0).max(1.0).sqrt();
    let logits: Vec<f64> = (0..c)
        .map(|k| {
            let tokens: f64 = ids.iter().map(|&id| f64::from(u[id as usize * c + k])).sum();
            let pairs: f64 = ids.windows(2).map(|p| f64::from(b[lexicon.pair(p[0], p[1]) * c + k])).sum();
            (tokens + pairs) * share + f64::from(weights.bias[k])
        })
        .collect();
    let peak = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|z| (z - peak).exp()).sum();
    logits.iter().map(|z| (z - peak).exp() / sum).collect()
}

proptest! {
    #[test]
    fn sums_of_rows_are_the_formula_and_survive_the_file(
        weights in weights(),
        picks in prop::collection::vec(0_usize..1000, 0..200),
    ) {
        let rows = weights.unigram.values.len() / weights.bias.len();
        let ids: Vec<u32> = picks.iter().map(|pick| (pick % rows) as u32).collect();
        let stage = FirstStage::new(&weights);
        let found = stage.probabilities(&ids);
        for (found, wanted) in found.iter().zip(by_definition(&weights, &ids)) {
            prop_assert!((f64::from(*found) - wanted).abs() < 1e-4, "{found} {wanted}");
        }
        let bytes = weights.to_bytes().unwrap();
        prop_assert_eq!(FirstStage::parse(&bytes, weights.bias.len()).unwrap(), stage);
    }
}

fn small() -> FirstStageWeights {
    let table = |rows| RoundedTable { values: [10, -10].repeat(rows), scale: vec![0.1; 2] };
    FirstStageWeights { unigram: table(3), bigram: table(2), bias: vec![0.0; 2] }
}

#[test]
fn a_temperature_moves_towards_evenness() {
    let sharp = FirstStage::new(&small()).probabilities(&[1, 2]);
    let mild = FirstStage::new(&small().tempered(4.0)).probabilities(&[1, 2]);
    assert!(sharp[0] > mild[0] && mild[0] > 0.5, "{sharp:?} {mild:?}");
    let odds = |p: &[f32]| (p[0] / p[1]).ln();
    assert!((odds(&sharp) / odds(&mild) - 4.0).abs() < 1e-3);
}

#[test]
fn an_id_without_a_row_counts_nothing() {
    let stage = FirstStage::new(&small());
    assert!(stage.probabilities(&[u32::MAX])[0] < stage.probabilities(&[1])[0]);
}

#[test]
fn a_file_that_is_not_one_is_refused() {
    assert!(FirstStage::parse(b"nonsense", 2).is_err());
    let error = FirstStage::parse(&small().to_bytes().unwrap(), 3).unwrap_err();
    assert!(error.contains("unigram") && error.contains("3 columns"), "{error}");
    let mut broken = small();
    broken.bias[1] = f32::NAN;
    let error = FirstStage::parse(&broken.to_bytes().unwrap(), 2).unwrap_err();
    assert!(error.contains("bias"), "{error}");
}

use super::*;
use crate::metrics::Answer;

const TABLES: Tables = Tables { unigrams: 12, bigrams: 5 };

fn tokens() -> StaticTokens {
    // Tokens 4 and 5 are frequent; 8 and 9 look like them and never occur in training.
    let vectors: Vec<Arc<[f32]>> = (0..12_u32)
        .map(|id| match id {
            4 | 8 => Arc::from([1.0, 0.0]),
            5 | 9 => Arc::from([0.0, 1.0]),
            _ => Arc::from([0.5, 0.5]),
        })
        .collect();
    let windows = [vec![1_u32, 4, 2], vec![1, 5, 2]];
    StaticTokens::new(&vectors, windows.iter().map(Vec::as_slice))
}

fn example(ids: &[u32]) -> Example {
    Example { ids: ids.to_vec(), embedding: Arc::from([]) }
}

fn penalty() -> Penalty {
    Penalty { lexical: 1e-3, embedding: 1e-4, min_examples: 1, smoothing: 0.0, stretch: 1.0 }
}

fn fitted() -> FittedFirst {
    let tokens = tokens();
    let rows: Vec<Example> = [[1, 4, 2], [1, 5, 2]].map(|ids| tokens.example(&example(&ids))).to_vec();
    let lessons = Lessons::new(&rows, &[0, 1]);
    let observe = |_: &FitStep| ControlFlow::Continue(());
    // Dear lexical weights: what can be said by the static vectors is.
    let penalty = Penalty { lexical: 10.0, embedding: 1e-9, ..penalty() };
    FittedFirst::fit(&tokens, lessons, (&rows, &[0, 1]), (2, TABLES), (penalty, 60), observe)
}

#[test]
fn a_token_that_training_never_saw_is_read_by_its_static_vector() {
    let stage = FirstStage::new(&fitted().weights);
    for (ids, wanted) in [([1, 4, 2], 0), ([1, 5, 2], 1), ([1, 8, 2], 0), ([1, 9, 2], 1)] {
        let p = stage.probabilities(&ids);
        assert!(p[wanted] > p[1 - wanted], "{ids:?}: {p:?}");
    }
}

#[test]
fn folding_changes_no_score() {
    let tokens = tokens();
    let head = Head {
        categories: 2,
        tables: TABLES,
        lexical: (0..34).map(|i| i as f32 / 17.0 - 1.0).collect(),
        embedding: vec![1.0, -2.0, 0.5, 3.0],
        bias: vec![0.25, -0.25],
    };
    let folded = tokens.fold(head.clone());
    for ids in [vec![1, 4, 9, 2], vec![1, 2], vec![1, 7, 7, 7, 3, 2]] {
        let plain = example(&ids);
        let (was, is) = (head.logits(&tokens.example(&plain)), folded.logits(&plain));
        assert!(was.iter().zip(&is).all(|(a, b)| (a - b).abs() < 1e-4), "{was:?} {is:?}");
    }
}

#[test]
fn the_threshold_is_the_lowest_that_loses_no_more_than_allowed() {
    let row = |confidence: f32, first: bool, second: bool| {
        let answer = |right: bool| Answer { label: 0, top: usize::from(!right), confidence };
        Staged { first: answer(first), second: answer(second) }
    };
    // From the surest on: no loss, a loss, a gain, a loss, a loss.
    let answers = [
        row(0.9, true, true),
        row(0.8, false, true),
        row(0.7, true, false),
        row(0.6, false, true),
        row(0.5, false, true),
    ];
    assert_eq!(threshold(&answers, 0.0).to_bits(), 0.7_f32.to_bits());
    assert_eq!(threshold(&answers, 0.2).to_bits(), 0.6_f32.to_bits());
    assert_eq!(threshold(&answers, 1.0).to_bits(), 0.5_f32.to_bits());
    // Rows of one confidence stand or fall together.
    let tied = [row(0.9, true, false), row(0.9, false, true), row(0.9, false, true)];
    assert_eq!(threshold(&tied, 0.0).to_bits(), 1.0_f32.to_bits());
    assert_eq!(threshold(&[], 0.0).to_bits(), 1.0_f32.to_bits());
}

#[test]
fn the_teachers_share_moves_the_target() {
    let tokens = tokens();
    let rows: Vec<Example> = [[1, 4, 2], [1, 5, 2]].map(|ids| tokens.example(&example(&ids))).to_vec();
    let fit = |share: f32| {
        let doubt = [vec![0.5, 0.5], vec![0.5, 0.5]];
        let lessons = Lessons { teacher: Some((&doubt, share)), ..Lessons::new(&rows, &[0, 1]) };
        let head = Head::fit(lessons, (&[], &[]), (2, TABLES), penalty(), 60, |_| ControlFlow::Continue(()));
        opinions(&head, &rows, 1.0)[0][0]
    };
    let (label, half, teacher) = (fit(0.0), fit(0.5), fit(1.0));
    assert!(
        label > half && (half - 0.75).abs() < 0.05 && (teacher - 0.5).abs() < 1e-3,
        "{label} {half} {teacher}"
    );
}

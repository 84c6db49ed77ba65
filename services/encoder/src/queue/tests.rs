use proptest::prelude::*;

use super::*;

#[test]
fn softmax_is_a_distribution_and_large_logits_do_not_overflow() {
    let p = softmax(&[1000.0, 1000.0, 0.0]).unwrap();
    assert_eq!(&*p, [0.5, 0.5, 0.0]);
    assert_eq!(softmax(&[3.0]).as_deref(), Some([1.0].as_slice()));
}

#[test]
fn what_is_not_a_finite_number_gives_no_distribution() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(softmax(&[0.0, bad]), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn softmax_sums_to_one_and_keeps_the_order(logits in prop::collection::vec(-50.0_f32..50.0, 1..40)) {
        let p = softmax(&logits).unwrap();
        prop_assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        for (a, b) in logits.iter().zip(&*p).zip(logits.iter().zip(&*p).skip(1)) {
            prop_assert!((a.0 < b.0) <= (a.1 <= b.1));
        }
    }

    #[test]
    fn padding_keeps_every_prompt_and_masks_the_rest(
        prompts in prop::collection::vec(prop::collection::vec(1_u32..1000, 1..20), 1..10),
    ) {
        let batch = Batch::pad(prompts.iter().map(Vec::as_slice));
        prop_assert_eq!(batch.rows, prompts.len());
        for (row, prompt) in prompts.iter().enumerate() {
            let at = row * batch.width..(row + 1) * batch.width;
            let (ids, mask) = (&batch.ids[at.clone()], &batch.mask[at]);
            for place in 0..batch.width {
                let expected = prompt.get(place).map_or((0, 0), |&id| (i64::from(id), 1));
                prop_assert_eq!((ids[place], mask[place]), expected);
            }
        }
    }
}

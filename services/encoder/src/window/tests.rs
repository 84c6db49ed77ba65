use std::path::Path;

use proptest::prelude::*;

use super::*;

fn windows() -> Windows {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/tokenizer.json");
    Windows::new(Tokenizer::from_file(tiny).unwrap()).unwrap()
}

fn routing(windows: &Windows, text: &str, max_tokens: usize) -> Tokenized {
    windows.routing(&Excerpt::of(text), max_tokens).unwrap()
}

fn id(windows: &Windows, token: &str) -> u32 {
    windows.tokenizer.token_to_id(token).unwrap()
}

#[test]
fn a_short_text_is_read_whole_between_special_tokens() {
    let windows = windows();
    let read = routing(&windows, "Sort the list!", 16);
    let expected = ["[CLS]", "sort", "the", "list", "!", "[SEP]"].map(|token| id(&windows, token));
    assert_eq!(read, Tokenized { ids: expected.into(), tokens: 4, truncated_tokens: 0, estimated: false });
}

#[test]
fn a_long_text_keeps_its_head_and_its_tail_and_the_head_gets_the_odd_one() {
    let windows = windows();
    let read = routing(&windows, "a b c d e f g h i j", 9);
    let expected = ["[CLS]", "a", "b", "c", "d", "h", "i", "j", "[SEP]"].map(|token| id(&windows, token));
    assert_eq!(read, Tokenized { ids: expected.into(), tokens: 10, truncated_tokens: 3, estimated: false });
}

#[test]
fn a_window_that_is_just_filled_is_not_truncated() {
    let windows = windows();
    let read = routing(&windows, "a b c d e f g", 9);
    assert_eq!((read.ids.len(), read.truncated_tokens), (9, 0));
    let read = routing(&windows, "a b c d e f g h", 9);
    assert_eq!((read.ids.len(), read.truncated_tokens), (9, 1));
}

#[test]
fn a_prompt_cannot_forge_special_tokens() {
    let windows = windows();
    let read = routing(&windows, "a [SEP] [CLS] [PAD] b", 64);
    let inside = &read.ids[1..read.ids.len() - 1];
    for special in ["[SEP]", "[CLS]", "[PAD]"] {
        assert!(!inside.contains(&id(&windows, special)), "{special}");
    }
}

#[test]
fn truncation_and_padding_of_the_tokenizer_file_are_not_obeyed() {
    let windows = windows();
    assert_eq!(routing(&windows, "a", 64).ids.len(), 3);
    assert_eq!(routing(&windows, &"a ".repeat(40), 64).tokens, 40);
}

#[test]
fn megabytes_are_cut_before_they_are_tokenised_and_counted_by_estimate() {
    let windows = windows();
    let text = format!("python {} hello", "say it ".repeat(600_000));
    let excerpt = Excerpt::of(&text);
    assert!(excerpt.len() <= 2 * WIDE_BYTES);
    let read = windows.routing(&excerpt, 16).unwrap();
    assert_eq!(read.ids.len(), 16);
    assert_eq!(read.ids[1], id(&windows, "python"));
    assert_eq!(read.ids[14], id(&windows, "hello"));
    assert!(read.estimated);
    let exact = 1_200_002_f64;
    assert!((f64::from(read.tokens) / exact - 1.0).abs() < 0.01, "{}", read.tokens);
    assert_eq!(read.truncated_tokens, read.tokens - 14);
}

#[test]
fn a_text_of_some_length_is_tokenised_at_its_ends_only() {
    let windows = windows();
    let exact = "say it ".repeat(EXACT_BYTES / 7);
    let read = routing(&windows, &exact, 16);
    assert_eq!((read.tokens as usize, read.estimated), (EXACT_BYTES / 7 * 2, false));
    let longer = exact.clone() + &exact;
    let read = routing(&windows, &longer, 16);
    assert!(read.estimated && read.ids.len() == 16);
    assert!((f64::from(read.tokens) / (EXACT_BYTES / 7 * 4) as f64 - 1.0).abs() < 0.01, "{}", read.tokens);
}

#[test]
fn where_the_ends_hold_too_few_tokens_more_is_read() {
    let windows = windows();
    let blank = " ".repeat(NARROW_BYTES + 100);
    let read = routing(&windows, &format!("{blank}say it now{blank}"), 16);
    let expected = ["[CLS]", "say", "it", "now", "[SEP]"].map(|token| id(&windows, token));
    assert_eq!(read, Tokenized { ids: expected.into(), tokens: 3, truncated_tokens: 0, estimated: false });
    let blanks = " ".repeat(4 * WIDE_BYTES);
    let read = routing(&windows, &format!("{blank}say it{blanks}now{blank}"), 16);
    let expected = ["[CLS]", "say", "it", "now", "[SEP]"].map(|token| id(&windows, token));
    assert_eq!(read.ids, expected);
    assert!(read.estimated);
}

#[test]
fn an_embedding_reads_the_head_alone() {
    let windows = windows();
    let read = windows.head("a b c d e f", 6).unwrap();
    let expected = ["[CLS]", "a", "b", "c", "d", "[SEP]"].map(|token| id(&windows, token));
    assert_eq!(read, Tokenized { ids: expected.into(), tokens: 6, truncated_tokens: 2, estimated: false });
    let read = windows.head(&"say it ".repeat(600_000), 6).unwrap();
    assert!(read.estimated && read.ids.len() == 6);
}

#[test]
fn keys_of_cut_texts_tell_apart_what_the_window_tells_apart() {
    let long = "x".repeat(3 * WIDE_BYTES);
    let longer = "x".repeat(3 * WIDE_BYTES + 1);
    assert_ne!(Excerpt::of(&long).key(), Excerpt::of(&longer).key(), "their token counts differ");
    assert_eq!(Excerpt::of("short").key(), "short");
    let whole = "x".repeat(2 * WIDE_BYTES);
    assert_eq!(Excerpt::of(&whole).key().len(), 2 * WIDE_BYTES);
    assert!(Excerpt::of(&long).key().len() > 2 * WIDE_BYTES + 3 * 4);
}

#[test]
fn a_tokenizer_without_letters_is_refused() {
    use tokenizers::models::wordlevel::WordLevel;
    let empty = Tokenizer::new(WordLevel::default());
    assert!(Windows::new(empty).is_err());
}

proptest! {
    #[test]
    fn windows_are_bounded_enclosed_and_accounted_for(text in "\\PC{0,400}", max_tokens in 4_usize..40) {
        let windows = windows();
        let read = routing(&windows, &text, max_tokens);
        prop_assert!(read.ids.len() <= max_tokens);
        prop_assert_eq!(read.ids.first(), Some(&id(&windows, "[CLS]")));
        prop_assert_eq!(read.ids.last(), Some(&id(&windows, "[SEP]")));
        prop_assert_eq!(read.tokens as usize, read.ids.len() - 2 + read.truncated_tokens as usize);
        prop_assert!(!read.estimated || text.len() > EXACT_BYTES);
    }

    #[test]
    fn a_cut_never_splits_a_character(unit in "\\PC{1,3}", offset in 0_usize..8) {
        let text = "a".repeat(offset) + &unit.repeat(4 * WIDE_BYTES / unit.len());
        let excerpt = Excerpt::of(&text);
        prop_assert!(text.starts_with(excerpt.head) && text.ends_with(excerpt.tail));
        prop_assert!(excerpt.head.len() > WIDE_BYTES - 4 && excerpt.tail.len() > WIDE_BYTES - 4);
    }
}

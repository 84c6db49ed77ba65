use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SHOWN: &str = "shown/expert";

fn editor(replace: bool) -> Editor {
    Editor::new(replace.then(|| Bytes::from(json!(SHOWN).to_string())))
}

/// Pushes `input` in pieces that end at `cuts` (each taken modulo the length).
fn run(filter: &mut Filter, input: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let (mut at, mut all) = (0, Vec::new());
    for cut in cuts {
        let mut out = Output::default();
        filter.push(Bytes::copy_from_slice(&input[at..cut]), &mut out);
        all.extend_from_slice(&out.take());
        at = cut;
    }
    let mut out = Output::default();
    filter.finish(&mut out);
    all.extend_from_slice(&out.take());
    all
}

fn document(input: &str, replace: bool, cuts: &[usize]) -> (String, Option<Usage>) {
    let mut filter = Filter::Document(editor(replace));
    let out = run(&mut filter, input.as_bytes(), cuts);
    (String::from_utf8(out).unwrap(), filter.usage())
}

fn events(input: &[u8], replace: bool, strip: bool, cuts: &[usize]) -> (Vec<u8>, Option<Usage>, Ended) {
    let mut filter = Filter::Events(Box::new(EventFilter::new(editor(replace), strip)));
    let mut all = run(&mut filter, input, cuts);
    let Filter::Events(mut events) = filter else { unreachable!() };
    let mut out = Output::default();
    let ended = events.end(None, "UNFINISHED", &mut out);
    all.extend_from_slice(&out.take());
    (all, events.usage(), ended)
}

#[test]
fn only_the_top_level_model_changes() {
    let cases = [
        (r#"{"model":"a","choices":[]}"#, r#"{"model":"shown/expert","choices":[]}"#),
        (
            r#" { "x" : {"model":"a"} , "model" : "b\"\\" } "#,
            r#" { "x" : {"model":"a"} , "model" : "shown/expert" } "#,
        ),
        (r#"{"text":"\"model\":\"a\"","model":"b"}"#, r#"{"text":"\"model\":\"a\"","model":"shown/expert"}"#),
        (r#"{"object":"model","a":"model"}"#, r#"{"object":"model","a":"model"}"#),
        (r#"{"model":null,"a":[{"model":"x"}]}"#, r#"{"model":null,"a":[{"model":"x"}]}"#),
        (r#"{"models":"a","mode":"b","model ":"c"}"#, r#"{"models":"a","mode":"b","model ":"c"}"#),
        (r#"{"model":"unended"#, r#"{"model":"unended"#),
        (r#"["model","a"]"#, r#"["model","a"]"#),
        ("not json at all", "not json at all"),
        ("", ""),
    ];
    for (input, expected) in cases {
        for cut in 0..=input.len() {
            assert_eq!(document(input, true, &[cut]).0, expected, "cut at {cut}");
            assert_eq!(document(input, false, &[cut]).0, input, "cut at {cut}");
        }
    }
}

#[test]
fn nothing_is_held_back_but_the_model() {
    let mut filter = Filter::Document(editor(true));
    let mut push = |piece: &'static str| {
        let mut out = Output::default();
        filter.push(Bytes::from_static(piece.as_bytes()), &mut out);
        String::from_utf8(out.take().to_vec()).unwrap()
    };
    assert_eq!(push(r#"{"id":"x","mod"#), r#"{"id":"x","mod"#);
    assert_eq!(push(r#"el":"up"#), r#"el":"#);
    assert_eq!(push(r"stream"), "");
    assert_eq!(push(r#"","choi"#), r#""shown/expert","choi"#);
}

#[test]
fn pieces_that_do_not_change_are_not_copied() {
    let piece = Bytes::from_static(br#"{"id":1,"choices":[{"message":{"content":"model"}}]}"#);
    let mut filter = Filter::Document(editor(true));
    let mut out = Output::default();
    filter.push(piece.clone(), &mut out);
    assert_eq!(out.take().as_ptr(), piece.as_ptr());
}

#[test]
fn a_model_that_is_too_long_stays() {
    let input = format!(r#"{{"model":"{}","a":1}}"#, "x".repeat(3 * LONGEST_MODEL));
    let cuts: Vec<usize> = (0..input.len()).step_by(100).collect();
    assert_eq!(document(&input, true, &cuts).0, input);
    assert_eq!(document(&input, true, &[]).0, r#"{"model":"shown/expert","a":1}"#);
}

#[test]
fn usage_is_read_in_all_its_forms() {
    let cases = [
        (r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#, Some((3, 4, 0))),
        (r#"{"usage":{"prompt_tokens":8,"total_tokens":8}}"#, Some((8, 0, 0))),
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":5},"x":{}}}"#,
            Some((9, 1, 5)),
        ),
        (r#"{"usage":null}"#, None),
        (r#"{"choices":[{"usage":{"prompt_tokens":1,"completion_tokens":1}}]}"#, None),
        (r#"{"a":"\"usage\":{\"prompt_tokens\":1}"}"#, None),
        (r#"{"usage":{"prompt_tokens":"many"}}"#, None),
    ];
    for (input, expected) in cases {
        for cut in 0..=input.len() {
            let usage = document(input, true, &[cut])
                .1
                .map(|u| (u.prompt_tokens, u.completion_tokens, u.cached_tokens));
            assert_eq!(usage, expected, "{input} cut at {cut}");
        }
    }
}

const STREAM: &str = concat!(
    ": ping\n\n",
    "data: {\"id\":\"1\",\"model\":\"up\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\\\"x\\\"\"}}],\"usage\":null}\r\n\r\n",
    "event: chunk\ndata:{\"model\":\"up\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"model\":\"up\",\ndata: \"choices\":[{}]}\n\n",
    "data: {\"id\":\"1\",\"model\":\"up\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6}}\n\n",
    "data: [DONE]\n\n",
);

#[test]
fn streams_are_corrected_wherever_they_are_cut() {
    let usage = Usage { prompt_tokens: 5, completion_tokens: 6, cached_tokens: 0 };
    let usage_event = STREAM.split_inclusive("\n\n").find(|e| e.contains("\"choices\":[],")).unwrap();
    for replace in [false, true] {
        for strip in [false, true] {
            let mut expected = STREAM.to_owned();
            if strip {
                expected = expected.replace(usage_event, "");
            }
            if replace {
                expected = expected.replace(":\"up\"", ":\"shown/expert\"");
            }
            for first in 0..=STREAM.len() {
                for second in [first, first + 1, first + 7, first + 100] {
                    let got = events(STREAM.as_bytes(), replace, strip, &[first, second]);
                    let text = String::from_utf8(got.0).unwrap();
                    assert_eq!(
                        (text.as_str(), got.1, got.2),
                        (expected.as_str(), Some(usage), Ended::Complete)
                    );
                }
            }
        }
    }
}

#[test]
fn an_event_is_passed_on_as_soon_as_it_is_known_not_to_be_usage() {
    let mut filter = Filter::Events(Box::new(EventFilter::new(editor(false), true)));
    let mut push = |piece: &'static str| {
        let mut out = Output::default();
        filter.push(Bytes::from_static(piece.as_bytes()), &mut out);
        String::from_utf8(out.take().to_vec()).unwrap()
    };
    assert_eq!(push("data: {\"id\":\"x\",\"choices\":["), "");
    assert_eq!(push("{\"delta\""), "data: {\"id\":\"x\",\"choices\":[{\"delta\"");
    assert_eq!(push(":{}}]}\n\n: comment"), ":{}}]}\n\n: comment");
    assert_eq!(push("\n\ndata: [DO"), "\n\ndata: [DO");
}

#[test]
fn streams_end_well() {
    let finished = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}";
    let open = "data: {\"choices\":[{\"finish_reason\":null}]}";
    let cases = [
        (format!("{finished}\n\n"), format!("{finished}\n\ndata: [DONE]\n\n"), Ended::Repaired),
        (format!("{finished}\n"), format!("{finished}\n\ndata: [DONE]\n\n"), Ended::Repaired),
        (finished.to_owned(), format!("{finished}\n\ndata: [DONE]\n\n"), Ended::Repaired),
        (format!("{finished}\r\n"), format!("{finished}\r\n\ndata: [DONE]\n\n"), Ended::Repaired),
        (format!("{open}\n\n"), format!("{open}\n\ndata: UNFINISHED\n\n"), Ended::Cut),
        (String::new(), "data: UNFINISHED\n\n".to_owned(), Ended::Cut),
        ("data: [DONE]".to_owned(), "data: [DONE]\n\n".to_owned(), Ended::Complete),
        ("data: [DONE]\r\n\r\n".to_owned(), "data: [DONE]\r\n\r\n".to_owned(), Ended::Complete),
        ("data: {\"a".to_owned(), "data: {\"a\n\ndata: UNFINISHED\n\n".to_owned(), Ended::Cut),
    ];
    for (input, expected, ended) in cases {
        for cut in 0..=input.len() {
            let got = events(input.as_bytes(), false, false, &[cut]);
            assert_eq!(
                (String::from_utf8(got.0).unwrap(), got.2),
                (expected.clone(), ended),
                "{input:?} cut at {cut}"
            );
        }
    }
}

#[test]
fn half_an_event_that_was_never_shown_is_dropped() {
    let (out, _, ended) = events(b"data: {\"choices\":[{}]}\n\ndata: {\"id\":\"x", true, true, &[]);
    assert_eq!(out, b"data: {\"choices\":[{}]}\n\ndata: UNFINISHED\n\n");
    assert_eq!(ended, Ended::Cut);
    // The usage event without its last line end is whole.
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}";
    let (out, found, _) = events(usage.as_bytes(), false, true, &[]);
    assert_eq!((out.as_slice(), found.is_some()), (b"data: UNFINISHED\n\n".as_slice(), true));
}

#[test]
fn a_large_event_is_not_held_for_long() {
    let input = format!("data: {{\"x\":\"{}\",\"choices\":[]}}\n\n", "y".repeat(2 * 16 * 1024));
    let mut filter = Filter::Events(Box::new(EventFilter::new(editor(false), true)));
    let mut out = Output::default();
    filter.push(Bytes::from(input[..20_000].to_owned()), &mut out);
    assert_eq!(out.len(), 20_000);
    filter.push(Bytes::from(input[20_000..].to_owned()), &mut out);
    assert_eq!(out.take(), input.as_bytes());
}

fn any_json(depth: u32) -> impl Strategy<Value = Value> {
    let word =
        prop_oneof![Just("model".to_owned()), Just("usage".to_owned()), Just("choices".to_owned()), ".{0,8}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        "[\"\\\\{}\\[\\]:,mode]{0,9}".prop_map(Value::from),
    ];
    leaf.prop_recursive(depth, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(word.clone(), inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect()))
        ]
    })
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..8)
}

/// What the filter has to do, by parsing: the text is that of serde's writer, so parts of it can be found.
fn with_model_shown(value: &Value, text: &str) -> String {
    match value.get("model") {
        Some(Value::String(model)) if value.is_object() => {
            // Keys are sorted and only keys at the top level are preceded by top-level members in full.
            let object = value.as_object().unwrap();
            let before: usize = object
                .iter()
                .take_while(|(k, _)| *k != "model")
                .map(|(k, v)| json!(k).to_string().len() + 1 + v.to_string().len() + 1)
                .sum();
            let start = 1 + before + "\"model\":".len();
            let end = start + json!(model).to_string().len();
            format!("{}{}{}", &text[..start], json!(SHOWN), &text[end..])
        }
        _ => text.to_owned(),
    }
}

proptest! {
    #[test]
    fn documents_equal_the_reference(value in any_json(4), cuts in cuts()) {
        let text = value.to_string();
        prop_assert_eq!(document(&text, true, &cuts).0, with_model_shown(&value, &text));
        prop_assert_eq!(document(&text, false, &cuts).0, text);
    }

    #[test]
    fn streams_equal_the_reference(
        values in prop::collection::vec((any_json(4), any::<bool>(), any::<bool>()), 0..6),
        usage_at in prop::option::of(0usize..6),
        cuts in cuts(),
        replace in any::<bool>(),
        strip in any::<bool>(),
    ) {
        let (mut input, mut expected) = (String::new(), String::new());
        for (at, (value, windows, spaced)) in values.iter().enumerate() {
            let end = if *windows { "\r\n\r\n" } else { "\n\n" };
            let prefix = if *spaced { "data: " } else { "data:" };
            if usage_at == Some(at) {
                let usage = json!({"choices": [], "model": "m", "usage": {"prompt_tokens": at, "completion_tokens": 1}});
                let shown = if replace { with_model_shown(&usage, &usage.to_string()) } else { usage.to_string() };
                input += &[prefix, &usage.to_string(), end].concat();
                if !strip {
                    expected += &[prefix, &shown, end].concat();
                }
            }
            let is_usage = value.get("choices") == Some(&json!([])) && value.get("usage").is_some_and(Value::is_object);
            let text = value.to_string();
            let shown = if replace { with_model_shown(value, &text) } else { text.clone() };
            input += &[prefix, &text, end].concat();
            if !(strip && is_usage) {
                expected += &[prefix, &shown, end].concat();
            }
        }
        input += "data: [DONE]\n\n";
        expected += "data: [DONE]\n\n";
        let (out, _, ended) = events(input.as_bytes(), replace, strip, &cuts);
        prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        prop_assert_eq!(ended, Ended::Complete);
    }

    /// Bytes that are no JSON and no events pass; how they are cut makes no difference.
    #[test]
    fn garbage_passes(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in cuts(), strip in any::<bool>()) {
        let mut filter = Filter::Document(editor(true));
        prop_assert_eq!(&run(&mut filter, &bytes, &cuts), &bytes);
        let mut filter = Filter::Events(Box::new(EventFilter::new(editor(true), strip)));
        prop_assert_eq!(&run(&mut filter, &bytes, &cuts), &bytes);
    }

    /// Near-JSON made of the pieces that matter: any way of cutting it gives what one piece gives.
    #[test]
    fn cuts_make_no_difference(
        parts in prop::collection::vec(prop::sample::select(vec![
            "data:", "data: ", "\n", "\r\n", "\n\n", "{", "}", "[", "]", "\"model\"", ":", "\"m\"", ",", "\\", "\"",
            "\"usage\"", "\"choices\"", "[DONE]", " ", ": c", "{\"prompt_tokens\":1}", "[]", "[{\"finish_reason\":\"stop\"}]",
        ]), 0..40),
        cuts in cuts(),
        strip in any::<bool>(),
    ) {
        let text = parts.concat();
        let whole = events(text.as_bytes(), true, strip, &[]);
        prop_assert_eq!(events(text.as_bytes(), true, strip, &cuts), whole);
        prop_assert_eq!(document(&text, true, &cuts), document(&text, true, &[]));
    }
}

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::outbound::{Bounds, Exchanged, Outbound, OutboundError};
use crate::telemetry::export::TraceMetrics;

struct Nobody;

impl Outbound for Nobody {
    fn exchange(&self, _: http::Request<bytes::Bytes>, _: Bounds) -> Exchanged<'_> {
        Box::pin(async { Err(OutboundError::Timeout) })
    }
}

fn tracer(ratio: f64, errors: bool, salt: u64) -> Tracer {
    let config = TracesConfig { sample_ratio: ratio, sample_errors: errors, ..TracesConfig::default() };
    let (exporter, _) = Exporter::new(&config, Arc::new(Nobody), TraceMetrics::default(), 1);
    Tracer::new(&config, exporter, salt)
}

fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
    let pair = |(name, value): &(HeaderName, &str)| (name.clone(), HeaderValue::from_str(value).unwrap());
    pairs.iter().map(pair).collect()
}

const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const SPAN: u64 = 0xb7ad_6b71_6920_3331;

/// The grammar of the recommendation's section 3.2.2, written down another way.
fn is_well_formed(text: &str) -> bool {
    let fields: Vec<&str> = text.split('-').collect();
    let digits = |field: &str, length| {
        field.len() == length && field.bytes().all(|b| b"0123456789abcdef".contains(&b))
    };
    let [version, trace, span, flags, ref rest @ ..] = fields[..] else { return false };
    digits(version, 2)
        && version != "ff"
        && (version != "00" || rest.is_empty())
        && digits(trace, 32)
        && trace.bytes().any(|b| b != b'0')
        && digits(span, 16)
        && span.bytes().any(|b| b != b'0')
        && digits(flags, 2)
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(trace_id in 1_u128.., span_id in 1_u64.., flags: u8) {
        let parent = Parent { trace_id, span_id, flags };
        let written = parent.format();
        prop_assert!(is_well_formed(std::str::from_utf8(&written).unwrap()));
        prop_assert_eq!(Parent::parse(&written), Some(parent));
    }

    #[test]
    fn a_damaged_one_is_read_only_if_it_is_well_formed(at in 0_usize..55, with in any::<char>(), cut in 0_usize..60) {
        let mut changed: Vec<char> = GIVEN.chars().collect();
        changed[at] = with;
        for text in [changed.iter().collect::<String>(), changed.iter().take(cut).collect()] {
            prop_assert_eq!(Parent::parse(text.as_bytes()).is_some(), is_well_formed(&text), "{}", text);
        }
    }

    #[test]
    fn arbitrary_text_is_read_only_if_it_is_well_formed(
        text in "[0-9a-fA-F]{2}-[0-9a-f]{30,34}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-[a-z]{0,3})?|.{0,70}",
    ) {
        prop_assert_eq!(Parent::parse(text.as_bytes()).is_some(), is_well_formed(&text));
    }

    #[test]
    fn the_same_trace_id_is_always_decided_the_same_way(seed: u64, salt: u64, low in 0.0..1.0, high in 0.0..1.0) {
        let (low, high) = if low < high { (low, high) } else { (high, low) };
        let begin = |ratio| tracer(ratio, false, salt).begin(&HeaderMap::new(), seed);
        prop_assert_eq!(begin(low), begin(low));
        // A trace that is in a small share is in every larger one.
        if let Some(context) = begin(low) {
            prop_assert_eq!(begin(high), Some(context));
        }
        prop_assert_eq!(begin(0.0), None);
        prop_assert!(begin(1.0).is_some());
    }
}

#[test]
fn the_spec_s_examples() {
    let read = |text: &str| Parent::parse(text.as_bytes());
    assert_eq!(read(GIVEN), Some(Parent { trace_id: TRACE, span_id: SPAN, flags: 1 }));
    let later = GIVEN.replacen("00", "cc", 1);
    assert!(read(&later).is_some() && read(&format!("{later}-what-the-future-brings")).is_some());
    for bad in [
        "",
        "00",
        &GIVEN.to_uppercase(),
        &GIVEN.replacen("00", "ff", 1),
        &format!("{GIVEN}-"),
        &format!("{GIVEN} "),
        &format!("{later}x"),
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    ] {
        assert_eq!(read(bad), None, "{bad}");
    }
}

#[test]
fn the_caller_s_decision_is_kept() {
    for (flags, ratio, sampled) in
        [("01", 0.0, true), ("00", 1.0, false), ("03", 0.0, true), ("fe", 1.0, false)]
    {
        let given = format!("{}{flags}", &GIVEN[..53]);
        let tracer = tracer(ratio, false, 7);
        let context = tracer.begin(&headers(&[(TRACEPARENT, &given), (TRACESTATE, "a=1")]), 9).unwrap();
        assert_eq!(tracer.wants(&context, true), sampled, "{flags}");
        let sent = context.traceparent(0);
        let parent = Parent::parse(sent.as_bytes()).unwrap();
        assert_eq!((parent.trace_id, context.parent_id()), (TRACE, Some(SPAN)));
        assert_eq!(parent.flags & SAMPLED != 0, sampled);
        assert_eq!(parent.span_id, context.attempt_id(0));
        assert_eq!(context.tracestate().unwrap(), "a=1");
    }
}

#[test]
fn a_request_without_a_usable_context_starts_its_own() {
    let tracer = tracer(1.0, false, 7);
    for given in [
        headers(&[]),
        headers(&[(TRACEPARENT, "nonsense"), (TRACESTATE, "a=1")]),
        headers(&[(TRACEPARENT, GIVEN), (TRACEPARENT, GIVEN)]),
    ] {
        let context = tracer.begin(&given, 9).unwrap();
        assert_ne!(context.trace_id(), TRACE);
        assert_eq!((context.parent_id(), context.tracestate()), (None, None));
        assert!(context.traceparent(0).to_str().unwrap().ends_with("-03"));
    }
    let two = headers(&[(TRACEPARENT, GIVEN), (TRACESTATE, "a=1"), (TRACESTATE, "b=2")]);
    assert_eq!(tracer.begin(&two, 9).unwrap().tracestate().unwrap(), "a=1,b=2");
}

#[test]
fn failures_are_kept_where_that_is_wanted() {
    let tracer = tracer(0.0, true, 7);
    let context = tracer.begin(&HeaderMap::new(), 9).unwrap();
    assert!(tracer.wants(&context, true) && !tracer.wants(&context, false));
    // The experts are not made to record what will most likely be thrown away.
    assert!(context.traceparent(0).to_str().unwrap().ends_with("-02"));
}

#[test]
fn the_share_is_as_asked_and_ids_are_not_shared() {
    let tracers = [tracer(0.25, false, 1), tracer(0.25, false, 2)];
    let begun = tracers.iter().flat_map(|t| (0..20_000).filter_map(|seed| t.begin(&HeaderMap::new(), seed)));
    let contexts: Vec<TraceContext> = begun.collect();
    assert!((9_500..10_500).contains(&contexts.len()), "{}", contexts.len());
    let ids: BTreeSet<u128> = contexts.iter().map(TraceContext::trace_id).collect();
    assert_eq!(ids.len(), contexts.len());
    let context = &contexts[0];
    let attempts = (0..50).map(|n| context.attempt_id(n));
    let spans: BTreeSet<u64> = attempts.chain((0..50).map(|n| context.phase_id(n))).collect();
    assert_eq!(spans.len(), 100);
    assert!(!spans.contains(&context.span_id()));
}

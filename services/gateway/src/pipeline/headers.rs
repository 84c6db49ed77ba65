//! What a request's headers ask of the gateway. Every reading is total: a header that cannot be understood
//! is one that was not sent, because a proxy may have put it there and the request can do without.

use std::time::Duration;

use admission::Priority;
use http::{HeaderMap, HeaderValue};

/// Longest `x-request-id` that is taken over, in bytes.
const LONGEST_ID: usize = 128;

/// No client waits longer than this; sums with it do not overflow either.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(24);

/// Tags that are kept, and the longest of them in bytes.
const TAGS: usize = 8;
const LONGEST_TAG: usize = 64;

/// A header's value when it is readable text.
pub fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The client's own name for the request, `x-request-id`, which the answer repeats: 1 to 128 visible ASCII
/// characters.
pub fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get("x-request-id").filter(|value| {
        let bytes = value.as_bytes();
        (1..=LONGEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    })
}

/// For how long the answer is of use to the client, `x-guildhall-timeout-ms`: above zero, a day at most.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let ms = text(headers, "x-guildhall-timeout-ms")?.parse().ok().filter(|ms| *ms > 0)?;
    Some(Duration::from_millis(ms).min(LONGEST_TIMEOUT))
}

/// What the request asks of queues, `x-guildhall-priority`.
pub fn priority(headers: &HeaderMap) -> Option<Priority> {
    text(headers, "x-guildhall-priority").and_then(Priority::parse)
}

/// What a unit of cost is worth in score points, `x-guildhall-lambda`: a finite number of at least 0.
pub fn lambda(headers: &HeaderMap) -> Option<f32> {
    let lambda: f32 = text(headers, "x-guildhall-lambda")?.parse().ok()?;
    (lambda.is_finite() && lambda >= 0.0).then_some(lambda)
}

/// The labels of `x-guildhall-tags`, separated by commas: at most eight, each of at most 64 plain characters;
/// others are passed over.
pub fn tags(headers: &HeaderMap) -> Vec<String> {
    let given = text(headers, "x-guildhall-tags").unwrap_or_default().split(',').map(str::trim);
    let plain = |tag: &str| tag.bytes().all(|b| (b' '..=b'~').contains(&b));
    let fits = |tag: &&str| (1..=LONGEST_TAG).contains(&tag.len()) && plain(tag);
    given.filter(fits).take(TAGS).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn a_request_id_is_taken_over_when_it_is_short_and_visible() {
        let of = |value: &str| request_id(&headers("x-request-id", value)).map(|v| v.as_bytes().to_owned());
        assert_eq!(of("r-1").as_deref(), Some(&b"r-1"[..]));
        assert!(of(&"r".repeat(128)).is_some());
        for bad in ["", "two words", "ü", &"r".repeat(129)] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_timeout_is_bounded() {
        let of = |value: &str| timeout(&headers("x-guildhall-timeout-ms", value));
        assert_eq!(of("1500"), Some(Duration::from_millis(1500)));
        assert_eq!(of("18446744073709551615"), Some(Duration::from_hours(24)));
        for bad in ["", "0", "-1", "1.5", "soon", "18446744073709551616"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_lambda_is_a_number_of_at_least_zero() {
        let of = |value: &str| lambda(&headers("x-guildhall-lambda", value));
        assert_eq!((of("0.25"), of("0"), of("1e-3")), (Some(0.25), Some(0.0), Some(0.001)));
        for bad in ["", "-0.1", "NaN", "inf", "cheap"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn tags_are_few_and_plain() {
        let of = |value: &str| tags(&headers("x-guildhall-tags", value));
        assert_eq!(of(" a,b c ,,"), ["a", "b c"]);
        assert_eq!(of(&["t"; 20].join(",")).len(), 8);
        assert!(of(&"t".repeat(65)).is_empty());
    }
}

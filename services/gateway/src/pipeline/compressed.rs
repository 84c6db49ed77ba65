//! Bodies that clients sent compressed.

use std::io::{self, Cursor, Read};

use bytes::Bytes;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

use super::admit::too_large;
use crate::error::{ApiError, ErrorKind};

/// After so many bytes of the result, others on the thread get their turn: about a millisecond's work.
const SLICE: usize = 256 << 10;

/// How a body is compressed (RFC 9110 section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

/// How the body of a request with these headers is compressed, if it is.
///
/// # Errors
/// 415 for what cannot be undone here.
pub(super) fn coding(headers: &HeaderMap) -> Result<Option<Coding>, ApiError> {
    let mut found = None;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for name in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            let is = |coding: &str| name.eq_ignore_ascii_case(coding);
            let coding = match name {
                _ if name.is_empty() || is("identity") => continue,
                _ if is("gzip") || is("x-gzip") => Coding::Gzip,
                _ if is("deflate") => Coding::Deflate,
                _ => return Err(refused(&format!("content-encoding `{name}` is not accepted"))),
            };
            // A body that is compressed twice is a bomb or a mistake.
            if found.replace(coding).is_some() {
                return Err(refused("more than one content-encoding is not accepted"));
            }
        }
    }
    Ok(found)
}

fn refused(what: &str) -> ApiError {
    let message = format!("{what}; send the body as it is, or with gzip or deflate");
    ApiError::new(ErrorKind::UnsupportedEncoding, message)
}

/// What a body of at most `max` bytes was before it was compressed. No more than that is ever made of it.
///
/// # Errors
/// 413 when it was longer, 400 when it is damaged or cut short.
pub(super) async fn expand(coding: Coding, body: Bytes, max: usize) -> Result<Bytes, ApiError> {
    let mut from: Box<dyn Read + Send> = match coding {
        Coding::Gzip => Box::new(MultiGzDecoder::new(Cursor::new(body))),
        Coding::Deflate => Box::new(ZlibDecoder::new(Cursor::new(body))),
    };
    let mut out = Vec::new();
    loop {
        // One byte more than may be says that there is more.
        let until = (out.len() + SLICE).min(max.saturating_add(1));
        let ended = fill(&mut *from, &mut out, until).map_err(|error| broken(coding, &error))?;
        if out.len() > max {
            return Err(too_large(max));
        }
        if ended {
            return Ok(out.into());
        }
        tokio::task::yield_now().await;
    }
}

/// Reads until there are `until` bytes. Says whether the end came before.
fn fill(from: &mut dyn Read, out: &mut Vec<u8>, until: usize) -> io::Result<bool> {
    from.take((until - out.len()) as u64).read_to_end(out)?;
    Ok(out.len() < until)
}

fn broken(coding: Coding, error: &io::Error) -> ApiError {
    let what = match error.kind() {
        io::ErrorKind::UnexpectedEof => "ends too early",
        _ => "is damaged",
    };
    let message = format!("the body {what}: content-encoding says that it is {}", coding.name());
    ApiError::new(ErrorKind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    fn compress(coding: Coding, body: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let mut to = GzEncoder::new(Vec::new(), Compression::default());
                to.write_all(body).unwrap();
                to.finish().unwrap()
            }
            Coding::Deflate => {
                let mut to = ZlibEncoder::new(Vec::new(), Compression::default());
                to.write_all(body).unwrap();
                to.finish().unwrap()
            }
        }
    }

    fn expanded(coding: Coding, body: Vec<u8>, max: usize) -> Result<Bytes, ErrorKind> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(expand(coding, body.into(), max)).map_err(|error| error.kind)
    }

    fn named(values: &[&str]) -> Result<Option<Coding>, ApiError> {
        let pairs = values.iter().map(|value| (header::CONTENT_ENCODING, value.parse().unwrap()));
        coding(&pairs.collect())
    }

    #[test]
    fn codings_are_known_by_name() {
        for none in [&[][..], &[""], &["identity"], &["identity, Identity"]] {
            assert_eq!(named(none).unwrap(), None);
        }
        assert_eq!(named(&["gzip"]).unwrap(), Some(Coding::Gzip));
        assert_eq!(named(&["identity", "X-GZip"]).unwrap(), Some(Coding::Gzip));
        assert_eq!(named(&["Deflate"]).unwrap(), Some(Coding::Deflate));
        for other in [&["br"][..], &["gzip, gzip"], &["gzip", "deflate"], &["gzip;q=1"], &["ü"]] {
            let error = named(other).unwrap_err();
            assert_eq!(error.status(), 415);
            assert!(error.message.contains("gzip or deflate"), "{error}");
        }
    }

    #[test]
    fn a_bomb_is_not_set_off() {
        let (bomb, max) = (vec![0; 64 << 20], 1 << 20);
        for coding in [Coding::Gzip, Coding::Deflate] {
            let small = compress(coding, &bomb);
            assert!(small.len() < max / 8);
            assert_eq!(expanded(coding, small, max), Err(ErrorKind::BodyTooLarge));
            let (fits, over) = (compress(coding, &bomb[..max]), compress(coding, &bomb[..=max]));
            assert_eq!(expanded(coding, fits, max).map(|body| body.len()), Ok(max));
            assert_eq!(expanded(coding, over, max), Err(ErrorKind::BodyTooLarge));
        }
        // Of several members, all count.
        let twice = compress(Coding::Gzip, &bomb[..max]).repeat(2);
        assert_eq!(expanded(Coding::Gzip, twice, max), Err(ErrorKind::BodyTooLarge));
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back_or_is_refused(
            body in prop::collection::vec(any::<u8>(), 0..4000),
            gzip: bool,
            cut in 0.0..1.0,
            flip: u8,
        ) {
            let coding = if gzip { Coding::Gzip } else { Coding::Deflate };
            let small = compress(coding, &body);
            prop_assert_eq!(expanded(coding, small.clone(), 4000).unwrap(), &body[..]);
            let cut = (small.len() as f64 * cut) as usize;
            prop_assert_eq!(expanded(coding, small[..cut].to_vec(), 4000), Err(ErrorKind::InvalidRequest));
            let mut damaged = small;
            damaged[cut] ^= flip;
            // The time in a gzip head is nobody's loss.
            let same = |found: Bytes| found == body;
            prop_assert!(expanded(coding, damaged, 4000).map_or(flip != 0, same));
        }
    }
}

//! Phase `admit`: a place among the requests in progress, and a body within the limits.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header;
use http_body::Body as _;
use http_body_util::BodyExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;

use super::{Context, Pipeline};
use crate::error::{ApiError, ErrorKind};

/// How long a client may take to send its body.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// A request that may go on.
pub(super) struct Admitted {
    /// Its body.
    pub(super) body: Bytes,
    /// Its place, given back when the answer's body has ended.
    pub(super) place: Place,
}

/// A place among the requests in progress; given back when dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    in_flight: Gauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

impl Pipeline {
    /// Takes a place and reads the body.
    ///
    /// # Errors
    /// 503 when all places are taken, 413 for a body over the limit, 415 for a compressed one, 408 when it
    /// does not arrive, 400 when the connection breaks.
    pub(super) async fn admit(self: &Arc<Self>, context: &Context, body: Body) -> Result<Admitted, ApiError> {
        let place = self.place()?;
        if let Some(coding) = context.headers.get(header::CONTENT_ENCODING).filter(|c| *c != "identity") {
            let message = format!("content-encoding {coding:?} is not accepted; send the body uncompressed");
            return Err(ApiError::new(ErrorKind::UnsupportedMediaType, message));
        }
        let max = self.limits.max_body_bytes;
        if body.size_hint().lower() > max as u64 {
            return Err(too_large(max));
        }
        match tokio::time::timeout(BODY_PATIENCE, collect(body, max)).await {
            Ok(body) => Ok(Admitted { body: body?, place }),
            Err(_) => {
                Err(ApiError::new(ErrorKind::RequestTimeout, "the body did not arrive within 30 seconds"))
            }
        }
    }
}

impl Pipeline {
    fn place(self: &Arc<Self>) -> Result<Place, ApiError> {
        let permit = self.places.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(ErrorKind::Overloaded, "the gateway has as many requests in progress as it may")
        })?;
        self.metrics.in_flight.inc();
        Ok(Place { _permit: permit, in_flight: self.metrics.in_flight.clone() })
    }
}

/// Reads a body of at most `max` bytes; one that came in one piece is not copied.
async fn collect(mut body: Body, max: usize) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            ApiError::new(ErrorKind::InvalidRequest, "the connection broke before the whole body had arrived")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > max {
            return Err(too_large(max));
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn too_large(max: usize) -> ApiError {
    let message =
        format!("the body is longer than {max} bytes; the operator sets this limit as data.max_body_bytes");
    ApiError::new(ErrorKind::BodyTooLarge, message)
}

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::adaptive::Sample;

/// A place among the requests in progress; given back when dropped.
#[derive(Debug)]
#[must_use = "dropping the permit gives the place back"]
pub struct Permit {
    /// `None` when the gate had no limit.
    shared: Option<Arc<Shared>>,
    waited: Duration,
}

impl Permit {
    pub(super) fn new(shared: Arc<Shared>, waited: Duration) -> Self {
        Self { shared: Some(shared), waited }
    }

    pub(super) fn open() -> Self {
        Self { shared: None, waited: Duration::ZERO }
    }

    /// How long the request waited for it.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Gives the place back and tells an adaptive limit how the request went. To be dropped instead when the
    /// request says nothing about that, such as one whose client left.
    pub fn release(mut self, sample: Sample) {
        if let Some(shared) = self.shared.take() {
            shared.pass_on(1, Some(sample));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.pass_on(1, None);
        }
    }
}

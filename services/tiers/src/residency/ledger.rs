use super::tier::{Source, TierSpec};

/// The bytes of one tier. A load reserves what it needs before it starts, and what it held is given back only when
/// its owner says that it is free, so that two loads never count on the same bytes.
#[derive(Clone, Debug)]
pub struct Account {
    /// Bytes that experts may take.
    usable: u64,
    used: u64,
    incoming: u64,
    /// Bytes that should be free, and were measured not to be.
    missing: u64,
    source: Source,
}

impl Account {
    pub(super) fn new(spec: &TierSpec) -> Self {
        let usable = spec.capacity_bytes.saturating_sub(spec.reserved_bytes);
        Self { usable, used: 0, incoming: 0, missing: 0, source: spec.source }
    }

    /// Bytes that experts may take in all.
    pub fn usable(&self) -> u64 {
        self.usable
    }

    /// Bytes of complete copies, and of copies that are being removed.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes promised to loads under way.
    pub fn incoming(&self) -> u64 {
        self.incoming
    }

    /// Bytes that should be free, and were measured not to be: what engines keep, or what strangers hold.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Bytes that a load may still reserve. 0 also where measured copies turned out larger than their reservations.
    pub fn free(&self) -> u64 {
        let known = self.usable.saturating_sub(self.used).saturating_sub(self.incoming);
        known.saturating_sub(self.missing)
    }

    /// Where the capacity comes from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Reserves; false, and nothing done, where there is not enough.
    #[must_use]
    pub(super) fn reserve(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.free();
        if fits {
            self.incoming += bytes;
        }
        fits
    }

    pub(super) fn miss(&mut self, bytes: u64) {
        self.missing = bytes;
    }

    /// Gives a reservation back.
    pub(super) fn cancel(&mut self, reserved: u64) {
        self.incoming = self.incoming.saturating_sub(reserved);
    }

    /// Counts a copy.
    pub(super) fn hold(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
    }

    /// Counts a copy no longer.
    pub(super) fn release(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }
}

//! Durable state of the gateway: registry, keys and the audit log, in one embedded store.
//!
//! The engine is redb: copy-on-write B-trees in one file, pure Rust. It was chosen over `SQLite` because it
//! needs no C compiler and no system library, its only query is the one we have (a key, or a range of
//! keys), and a commit is one write of new pages, one `fsync`, one checksummed switch of the root: a
//! process that is killed at any point leaves either the whole change or nothing of it. Above it stands
//! what the gateway means by a change: documents with revisions ([`Document`]), all-or-nothing batches
//! with expectations ([`Change`], [`Expect`]) and an audit record written with the change it tells of.
//!
//! Beside the documents lie a journal of records without revisions and a memory of prompts that is searched by
//! similarity ([`PromptMemory`]).
//!
//! Every call blocks on the disk. Asynchronous callers go through a blocking thread.

mod audit;
mod backend;
mod document;
mod embedded;
mod error;
mod journal;
mod memory;
mod open;

pub use audit::{AuditEntry, AuditRecord};
pub use document::{Change, Document, Expect, Kind, Write};
pub use embedded::{EmbeddedStore, Options};
pub use error::{CommitError, Conflict, StoreError};
pub use memory::{EmbeddedMemory, Kept, MemoryError, PastPrompt, PromptMemory};

//! Virtual API keys and teams.
//!
//! A token is `sk-guildhall-<id>-<secret>`. The id is public: it names the key in logs, metrics and the
//! admin API. The secret is 43 base62 characters that carry 256 random bits; only its SHA-256 is kept. No
//! salt and no slow hash is needed, because nobody can search 256 bits.
//!
//! Settings ([`KeySpec`], [`TeamSpec`]) are what files and stores hold; a [`KeyRing`] is what requests are
//! checked against: immutable, built anew when a setting changes.

mod compiled;
mod ring;
mod spec;
mod token;

pub use compiled::{Key, Team};
pub use ring::{KeyRing, Refused};
pub use spec::{KeySpec, KeyView, Permissions, SecretSpec, SecretView, TeamSpec};
pub use token::{SecretHash, Token};

#[cfg(test)]
mod tests;

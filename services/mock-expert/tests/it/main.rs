//! The mock over real sockets, as its clients see it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails; clippy only exempts the test functions themselves"
)]
#![expect(clippy::needless_pass_by_value, reason = "`question(json!({..}))` reads better than with a borrow")]

mod client;
mod endpoints;
mod faults;
mod messages;
mod streams;

//! Who calls.

pub mod jwks;
pub mod jwt;

#[cfg(test)]
mod tests;

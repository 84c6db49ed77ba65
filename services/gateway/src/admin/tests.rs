//! The admin API as a client sees it: requests through the router, the store in memory.

mod experts;
pub(crate) mod fixture;
mod keys;
mod mapping;
mod memory;
mod operation;
mod plane;
mod routes;
mod signals;

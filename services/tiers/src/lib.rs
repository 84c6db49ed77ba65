//! Where the experts' weights are, and where they should be next.
//!
//! An accelerator holds few experts at a time. [`residency`] decides which: a pure function from the state of a
//! pool and the requests that wait for it to actions with reasons, and the state machine that those actions move.
//! It knows no clock, no device and no network, so that the same input gives the same decisions, here and in a
//! replay. [`driver`] carries transitions out with real servers and asks them what is where; [`owner`] has both work
//! together for requests, and [`leases`] for those of other processes. [`sim`] runs that code on a virtual clock over
//! recorded requests, beside the policies to beat.
//! [`ternary`] keeps adapters compressed where they rest.
//!
//! Times are microseconds of a clock that the caller chose; sizes are bytes.

pub mod driver;
pub mod leases;
pub mod owner;
pub mod placement;
mod process;
pub mod residency;
mod server;
pub mod sim;
pub mod ternary;

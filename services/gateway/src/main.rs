//! The binary `guildhall`.

use std::process::ExitCode;

/// A request makes some sixty small allocations on threads that free what others made; the system's
/// allocator takes a tenth of the hop for them, this one a third of that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gateway::cli::run()
}

//! The binary `guildhall`.

use std::process::ExitCode;

/// A request makes some forty small allocations. This allocator gives out first what was freed last, which
/// is still in the processor's cache; one that goes round its pages first takes a twelfth more CPU for a
/// hop, and a third more memory for an open stream.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Otherwise memory goes back to the system only while requests come. Not every system can do it.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
    gateway::cli::run()
}

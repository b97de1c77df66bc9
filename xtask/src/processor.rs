//! Binds a thread to a processor.

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Lets this thread, and what it starts, use this processor alone.
///
/// # Errors
/// There is none of this number for us.
pub fn bind(processor: usize) -> anyhow::Result<()> {
    let mut one = CpuSet::new();
    one.set(processor);
    sched_setaffinity(None, &one).with_context(|| format!("no processor {processor}"))
}

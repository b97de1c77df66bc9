//! What this machine cannot test or check, and why.

use std::fmt;
use std::process::ExitCode;

/// Something that is left out on this machine; displays as `<what>: <reason>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub(crate) what: &'static str,
    /// What is missing, and what to do.
    pub(crate) reason: String,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

/// Prints what was skipped; fails if `forbidden` and anything was.
pub fn report(skips: &[Skip], forbidden: bool) -> ExitCode {
    for skip in skips {
        println!("skipped: {skip}");
    }
    if forbidden && !skips.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

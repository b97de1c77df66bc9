//! Formats an error with all its causes on one line, for logs and for the output of `main`.

use std::error::Error;
use std::fmt;

/// Formats an error as `what: why: why of that`.
///
/// Errors of this project never repeat their source in their own text, so the line has no repetitions.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the snapshot")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the file")]
    struct Middle(#[source] std::fmt::Error);

    #[test]
    fn every_cause_is_shown_once_and_in_order() {
        let error = Outer(Middle(std::fmt::Error));

        let expected = format!("cannot read the snapshot: cannot open the file: {}", std::fmt::Error);
        assert_eq!(Chain(&error).to_string(), expected);
    }
}

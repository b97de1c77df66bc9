//! Skips tests that this machine cannot run, and reports them.

use std::env;

/// Lines of `<what>: <reason>`, written by `cargo xtask test`.
const SKIP: &str = "PORTCULLIS_SKIP";
/// Set by `cargo xtask test --no-skips` and `--everything`: a missing thing fails the test that needs it.
const NO_SKIPS: &str = "PORTCULLIS_NO_SKIPS";

/// Why everything that needs `what` (`node`, `python`, ...) is skipped on this machine, if it is.
pub fn reason(what: &str) -> Option<String> {
    find(&env::var(SKIP).unwrap_or_default(), what)
}

/// Whether a test may go on; if not, prints `skipped: <test>: <reason>`. Panics instead when skips are forbidden.
/// Use it through [`require!`](crate::require).
pub fn go_on(test: &str, availability: Result<(), String>) -> bool {
    let Err(reason) = availability else { return true };
    assert!(env::var_os(NO_SKIPS).is_none(), "{test} may not be skipped here, but: {reason}");
    println!("skipped: {test}: {reason}");
    false
}

/// Returns from the test early, with a printed reason, when what it needs is not there:
/// `require!(real::available(Kind::PythonSse))`, or `require!(..., Ok(()))` in a test that returns a value.
#[macro_export]
macro_rules! require {
    ($availability:expr $(, $value:expr)?) => {
        if !$crate::skip::go_on(&$crate::skip::current_test(), $availability) {
            return $($value)?;
        }
    };
}

/// The name of the running test, as the test harness gives it to its thread.
pub fn current_test() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

fn find(list: &str, what: &str) -> Option<String> {
    list.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": ").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_reason_is_found_by_its_whole_name() {
        let list = "node: npm is not installed\npython: no venv: really";
        assert_eq!(find(list, "node").as_deref(), Some("npm is not installed"));
        assert_eq!(find(list, "python").as_deref(), Some("no venv: really"));
        assert_eq!(find(list, "nod"), None);
        assert_eq!(find("", "node"), None);
    }
}

//! Runs tests, and those that fail once more: a machine that was busy for a moment must not hide what is broken, nor break
//! what is whole.
//!
//! A test that passes alone is reported as unstable, loudly. It is still a bug, of the test or of the program.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::process::cargo;

/// More failed tests than this are no matter of a moment.
const MOST: usize = 5;

/// A failed test.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed {
    /// The option of `cargo test` that selects its program.
    program: Vec<String>,
    name: String,
}

/// What a run of the tests has printed about failures.
#[derive(Debug, Default, PartialEq, Eq)]
struct Failures {
    tests: Vec<Failed>,
    /// A program failed for another reason than tests with names, or cannot be selected.
    others: bool,
    program: Option<Vec<String>>,
    /// Failed tests of the program that runs.
    here: usize,
}

/// Runs `cargo test` with these arguments; `prepare` sets its environment.
///
/// # Errors
/// When a test fails twice, or too many do, or something else fails.
pub fn run(arguments: &[&str], prepare: &dyn Fn(&mut Command)) -> anyhow::Result<()> {
    let (passed, failures) = all(arguments, prepare)?;
    if passed {
        return Ok(());
    }
    let Failures { tests, others, .. } = failures;
    ensure!(!others && !tests.is_empty(), "the tests failed");
    ensure!(tests.len() <= MOST, "{} tests failed", tests.len());
    for Failed { program, name } in &tests {
        println!("=== {name} failed, and runs again alone");
        let mut again = cargo();
        again.args(["test", "--workspace"]).args(program).args(["--", "--exact", name]);
        prepare(&mut again);
        ensure!(again.status().context("starting cargo")?.success(), "{name} failed twice");
    }
    for Failed { program, name } in &tests {
        println!("*** unstable: {name} ({}) failed, and passed when it ran again", program.join(" "));
    }
    Ok(())
}

/// Runs all tests and reads what they print while passing it on.
fn all(arguments: &[&str], prepare: &dyn Fn(&mut Command)) -> anyhow::Result<(bool, Failures)> {
    let (reader, writer) = io::pipe().context("making a pipe")?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]).args(arguments);
    prepare(&mut tests);
    tests.stdout(writer.try_clone().context("sharing a pipe")?).stderr(writer);
    let mut running = tests.spawn().context("starting cargo")?;
    // It holds the ends of the pipe for writing.
    drop(tests);
    let (mut failures, mut out) = (Failures::default(), io::stdout());
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("reading what the tests print")?;
        out.write_all(&line).and_then(|()| out.write_all(b"\n")).context("printing")?;
        failures.read(&String::from_utf8_lossy(&line));
    }
    Ok((running.wait().context("waiting for cargo")?.success(), failures))
}

impl Failures {
    /// Reads a line that cargo or a test program has printed.
    fn read(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(program) = line.trim_start().strip_prefix("Running ") {
            self.begin(selected(program));
        } else if line.trim_start().starts_with("Doc-tests ") {
            self.begin(None);
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.here += 1;
            match &self.program {
                Some(program) => self.tests.push(Failed { program: program.clone(), name: name.to_owned() }),
                None => self.others = true,
            }
        } else if line.starts_with("error: test failed") || line.starts_with("error: doctest failed") {
            // A program that crashed has named no test.
            self.others |= self.here == 0;
        } else if line.starts_with("error: could not compile") {
            self.others = true;
        }
    }

    fn begin(&mut self, program: Option<Vec<String>>) {
        (self.program, self.here) = (program, 0);
    }
}

/// The option that selects the program of a line such as `tests/gateway/main.rs (target/debug/deps/gateway-0a1b)`.
fn selected(program: &str) -> Option<Vec<String>> {
    let (source, path) = program.split_once(" (")?;
    match source {
        "unittests src/lib.rs" => Some(vec!["--lib".to_owned()]),
        _ if source.starts_with("tests/") => {
            let file = path.trim_end_matches(')').rsplit('/').next()?;
            let (name, _) = file.rsplit_once('-')?;
            Some(vec!["--test".to_owned(), name.to_owned()])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Failures {
        let mut failures = Failures::default();
        text.lines().for_each(|line| failures.read(line));
        failures
    }

    #[test]
    fn failed_tests_are_found_with_their_programs() {
        let read = read(
            "     Running unittests src/lib.rs (target/debug/deps/portcullis_mcp-75f9)\n\
             test guard::tests::one ... ok\n\
             test guard::tests::two ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed\n\
             error: test failed, to rerun pass `-p portcullis-mcp --lib`\n\
             \x20    Running tests/control_plane/main.rs (target/debug/deps/control_plane-75f9)\n\
             test limits::three ... FAILED\n\
             error: test failed, to rerun pass `-p portcullis-e2e --test control_plane`\n",
        );
        let failed = |program: &[&str], name: &str| Failed {
            program: program.iter().map(|part| (*part).to_owned()).collect(),
            name: name.into(),
        };
        let expected = [failed(&["--lib"], "guard::tests::two"), failed(&["--test", "control_plane"], "limits::three")];
        assert_eq!((read.tests, read.others), (expected.to_vec(), false));
    }

    #[test]
    fn what_is_no_failed_test_is_not_looked_at_again() {
        for text in [
            "Running tests/kit/main.rs (target/kit-1)\ntest a ... ok\nerror: test failed, to rerun pass `--test kit`",
            "Running unittests src/main.rs (target/xtask-1)\ntest a ... FAILED",
            "Doc-tests portcullis_mcp\ntest mcp/src/lib.rs - (line 3) ... FAILED",
            "error: could not compile `portcullis-mcp` (lib test) due to 1 previous error",
        ] {
            assert!(read(text).others, "{text}");
        }
        assert_eq!(read("test says FAILED ... ok\nerror: something").tests, []);
    }
}
